"""Which tokens a masked language model predicts, and what stands in their places meanwhile.

Shapes: R rows, T row length, P predicted places of a row, G groups of a row (words, spans), V vocabulary.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from garden.tokenizers import Tokenizer

WORD_MARKS = {"##": "inside", "Ġ": "begins", "▁": "begins"}
"""How vocabularies mark words: WordPiece the tokens inside of one, byte-level BPE and SentencePiece those that begin one."""


def mask_tokens(
    token_ids: tf.Tensor,
    maskable: tf.Tensor,
    seed: tf.Tensor,
    *,
    rate: float,
    mask_id: int,
    vocabulary_size: int,
    shares: tuple[float, float] = (0.8, 0.1),
    overhead: int = 0,
) -> dict[str, tf.Tensor]:
    """Chooses tokens to predict and hides them, as BERT does: 80 % masked, 10 % replaced at random, 10 % kept.

    Args:
        token_ids, maskable: [R,T] int32 and bool.
        seed: [2] int32; the same seed chooses the same.
        rate, overhead: see `predicted_places`. shares: see `hide`.

    Returns:
        as `hide`.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    positions, counted = predicted_places(maskable, seeds[0], rate=rate, overhead=overhead)
    return hide(
        token_ids, positions, counted, seeds[1], mask_id=mask_id, vocabulary_size=vocabulary_size, shares=shares
    )


def predicted_places(
    maskable: tf.Tensor,
    seed: tf.Tensor,
    *,
    rate: float,
    overhead: int = 0,
    groups: tf.Tensor | None = None,
    whole: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns places to predict [R,P] int32, and which of them count [R,P] bool: those come first.

    round(rate * maskable tokens) count in each row, at least one where there is one; P is as many as a row may have.

    Args:
        maskable: [R,T] bool.
        rate: share of each row's maskable tokens to choose.
        overhead: places of a full row that are never maskable: its special tokens, at least.
        groups: [R,T] int32, the same number for tokens that are chosen together, ascending from 0 to T - 1. Groups are
            chosen in random order; default: each token for itself.
        whole: leave out groups that are larger than what is still to be chosen, as BERT does with words; a row may then have
            fewer places that count. Otherwise the last group is cut off, as SpanBERT does with spans.
    """
    shape = tf.shape(maskable)
    possible = tf.reduce_sum(tf.cast(maskable, tf.int32), axis=1)
    most = _most(maskable, rate, overhead)
    wanted = tf.minimum(tf.minimum(_share(possible, rate), possible), most)
    draws = tf.random.stateless_uniform(shape, seed)
    if groups is not None:
        draws = tf.gather(draws, groups, batch_dims=1)
    # The places with the highest random numbers; those that may not be masked rank below all others. Of equals the first is
    # first, so that a group stays in order.
    if groups is None or not whole:
        positions = tf.math.top_k(tf.where(maskable, draws, -1.0), most).indices
        return positions, tf.range(most) < wanted[:, None]
    chosen = _whole_groups(tf.where(maskable, draws, -1.0), maskable, groups, wanted)
    counted, positions = tf.math.top_k(tf.cast(chosen, tf.int32), most)
    return positions, counted > 0


def hide(
    token_ids: tf.Tensor,
    positions: tf.Tensor,
    counted: tf.Tensor,
    seed: tf.Tensor,
    *,
    mask_id: int,
    vocabulary_size: int,
    shares: tuple[float, float] = (0.8, 0.1),
    groups: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Puts masks and random tokens in the places that are to be predicted.

    Random tokens come from the whole vocabulary, special tokens included, as in BERT's own code.

    Args:
        token_ids: [R,T] int32. positions, counted: [R,P], see `predicted_places`.
        seed: [2] int32.
        shares: shares of places that get the mask, and a random token; the rest keep what they have.
        groups: [R,T] int32; the tokens of a group share their fate, as SpanBERT's spans do. Default: each has its own.

    Returns:
        `token_ids` [R,T]; `mask_positions`, `mask_ids` [R,P] int32 and `mask_weights` [R,P] float32, 0 where a row has fewer.
    """
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    originals = tf.gather(token_ids, positions, batch_dims=1)
    if groups is None:
        fate = tf.random.stateless_uniform(tf.shape(positions), seeds[0])
    else:
        of_group = tf.random.stateless_uniform(tf.shape(token_ids), seeds[0])
        fate = tf.gather(of_group, tf.gather(groups, positions, batch_dims=1), batch_dims=1)
    randoms = tf.random.stateless_uniform(tf.shape(positions), seeds[1], 0, vocabulary_size, tf.int32)
    hidden = tf.where(fate < shares[0], mask_id, tf.where(fate < sum(shares), randoms, originals))
    hidden = tf.where(counted, hidden, originals)
    rows = tf.broadcast_to(tf.range(tf.shape(token_ids)[0])[:, None], tf.shape(positions))
    return {
        "token_ids": tf.tensor_scatter_nd_update(token_ids, tf.stack([rows, positions], axis=-1), hidden),
        "mask_positions": positions,
        "mask_ids": originals,
        "mask_weights": tf.cast(counted, tf.float32),
    }


def is_special(tokenizer: Tokenizer) -> np.ndarray:
    """Returns which tokens of a vocabulary are special: [V] bool."""
    table = np.zeros(tokenizer.vocabulary_size, bool)
    table[list(tokenizer.special_ids)] = True
    return table


def begins_word(tokenizer: Tokenizer) -> np.ndarray:
    """Returns which tokens of a vocabulary begin a word: [V] bool.

    Read off the vocabulary's spelling: "##" of WordPiece, "Ġ" (and line breaks, "Ċ") of byte-level BPE, "▁" of SentencePiece,
    whichever most tokens have. In a vocabulary without any of them each token is a word.
    """
    tokens = tokenizer.vocabulary
    counts = {mark: sum(token.startswith(mark) for token in tokens) for mark in WORD_MARKS}
    mark = max(counts, key=counts.get)
    if not counts[mark]:
        return np.ones(len(tokens), bool)
    if WORD_MARKS[mark] == "inside":
        return np.array([not token.startswith(mark) for token in tokens])
    marks = ("Ġ", "Ċ", "ĉ") if mark == "Ġ" else (mark,)
    added = {token.content for token in tokenizer.added_tokens}
    return np.array([token.startswith(marks) or token in added for token in tokens])


def numbered(starts: tf.Tensor) -> tf.Tensor:
    """Returns the number of each place's group from where groups start: [R,T] bool -> [R,T] int32, 0 before the first."""
    return tf.maximum(tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1, 0)


def _share(count: tf.Tensor | int, rate: float):
    """Returns round(rate * count), but at least 1. In double precision, where tensors and numbers round alike."""
    if isinstance(count, int):
        return max(round(rate * count), 1)
    return tf.maximum(tf.cast(tf.round(rate * tf.cast(count, tf.float64)), tf.int32), 1)


def _most(maskable: tf.Tensor, rate: float, overhead: int) -> int | tf.Tensor:
    """Returns P, a number where T is known."""
    length = maskable.shape[1]
    if length is not None:
        return min(_share(max(length - overhead, 0), rate), length)
    length = tf.shape(maskable)[1]
    return tf.minimum(_share(tf.maximum(length - overhead, 0), rate), length)


def _whole_groups(draws: tf.Tensor, maskable: tf.Tensor, groups: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Returns which tokens are chosen [R,T] bool: groups in the order of their draws, but those that no longer fit."""
    shape = tf.shape(maskable)
    of_row = groups + tf.range(shape[0])[:, None] * shape[1]
    flat = tf.reshape(of_row, [-1])

    def by_group(values: tf.Tensor, gathered) -> tf.Tensor:
        return tf.reshape(gathered(tf.reshape(values, [-1]), flat, shape[0] * shape[1]), shape)

    sizes = by_group(tf.cast(maskable, tf.int32), tf.math.unsorted_segment_sum)
    order = tf.argsort(by_group(draws, tf.math.unsorted_segment_max), axis=1, direction="DESCENDING", stable=True)
    sizes = tf.gather(sizes, order, batch_dims=1)

    def fit(taken: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
        return ~taken & (sizes > 0) & (sizes <= left[:, None])

    # Each turn takes what comes before the first group that does not fit; what did not fit once never will.
    def take(taken: tf.Tensor, left: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tried = tf.where(fit(taken, left), sizes, 0)
        now = (tried > 0) & (tf.cumsum(tried, axis=1) <= left[:, None])
        return taken | now, left - tf.reduce_sum(tf.where(now, sizes, 0), axis=1)

    taken, _ = tf.while_loop(
        lambda taken, left: tf.reduce_any(fit(taken, left)), take, (tf.zeros_like(sizes, tf.bool), wanted)
    )
    rank = tf.argsort(order, axis=1)
    return maskable & tf.gather(tf.gather(taken, rank, batch_dims=1), groups, batch_dims=1)
