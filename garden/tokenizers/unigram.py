"""Unigram (SentencePiece's default) as a graph of core TensorFlow ops, exact against Hugging Face `tokenizers`.

Each word is split into the tokens whose scores, logarithms of probabilities, have the greatest sum. The reference adds
scores up in double precision from the word's beginning, and of equal sums keeps the one whose last token is longest;
many sums are equal but for rounding, so this graph adds in the same order. A trie finds every token at every place; the
best sums then come character by character, for all words at once, in blocks of unrolled steps of three operations, so
that a word of a megabyte takes seconds; the tokens on the best path are found in all places at once by doubling jumps.
https://arxiv.org/abs/1804.10959

Letters: N symbols, W words, A words that go on, L the longest token's characters, M matches, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import SCALARS, CodePointTable, encode_points
from garden.tokenizers.text import repeat
from garden.tokenizers.trie import Trie
from garden.tokenizers.words import WordPieces, Words

_PENALTY = 10.0  # an unknown character scores so much below the least token, as in the reference
_FIRST_BLOCK, _BLOCK = 8, 16  # most words are shorter than the first block


class UnigramModel:
    """Splits words into the likeliest tokens.

    vocabulary: tokens and their scores, in id order. unk_id: the token for characters that are in no token; several in
        a row are one.
    byte_fallback: tokens <0x00> to <0xFF> stand for the bytes of such characters.
    where: the file, for errors.
    """

    def __init__(
        self,
        vocabulary: Sequence[tuple[str, float]],
        unk_id: int,
        *,
        byte_fallback: bool = False,
        where: str = "tokenizer.json",
    ):
        ids = {token: index for index, (token, _) in enumerate(vocabulary)}  # of equal tokens the last one counts
        tokens = [token for token in ids if token]
        alphabet = np.unique(np.concatenate([encode_points(token) for token in tokens]))
        code_of = np.zeros(SCALARS, np.int32)
        code_of[alphabet] = np.arange(1, len(alphabet) + 1)
        scores = np.array([score for _, score in vocabulary], np.float64)
        lengths = [len(token) for token in tokens]
        self._longest = max(lengths)
        self._trie = Trie([code_of[encode_points(token)] for token in tokens], len(alphabet) + 1)
        self._codes = CodePointTable(code_of)
        self._unk_id = unk_id
        self._unk_score = float(scores.min()) - _PENALTY
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        self._byte_ids = None
        with tf.init_scope(), tf.device("CPU:0"):
            self._ids = tf.constant([unk_id, *(ids[token] for token in tokens)], tf.int32)
            self._lengths = tf.constant([1, *lengths], tf.int32)
            self._scores = tf.constant([self._unk_score, *(scores[ids[token]] for token in tokens)], tf.float64)
            if byte_fallback:
                self._byte_ids = tf.constant([ids.get(name, -1) for name in names], tf.int32)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], *, where: str = "tokenizer.json") -> UnigramModel:
        """The model section of tokenizer.json; ValueError names what is not supported or wrong.

        Scores in lists are taken for read from the file, where the reference reads some with their last bit off;
        those in tuples are as given.
        """
        known = ("type", "vocab", "unk_id", "byte_fallback")
        unknown = [name for name in spec if name not in known]
        if unknown:
            raise ValueError(
                f'{where}: model option "{unknown[0]}" = {spec[unknown[0]]!r:.40} is not supported; '
                f"known: {', '.join(known)}"
            )
        vocabulary, unk_id = spec.get("vocab"), spec.get("unk_id")
        if not isinstance(vocabulary, list) or not vocabulary:
            raise ValueError(f"{where}: model.vocab: expected a list of tokens and scores")
        for index, entry in enumerate(vocabulary):
            fits = isinstance(entry, (list, tuple)) and len(entry) == 2
            if not (fits and isinstance(entry[0], str) and isinstance(entry[1], (int, float))):
                raise ValueError(f"{where}: model.vocab: {index}: expected a token and a score, got {entry!r:.60}")
        if not isinstance(unk_id, int) or not 0 <= unk_id < len(vocabulary):
            raise ValueError(
                f"{where}: model.unk_id = {unk_id!r} is not supported; expected the id of a token, "
                f"0 to {len(vocabulary) - 1}"
            )
        vocabulary = [
            (entry[0], entry[1] if isinstance(entry, tuple) else _as_the_reference_reads(entry[1]))
            for entry in vocabulary
        ]
        return cls(vocabulary, unk_id, byte_fallback=bool(spec.get("byte_fallback", False)), where=where)

    # ---- Graph ---------------------------------------------------------------------------------------------------

    def __call__(self, words: Words) -> WordPieces:
        """The pieces of all words."""
        start_W, end_W = tf.cast(words.splits[:-1], tf.int32), tf.cast(words.splits[1:], tf.int32)
        word_N = repeat(end_W - start_W)
        at_M, match_M = self._matches(self._codes(words.symbols), word_N, tf.size(start_W))
        last_M = at_M + tf.gather(self._lengths, match_M) - 1
        best_N = self._best_sums(start_W, end_W, word_N, at_M, match_M)

        # On the best path to each place, the last token: of equal ones the longest.
        begins_M = tf.equal(at_M, tf.gather(start_W, tf.gather(word_N, at_M)))
        before_M = tf.where(begins_M, tf.zeros([], tf.float64), tf.gather(best_N, tf.maximum(at_M - 1, 0)))
        optimal = tf.where(tf.equal(before_M + tf.gather(self._scores, match_M), tf.gather(best_N, last_M)))[:, 0]
        at_M, match_M, last_M = (tf.gather(values, optimal) for values in (at_M, match_M, last_M))
        first_N = tf.tensor_scatter_nd_min(tf.range(tf.size(word_N)), last_M[:, None], at_M)
        chosen = tf.where(tf.equal(tf.gather(first_N, last_M), at_M))[:, 0]
        match_N = tf.scatter_nd(tf.gather(last_M, chosen)[:, None], tf.gather(match_M, chosen), tf.shape(word_N))
        last_P = self._path(first_N, start_W, end_W, word_N)
        return self._pieces(words, word_N, tf.gather(first_N, last_P), last_P, tf.gather(match_N, last_P))

    def _matches(self, code_N, word_N, words):
        """Every token at every place, and the unknown one (0) where no single character is a token: place and token."""
        count = tf.size(code_N)
        spread_N = tf.range(count) + word_N  # with a 0 after each word, so that no token reaches beyond it
        marked = tf.scatter_nd(spread_N[:, None], code_N, [count + words + 1])
        at_M, match_M = self._trie.every(marked, spread_N)
        single = tf.where(tf.equal(tf.gather(self._lengths, match_M), 1))[:, 0]
        known_N = tf.tensor_scatter_nd_update(
            tf.zeros_like(code_N, tf.bool),
            tf.gather(at_M, single)[:, None],
            tf.ones_like(single, tf.bool),
        )
        strange = tf.cast(tf.where(~known_N)[:, 0], tf.int32)
        return tf.concat([at_M, strange], axis=0), tf.concat([match_M, tf.zeros_like(strange)], axis=0)

    def _best_sums(self, start_W, end_W, word_N, at_M, match_M):
        """The greatest sum of scores from the beginning of its word to the end of each symbol, [N] float64."""
        # Words lie side by side, longest first, and their characters in blocks: [blocks, steps, lengths, words that go on].
        length_W = end_W - start_W
        order_W = tf.argsort(-length_W, stable=True)
        rank_W = tf.math.invert_permutation(order_W)
        descending_W = tf.gather(length_W, order_W)
        longest = tf.reduce_max(tf.concat([length_W, [0]], axis=0))
        later = tf.maximum(longest - _FIRST_BLOCK + _BLOCK - 1, 0) // _BLOCK
        begin_B = tf.concat([[0], _FIRST_BLOCK + _BLOCK * tf.range(later)], axis=0)
        # Words longer than what lies before a block go on in it.
        going_B = tf.searchsorted(-descending_W, -begin_B, side="left", out_type=tf.int32)
        steps_B = tf.concat([[_FIRST_BLOCK], tf.fill([later], _BLOCK)], axis=0)
        cells_B = tf.cumsum(steps_B * going_B, exclusive=True)
        cells = tf.reduce_sum(steps_B * going_B)

        def cell_of(symbol):
            """Where a symbol's sum lies, and how many words lie beside it."""
            word = tf.gather(word_N, symbol)
            place = symbol - tf.gather(start_W, word)
            block = tf.maximum(place - _FIRST_BLOCK + _BLOCK, 0) // _BLOCK
            step, going = place - tf.gather(begin_B, block), tf.gather(going_B, block)
            return tf.gather(cells_B, block), step, going, tf.gather(rank_W, word)

        length_M = tf.gather(self._lengths, match_M)
        first_M, step_M, going_M, rank_M = (tf.cast(v, tf.int64) for v in cell_of(at_M + length_M - 1))
        index_M = (first_M + step_M * going_M) * self._longest + (tf.cast(length_M, tf.int64) - 1) * going_M + rank_M
        size = tf.cast(cells, tf.int64) * self._longest
        scores = tf.tensor_scatter_nd_update(
            tf.fill([size], tf.constant(-np.inf, tf.float64)), index_M[:, None], tf.gather(self._scores, match_M)
        )

        def steps(count, block, history):
            """The sums after each of a block's steps, given those of the steps before: lists of [A]."""
            going, begin = tf.gather(going_B, block), tf.cast(tf.gather(cells_B, block), tf.int64) * self._longest
            shape = tf.stack([count, self._longest, going])
            of_step = tf.unstack(
                tf.reshape(
                    tf.slice(scores, [begin], [tf.cast(tf.reduce_prod(shape), tf.int64)]), [count, self._longest, going]
                )
            )
            for score in of_step:
                recent = history[: -self._longest - 1 : -1]
                if len(recent) < self._longest:
                    score = score[: len(recent)]
                history = [*history, tf.reduce_max(tf.stack(recent) + score, axis=0)]
            return history

        def rest(block, window, sums):
            window = window[:, : tf.gather(going_B, block)]
            history = steps(_BLOCK, block, tf.unstack(window, num=self._longest))
            sums = sums.write(block, tf.reshape(tf.stack(history[self._longest :]), [-1]))
            return block + 1, tf.stack(history[-self._longest :]), sums

        beginning = tf.zeros([going_B[0]], tf.float64)
        history = steps(_FIRST_BLOCK, 0, [beginning])
        sums = tf.TensorArray(tf.float64, later + 1, infer_shape=False, element_shape=[None])
        sums = sums.write(0, tf.reshape(tf.stack(history[1:]), [-1]))
        before = [tf.fill(tf.shape(beginning), tf.constant(-np.inf, tf.float64))] * max(self._longest - len(history), 0)
        *_, sums = tf.while_loop(
            lambda block, *_: block <= later,
            rest,
            (tf.constant(1), tf.stack([*before, *history][-self._longest :]), sums),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([self._longest, None]), None),
        )
        first_N, step_N, going_N, rank_N = cell_of(tf.range(tf.size(word_N)))
        return tf.gather(sums.concat(), first_N + step_N * going_N + rank_N)

    def _path(self, first_N, start_W, end_W, word_N):
        """The last symbols of the tokens on each word's best path, [P] int32 ascending."""
        count = tf.size(first_N)
        none = count  # where a jump ends that leaves its word
        begins_N = tf.equal(first_N, tf.gather(start_W, word_N))
        jump = tf.concat([tf.where(begins_N, none, first_N - 1), [none]], axis=0)
        ends = tf.boolean_mask(end_W, end_W > start_W) - 1
        reached = tf.scatter_nd(ends[:, None], tf.ones_like(ends), [count + 1]) > 0

        def double(jump, reached, _):
            to = tf.gather(jump, tf.where(reached)[:, 0])
            reached = tf.tensor_scatter_nd_update(reached, to[:, None], tf.ones_like(to, tf.bool))
            jump = tf.gather(jump, jump)
            return jump, reached, tf.reduce_any(jump < none)

        _, reached, _ = tf.while_loop(lambda *state: state[-1], double, (jump, reached, tf.reduce_any(jump < none)))
        return tf.cast(tf.where(reached[:count])[:, 0], tf.int32)

    def _pieces(self, words, word_N, first_P, last_P, match_P) -> WordPieces:
        """Unknown tokens in a row become one, or bytes."""
        ids, starts, ends = tf.gather(self._ids, match_P), first_P, last_P + 1
        row = tf.gather(word_N, last_P)
        unknown = tf.equal(ids, self._unk_id)

        def fuse():
            joins = unknown[1:] & unknown[:-1] & tf.equal(row[1:], row[:-1])
            begins = tf.where(tf.concat([[True], ~joins], axis=0))[:, 0]
            stops = tf.where(tf.concat([~joins, [True]], axis=0))[:, 0]
            fused = (tf.gather(ids, begins), tf.gather(starts, begins), tf.gather(ends, stops), tf.gather(row, begins))
            if self._byte_ids is None:
                return fused
            # A written unknown token is itself, bytes are for what is no token.
            strange = tf.equal(tf.gather(match_P, begins), 0) | (stops > begins)
            return self._as_bytes(words.symbols, *fused, tf.equal(fused[0], self._unk_id) & strange)

        ids, starts, ends, row = tf.cond(tf.reduce_any(unknown), fuse, lambda: (ids, starts, ends, row))
        count = tf.size(words.splits, tf.int32) - 1
        splits = tf.searchsorted(row, tf.range(count + 1), side="left", out_type=tf.int64)
        return WordPieces(ids, splits, starts, ends)

    def _as_bytes(self, symbols_N, ids, starts, ends, row, strange):
        """Pieces with the strange ones spelled by the bytes of their symbols, if there is a token for each."""
        points = tf.where(symbols_N < SCALARS, symbols_N, 0)
        size_N = 1 + sum(tf.cast(points >= limit, tf.int32) for limit in (0x80, 0x800, 0x10000))
        symbol = repeat(size_N)
        first_N = tf.cumsum(size_N, exclusive=True)
        nth = tf.range(tf.size(symbol)) - tf.gather(first_N, symbol)
        size, point = tf.gather(size_N, symbol), tf.gather(points, symbol)
        bits = tf.bitwise.right_shift(point, 6 * (size - 1 - nth))
        lead = tf.gather(tf.constant([0, 0, 0xC0, 0xE0, 0xF0], tf.int32), size)
        bytes_ = tf.where(nth > 0, 0x80 + tf.bitwise.bitwise_and(bits, 0x3F), lead + bits)
        byte_ids = tf.gather(self._byte_ids, bytes_)
        bounds = tf.concat([first_N, tf.shape(symbol)], axis=0)
        begin, stop = tf.gather(bounds, starts), tf.gather(bounds, ends)
        lacking = tf.concat([[0], tf.cumsum(tf.cast(byte_ids < 0, tf.int32))], axis=0)
        strange &= tf.equal(tf.gather(lacking, begin), tf.gather(lacking, stop))
        count = tf.where(strange, stop - begin, 1)
        source = repeat(count)
        nth = tf.range(tf.size(source)) - tf.gather(tf.cumsum(count, exclusive=True), source)
        spelled = tf.gather(byte_ids, tf.where(tf.gather(strange, source), tf.gather(begin, source) + nth, 0))
        ids, starts, ends, row = (tf.gather(values, source) for values in (ids, starts, ends, row))
        return tf.where(tf.gather(strange, source), spelled, ids), starts, ends, row


def _as_the_reference_reads(number: float) -> float:
    """A number as serde_json parses its shortest spelling: digits as one integer, then times or by a power of ten."""
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    value = float(int("".join(map(str, digits))))
    value = value * 10.0**exponent if exponent >= 0 else value / 10.0**-exponent
    return -value if sign else value
