"""Texts of any length in windows that a network can read, and the characters that their tokens stand for.

Shapes: E texts, W windows, (L) ragged numbers of tokens, N tokens of all texts in all, A characters of a text.
"""

from typing import NamedTuple

import tensorflow as tf

from garden.tokenizers import Tokenizer
from garden.tokenizers.template import Pieces, apply_template


class Windows(NamedTuple):
    """Windows of a batch of texts, and the texts' tokens, which they share."""

    token_ids: tf.RaggedTensor  # [W,(L)] int32, special tokens included
    type_ids: tf.RaggedTensor  # [W,(L)] int32
    token: (
        tf.RaggedTensor
    )  # [W,(L)] int32: which of the N tokens it is; -1: a special token, or of the first text of a pair
    owned: (
        tf.RaggedTensor
    )  # [W,(L)] bool: each of the N tokens once, in the window that shows most of what is around it
    text: tf.Tensor  # [W] int32: whose window it is
    starts: tf.RaggedTensor  # [E,(L)] int32: characters of the N tokens
    ends: tf.RaggedTensor  # [E,(L)] int32


def windows(
    tokenizer: Tokenizer, texts: tf.Tensor, pairs: tf.Tensor | None, *, length: int | None, overlap: int
) -> Windows:
    """Cuts texts into windows, in the graph; of pairs the second text, each window with the whole first one before it.

    A first text that takes more than half of a window is cut off.

    Args:
        texts, pairs: [E] string.
        length: tokens of a window at most, special tokens included; None: no limit.
        overlap: tokens that a window shares with the next, less where half a window is less.
    """
    parts = tokenizer.template.parts(pairs is not None, True)
    special = sum(len(part.ids) for part in parts)
    cut = tokenizer.encode(texts if pairs is None else pairs, add_special_tokens=False)
    lengths = tf.cast(cut.token_ids.row_lengths(), tf.int64)
    limit = tf.constant(2**31 - 1 if length is None else max(length - special, 2), tf.int64)
    first = None
    if pairs is not None:
        first = tokenizer.encode(texts, add_special_tokens=False).token_ids
        first_lengths = tf.minimum(first.row_lengths(), limit // 2)
        first = tf.gather(first.values, tf.ragged.range(first.row_starts(), first.row_starts() + first_lengths))
        limit -= first_lengths
    limit = tf.broadcast_to(limit, tf.shape(lengths))
    shared = tf.minimum(tf.constant(overlap, tf.int64), limit // 2)
    step = limit - shared
    counts = tf.maximum((lengths - limit + step - 1) // step, 0) + 1

    text = tf.repeat(tf.range(tf.size(lengths)), counts)
    number = tf.cast(tf.ragged.range(counts).values, tf.int64)
    of = lambda values: tf.gather(values, text)
    begins = number * of(step)
    ends = tf.minimum(begins + of(limit), of(lengths))
    # Of what two windows share, the first owns the first half.
    own_begins = tf.where(number == 0, begins, begins + of(shared) // 2)
    own_ends = tf.where(number == of(counts) - 1, ends, begins + of(step) + of(shared) // 2)

    base = of(cut.token_ids.row_starts())
    token = tf.ragged.range(base + begins, base + ends)
    owned = (token.values >= tf.gather(base + own_begins, token.value_rowids())) & (
        token.values < tf.gather(base + own_ends, token.value_rowids())
    )
    # What belongs to a token takes its span's place in the template; special tokens have 0 there.
    number_of_token, owner = tf.cast(token.values, tf.int32) + 1, tf.cast(owned, tf.int32)
    ids, splits = tf.gather(cut.token_ids.values, token.values), token.row_splits
    if first is not None:
        firsts = tf.gather(first, text)
        nothing = tf.zeros_like(firsts.values)
        ids = tf.concat([firsts.values, ids], axis=0)
        number_of_token, owner = (tf.concat([nothing, x], axis=0) for x in (number_of_token, owner))
        splits = tf.concat([firsts.row_splits[:-1], firsts.row_splits[-1] + splits], axis=0)
    pieces = Pieces(ids, splits, number_of_token, owner)
    joined = apply_template(parts, pieces, pairs is not None, tf.constant(2**31 - 1, tf.int64), "longest_first")
    return Windows(
        token_ids=joined.token_ids,
        type_ids=joined.type_ids,
        token=joined.starts - 1,
        owned=joined.ends > 0,
        text=text,
        starts=cut.starts,
        ends=cut.ends,
    )


class Characters:
    """Kinds of characters of a batch of texts: where words begin, and where there is something to see.

    Words are runs of letters, digits and marks; every other character is one of its own, and so is every token in scripts
    that put nothing between words.
    """

    def __init__(self, texts: tf.Tensor):
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
        # One ASCII character for each: s for space, a for what makes up words, . for all else.
        kinds = tf.strings.regex_replace(texts, r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}]", ".")
        kinds = tf.strings.regex_replace(kinds, r"[\p{Myanmar}\p{Tibetan}]", ".")
        kinds = tf.strings.regex_replace(kinds, r"[\p{L}\p{N}\p{M}]", "a")
        kinds = tf.strings.regex_replace(kinds, r"[\s\p{Z}\x{85}\x0b\x1c-\x1f]", "s")
        kinds = tf.strings.regex_replace(kinds, r"[^as]", ".")
        kinds = tf.strings.bytes_split(kinds)
        self.begins = tf.cast(kinds.row_starts(), tf.int32)
        self.space = kinds.values == "s"
        self.in_word = kinds.values == "a"

    def begin_words(self, starts: tf.RaggedTensor, ends: tf.RaggedTensor) -> tf.Tensor:
        """Returns which tokens begin a word [N] bool, given their characters [E,(L)]."""
        text = starts.value_rowids()
        before = tf.concat([[0], ends.values[:-1]], axis=0)
        first = tf.concat([[True], text[1:] != text[:-1]], axis=0)[: tf.size(text)]
        before = before[: tf.size(text)]
        here = tf.gather(self.begins, text) + starts.values
        inside = self._at(self.in_word, here - 1) & self._at(self.in_word, here)
        # A token that is nothing but space belongs to the word behind it.
        joined = (starts.values < before) | ((starts.values == before) & (inside | self._at(self.space, here - 1)))
        return first | ~joined

    def visible(self, starts: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        """Returns the first characters from `starts` [M] on, in texts `text` [M], that are no space: [M] int32."""
        seen = tf.cast(tf.where(~self.space)[:, 0], tf.int32)
        begins = tf.gather(self.begins, text)
        place = tf.searchsorted(seen, begins + starts)
        return tf.gather(tf.concat([seen, [tf.size(self.space)]], axis=0), place) - begins

    def _at(self, values: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        padded = tf.concat([values, [False]], axis=0)
        count = tf.size(values)
        return tf.gather(padded, tf.where((places < 0) | (places > count), count, places))
