"""Added tokens: strings that stand for one token wherever they occur in a text, such as a literal [MASK].

Letters: N characters of all texts, M matches, S matches that count, R texts with matches left to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import Flag, character_data
from garden.tokenizers.text import FIRST_TOKEN, Table, Text, keep, split
from garden.tokenizers.trie import Trie

_WORD, _SPACE = 1 << 24, 1 << 25  # bits of TokenCutter's table, above the symbols


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is matched as it stands; fields and defaults as in `tokenizers.AddedToken`."""

    id: int
    content: str
    special: bool = False
    single_word: bool = False  # only where neither neighbour is part of a word
    lstrip: bool = False  # takes in the white space on its left
    rstrip: bool = False  # takes in the white space on its right
    normalized: bool = False  # matched in the normalised text, by its normalised content


class Matches(NamedTuple):
    """Where added tokens stand, in the order of the text."""

    starts: tf.Tensor  # [S] int32
    stops: tf.Tensor  # [S] int32
    tokens: tf.Tensor  # [S] int32, index into the matcher's tokens


class LiteralMatcher:
    """Finds added tokens in texts as the reference does: leftmost first, the longest of those, none overlapping.

    tokens: what to find. contents: the symbols of each token's content, 1 <= symbol < symbol_count.
    plain_special: special tokens are found, and hide what they overlap, but do not count.
    """

    def __init__(
        self, tokens: Sequence[AddedToken], contents: Sequence[np.ndarray], symbol_count: int, plain_special: bool
    ):
        # A symbol that begins a text is another symbol, so that no match reaches from one text into the next.
        first = [np.concatenate([content[:1] + symbol_count, content[1:]]) for content in contents]
        self._trie = Trie([*contents, *first], 2 * symbol_count)
        self._symbol_count = symbol_count
        begins = np.zeros(symbol_count, bool)
        begins[[content[0] for content in contents]] = True
        with tf.init_scope(), tf.device("CPU:0"):
            self._begins = tf.constant(begins)
            self._lengths = tf.constant([len(content) for content in contents], tf.int32)
            self._single_word = tf.constant([token.single_word for token in tokens])
            self._lstrip = tf.constant([token.lstrip for token in tokens])
            self._rstrip = tf.constant([token.rstrip for token in tokens])
            self._counts = tf.constant([not (token.special and plain_special) for token in tokens])
        self._strips = any(token.lstrip or token.rstrip for token in tokens)

    def begins(self, symbols_N: tf.Tensor) -> tf.Tensor:
        """Whether some token begins with each symbol, [N] bool."""
        return tf.gather(self._begins, symbols_N)

    def __call__(self, symbols_N: tf.Tensor, word_N: tf.Tensor, space_N: tf.Tensor, row_N: tf.Tensor) -> Matches:
        """Find the tokens. symbols_N: int32, 0 for characters of no token; word_N, space_N: bool; row_N: each
        character's text, int32, ascending."""
        count = tf.size(symbols_N)
        first_N = tf.concat([[True], tf.not_equal(row_N[1:], row_N[:-1])], axis=0)[:count]
        marked = tf.where(first_N, symbols_N + self._symbol_count, symbols_N)
        at_M = tf.cast(tf.where(self.begins(symbols_N))[:, 0], tf.int32)
        found_M = self._trie.longest(tf.concat([marked, [0]], axis=0), at_M)
        matched = tf.where(found_M > 0)[:, 0]
        at_M, token_M = (
            tf.gather(at_M, matched),
            tf.math.floormod(tf.gather(found_M, matched) - 1, tf.size(self._lengths)),
        )
        chosen = tf.where(self._leftmost(at_M, at_M + tf.gather(self._lengths, token_M), tf.gather(row_N, at_M)))[:, 0]
        start_S, token_S = tf.gather(at_M, chosen), tf.gather(token_M, chosen)
        stop_S = start_S + tf.gather(self._lengths, token_S)

        # The neighbours' classes, False beyond either end of the text.
        row_S = tf.gather(row_N, start_S)
        begin_S = tf.searchsorted(row_N, row_S, side="left")
        end_S = tf.searchsorted(row_N, row_S, side="right")
        padded = tf.concat([[False], word_N, [False]], axis=0)
        word_before = tf.gather(padded, start_S) & (start_S > begin_S)
        word_after = tf.gather(padded, stop_S + 1) & (stop_S < end_S)
        inside = tf.gather(self._single_word, token_S) & (word_before | word_after)
        kept = tf.where(tf.gather(self._counts, token_S) & ~inside)[:, 0]
        start_S, stop_S, token_S, begin_S, end_S = (
            tf.gather(values, kept) for values in (start_S, stop_S, token_S, begin_S, end_S)
        )
        if self._strips:
            ink = tf.concat([[-1], tf.cast(tf.where(~space_N)[:, 0], tf.int32), [count]], axis=0)
            before = tf.gather(ink, tf.searchsorted(ink, start_S) - 1) + 1
            after = tf.gather(ink, tf.searchsorted(ink, stop_S))
            stop_S = tf.where(tf.gather(self._rstrip, token_S), tf.minimum(after, end_S), stop_S)
            stripped = tf.maximum(tf.maximum(before, begin_S), tf.concat([[0], stop_S[:-1]], axis=0)[: tf.size(stop_S)])
            start_S = tf.where(tf.gather(self._lstrip, token_S), stripped, start_S)
        return Matches(start_S, stop_S, token_S)

    def _leftmost(self, at_M, stop_M, row_M):
        """Which matches count when each text is read from the left and overlaps are skipped, [M] bool."""
        count = tf.size(at_M)
        after_M = tf.searchsorted(at_M, stop_M, side="left")  # the first match that begins past this one
        padded_row = tf.concat([row_M, [-1]], axis=0)
        first = tf.where(tf.concat([[True], tf.not_equal(row_M[1:], row_M[:-1])], axis=0)[:count])[:, 0]

        def choose(at_R, chosen_M):
            chosen_M = tf.tensor_scatter_nd_update(chosen_M, at_R[:, None], tf.ones_like(at_R, tf.bool))
            next_R = tf.gather(after_M, at_R)
            same = tf.where(tf.equal(tf.gather(padded_row, next_R), tf.gather(row_M, at_R)))[:, 0]
            return tf.gather(next_R, same), chosen_M

        _, chosen_M = tf.while_loop(
            lambda at_R, _: tf.size(at_R) > 0,
            choose,
            (tf.cast(first, tf.int32), tf.zeros([count], tf.bool)),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([None])),
        )
        return chosen_M


def cover(values_N: tf.Tensor, matches: Matches, names: tf.Tensor, filler: int) -> tf.Tensor:
    """Put each match's name at its first character, and the filler at its others: [N] int32 -> [N] int32."""
    names_S = tf.gather(names, matches.tokens)
    ones_S = tf.ones_like(matches.starts)
    edges = tf.scatter_nd(
        tf.concat([matches.starts, matches.stops], axis=0)[:, None],
        tf.concat([ones_S, -ones_S], axis=0),
        tf.shape(values_N) + 1,
    )
    covered = tf.where(tf.cumsum(edges)[:-1] > 0, filler, values_N)
    return tf.tensor_scatter_nd_update(covered, matches.starts[:, None], names_S)


class TokenCutter:
    """Cuts texts at added tokens: each becomes a piece of one private code point.

    tokens, contents: what to find, and the code points that spell each. places: each token's number among all `total`
    added tokens. plain_special: as in LiteralMatcher.
    """

    def __init__(
        self,
        tokens: Sequence[AddedToken],
        contents: Sequence[np.ndarray],
        places: Sequence[int],
        total: int,
        plain_special: bool,
    ):
        flags = character_data().flags
        alphabet = np.unique(np.concatenate(contents))
        values = _WORD * ((flags & Flag.WORD) > 0).astype(np.int32) + _SPACE * ((flags & Flag.SPACE) > 0)
        values[alphabet] += np.arange(1, len(alphabet) + 1)
        self._table = Table(values, total)
        coded = [np.searchsorted(alphabet, content) + 1 for content in contents]
        self._matcher = LiteralMatcher(tokens, coded, len(alphabet) + 1, plain_special)
        self._tokens, self._contents = tokens, contents
        with tf.init_scope(), tf.device("CPU:0"):
            self._points = tf.constant([FIRST_TOKEN + place for place in places], tf.int32)

    def __call__(self, text: Text) -> Text:
        """Find the tokens in every piece."""
        entry_N = self._table(text.points)
        symbol_N = tf.bitwise.bitwise_and(entry_N, _WORD - 1)
        return Text(
            *tf.cond(
                tf.reduce_any(self._matcher.begins(symbol_N)), lambda: self._cut(text, entry_N, symbol_N), lambda: text
            )
        )

    def _cut(self, text: Text, entry_N: tf.Tensor, symbol_N: tf.Tensor) -> Text:
        bit = lambda mask: tf.bitwise.bitwise_and(entry_N, mask) > 0
        matches = self._matcher(symbol_N, bit(_WORD), bit(_SPACE), text.pieces)
        points_N = cover(text.points, matches, self._points, filler=-1)
        edges = tf.concat([matches.starts, matches.stops], axis=0)[:, None]
        cuts_N = tf.scatter_nd(edges, tf.ones_like(edges[:, 0]), tf.shape(points_N) + 1)[:-1] > 0
        if text.spans:
            starts_N, ends_N = text.spans
            ends_N = tf.tensor_scatter_nd_update(ends_N, matches.starts[:, None], tf.gather(ends_N, matches.stops - 1))
            text = text._replace(spans=(starts_N, ends_N))
        return keep(split(text, cuts_N)._replace(points=points_N), points_N >= 0)

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`: the characters before a space inside a token, or before one that a token takes in."""
        if after is None or any(
            token.single_word and content[0] == ord(" ")
            for token, content in zip(self._tokens, self._contents, strict=True)
        ):
            return None
        unsafe = after.copy()
        for token, content in zip(self._tokens, self._contents, strict=True):
            unsafe[content[:-1][content[1:] == ord(" ")]] = True
            if token.lstrip or token.rstrip:
                unsafe |= (character_data().flags & Flag.SPACE) > 0
            if token.rstrip:
                unsafe[content[-1]] = True
        return unsafe
