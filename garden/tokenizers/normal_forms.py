"""Unicode's normal forms, by the reference's tables. Only runs of characters that may change are looked at.

https://unicode.org/reports/tr15/. Characters are decomposed, their combining marks put in canonical order, and for NFC
and NFKC, pairs composed: in each round the first mark that composes with its starter, for all starters at once.

Letters: N characters, Q characters of runs that may change, D these decomposed, M characters after a step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import SCALARS, character_data, normal_forms
from garden.tokenizers.text import Table, Text, begins, repeat, take

# Hangul is composed by arithmetic: leading consonants, vowels, trailing consonants, and syllables.
_L, _V, _T, _S = 0x1100, 0x1161, 0x11A7, 0xAC00
_LS, _VS, _TS = 19, 21, 28


class _Run(NamedTuple):
    """Characters of the runs that may change, on their way."""

    points: tf.Tensor  # [D] int32
    consumed: tf.Tensor  # [D] int32: how many characters of the source each replaces
    windows: tf.Tensor  # [D] int32, ascending: the run


class NormalForm:
    """NFD, or NFKD if `compatible`, or NFC or NFKC if `composed`. tokens: the number of added tokens."""

    def __init__(self, *, compatible: bool, composed: bool, tokens: int):
        data, forms = character_data(), normal_forms()
        strings = strings_of(forms.canonical)
        if compatible:
            strings.update(strings_of(forms.compatible))
        composite = forms.pairs[:, 2]
        changes = np.zeros(SCALARS, bool)
        changes[list(strings)] = True
        if composed:
            # A composite stays unless a mark follows; but a compatible decomposition is for ever.
            compatible_keys = forms.compatible[0] if compatible else []
            changes[np.setdiff1d(composite, compatible_keys)] = False
            changes[forms.pairs[:, 1]] = True
            changes[_V : _V + _VS] = changes[_T + 1 : _T + _TS] = True
        else:
            for point in range(_S, _S + _LS * _VS * _TS):
                strings[point] = _jamo(point)
                changes[point] = True
        changes |= data.combining > 0
        self._changes = Table(changes, tokens)
        index = np.zeros(SCALARS, np.int32)
        index[list(strings)] = np.arange(1, len(strings) + 1)
        self._index = Table(index, tokens)
        self._strings, self._composites_of = strings, forms.pairs if composed else forms.pairs[:0]
        self._ranks = Table(data.combining, tokens)
        lengths = np.array([1, *map(len, strings.values())], np.int32)
        self._composed = composed
        if composed:
            firsts, seconds = np.unique(forms.pairs[:, 0]), np.unique(forms.pairs[:, 1])
            self._width = len(seconds) + 1
            self._first, self._second = _numbered(firsts, tokens), _numbered(seconds, tokens)
            keys = (np.searchsorted(firsts, forms.pairs[:, 0]) + 1) * self._width
            keys += np.searchsorted(seconds, forms.pairs[:, 1]) + 1
            order = np.argsort(keys)
            keys, composite = keys[order], composite[order]
        with tf.init_scope(), tf.device("CPU:0"):
            self._lengths, self._starts = tf.constant(lengths), tf.constant(np.cumsum(lengths) - lengths, tf.int32)
            flat = [0, *(point for string in strings.values() for point in string)]
            self._flat = tf.constant(flat, tf.int32)
            if composed:
                self._keys, self._composites = tf.constant(keys, tf.int32), tf.constant(composite, tf.int32)

    def __call__(self, text: Text) -> Text:
        """All pieces, each by itself, in the normal form."""
        changes_N = self._changes(text.points) > 0
        return Text(*tf.cond(tf.reduce_any(changes_N), lambda: self._normalize(text, changes_N), lambda: text))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`. A space composes with nothing, and no mark changes places with it."""
        made = self._composites_of[:, 2]
        if after is None or after[made].any():
            return None
        marks = character_data().combining > 0  # which change places
        unsafe = after | marks if after[marks].any() else after.copy()
        unsafe[[point for point, string in self._strings.items() if unsafe[list(string)].any()]] = True
        return unsafe

    def _normalize(self, text: Text, changes_N: tf.Tensor) -> Text:
        begins_N = begins(text)
        # A run is a character that does not change by itself, and those after it that do.
        inside_N = changes_N | tf.concat([changes_N[1:] & ~begins_N[1:], [False]], axis=0)
        opens_N = inside_N & (begins_N | ~changes_N)
        window_N = tf.cumsum(tf.cast(opens_N, tf.int32)) - 1
        places_Q = tf.where(inside_N)[:, 0]
        source = take(text, places_Q)
        run = self._decompose(source, tf.gather(window_N, places_Q))
        run = self._order(run)
        if self._composed:
            run = self._compose(run)

        # The run's characters take the places of those it had, all of them at its first one.
        made_W = tf.math.bincount(run.windows, minlength=tf.reduce_max(window_N) + 1)
        count_N = tf.where(inside_N, tf.where(opens_N, tf.gather(made_W, tf.maximum(window_N, 0)), 0), 1)
        source_M = repeat(count_N)
        wider = take(text, source_M)
        at = tf.where(tf.gather(inside_N, source_M))
        points_M = tf.tensor_scatter_nd_update(wider.points, at, run.points)
        if not text.spans:
            return wider._replace(points=points_M)
        before_D = tf.cumsum(run.consumed, exclusive=True) - tf.cast(tf.equal(run.consumed, 0), tf.int32)
        before_D = tf.maximum(before_D, 0)
        spans = (
            tf.tensor_scatter_nd_update(wide, at, tf.gather(values, before_D))
            for wide, values in zip(wider.spans, source.spans, strict=True)
        )
        return wider._replace(points=points_M, spans=tuple(spans))

    def _decompose(self, source: Text, window_Q: tf.Tensor) -> _Run:
        index_Q = self._index(source.points)
        count_Q = tf.gather(self._lengths, index_Q)
        from_D = repeat(count_Q)
        nth_D = tf.range(tf.size(from_D)) - tf.gather(tf.cumsum(count_Q, exclusive=True), from_D)
        index_D = tf.gather(index_Q, from_D)
        string_D = tf.gather(self._flat, tf.gather(self._starts, index_D) + nth_D)
        points_D = tf.where(index_D > 0, string_D, tf.gather(source.points, from_D))
        return _Run(points_D, tf.cast(tf.equal(nth_D, 0), tf.int32), tf.gather(window_Q, from_D))

    def _order(self, run: _Run) -> _Run:
        """Marks in the order of their classes, those of one class as they were."""
        rank_D = self._ranks(run.points)
        same_D = tf.equal(run.windows[1:], run.windows[:-1])

        def order():
            first_D = tf.concat([[True], ~same_D], axis=0) | tf.equal(rank_D, 0)
            key_D = tf.cumsum(tf.cast(first_D, tf.int64)) * 256 + tf.cast(rank_D, tf.int64)
            order_D = tf.argsort(key_D, stable=True)
            return tf.gather(run.points, order_D), tf.gather(run.consumed, order_D)

        wrong = tf.reduce_any(same_D & (rank_D[1:] > 0) & (rank_D[:-1] > rank_D[1:]))
        points_D, consumed_D = tf.cond(wrong, order, lambda: (run.points, run.consumed))
        return run._replace(points=points_D, consumed=consumed_D)

    def _compose(self, run: _Run) -> _Run:
        def round_(points_D, consumed_D, window_D, _):
            rank_D = self._ranks(points_D)
            here_D = tf.range(tf.size(points_D))
            starter_D = tf.equal(rank_D, 0)
            starters = tf.concat([[-1], tf.cast(tf.where(starter_D)[:, 0], tf.int32)], axis=0)
            starter_D = tf.gather(starters, tf.cumsum(tf.cast(starter_D, tf.int32), exclusive=True))
            into_D = tf.maximum(starter_D, 0)
            before_D = tf.concat([[0], rank_D[:-1]], axis=0)
            free_D = tf.equal(starter_D, here_D - 1) | ((before_D < rank_D) & (rank_D > 0))
            free_D &= (starter_D >= 0) & tf.equal(tf.gather(window_D, into_D), window_D)
            made_D = tf.where(free_D, self._composite(tf.gather(points_D, into_D), points_D), 0)
            found = tf.where(made_D > 0)[:, 0]
            into = tf.gather(into_D, found)
            first = tf.where(tf.concat([[True], tf.not_equal(into[1:], into[:-1])], axis=0)[: tf.size(into)])[:, 0]
            found, into = tf.gather(found, first), tf.gather(into, first)
            points_D = tf.tensor_scatter_nd_update(points_D, into[:, None], tf.gather(made_D, found))
            consumed_D = tf.tensor_scatter_nd_add(consumed_D, into[:, None], tf.gather(consumed_D, found))
            gone_D = tf.scatter_nd(found[:, None], tf.ones_like(found, tf.int32), tf.shape(points_D, tf.int64))
            kept = tf.where(tf.equal(gone_D, 0))[:, 0]
            return *(tf.gather(values, kept) for values in (points_D, consumed_D, window_D)), tf.size(found)

        any_length = tf.TensorShape([None])
        *values, _ = tf.while_loop(
            lambda *state: state[3] > 0,
            round_,
            (*run, tf.size(run.points)),
            shape_invariants=(any_length, any_length, any_length, tf.TensorShape([])),
        )
        return _Run(*values)

    def _composite(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """What two characters compose to, 0 for nothing."""
        key = self._first(first) * self._width + self._second(second)
        place = tf.minimum(tf.searchsorted(self._keys, key), len(self._keys) - 1)
        made = tf.where(tf.equal(tf.gather(self._keys, place), key), tf.gather(self._composites, place), 0)
        vowel = (first >= _L) & (first < _L + _LS) & (second >= _V) & (second < _V + _VS)
        made = tf.where(vowel, _S + ((first - _L) * _VS + second - _V) * _TS, made)
        open_ = (first >= _S) & (first < _S + _LS * _VS * _TS) & tf.equal(tf.math.floormod(first - _S, _TS), 0)
        return tf.where(open_ & (second > _T) & (second < _T + _TS), first + second - _T, made)


def strings_of(sparse) -> dict[int, tuple[int, ...]]:
    """A sparse mapping of `characters` as code point -> code points."""
    keys, lengths, values = sparse
    ends = np.cumsum(lengths)
    return {int(k): tuple(values[e - n : e].tolist()) for k, n, e in zip(keys, lengths, ends, strict=True)}


def _numbered(points: np.ndarray, tokens: int) -> Table:
    numbers = np.zeros(SCALARS, np.int32)
    numbers[points] = np.arange(1, len(points) + 1)
    return Table(numbers, tokens)


def _jamo(syllable: int) -> tuple[int, ...]:
    index, trailing = divmod(syllable - _S, _TS)
    leading = _L + index // _VS, _V + index % _VS
    return (*leading, _T + trailing) if trailing else leading
