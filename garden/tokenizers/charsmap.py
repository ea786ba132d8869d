"""SentencePiece's compiled normalisation (precompiled_charsmap): strings that become other strings.

The map is a trie of UTF-8 strings, a double array in the layout of darts-clone, and a pool of what they become. As in the
reference, a short grapheme cluster is replaced as a whole by whatever the shortest string that begins it becomes; else
its characters are, one by one.

Letters: N characters, M characters after the step.
"""

from __future__ import annotations

import struct

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import SCALARS, character_set, encode_points
from garden.tokenizers.text import Table, Text, begins, bounds, realign, repeat, take
from garden.tokenizers.trie import Trie

_LARGEST_CLUSTER = 5  # bytes; longer clusters are replaced character by character


def read_charsmap(data: bytes) -> dict[str, str]:
    """All strings of a map, and what they become; ValueError if the data are not such a map."""
    try:
        (size,) = struct.unpack_from("<I", data)
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
        pool = data[4 + size :]
    except (struct.error, ValueError):
        raise ValueError("tokenizer.json: normalizer Precompiled: precompiled_charsmap is cut short") from None
    strings: dict[str, str] = {}
    if not len(units):
        return strings
    offset = lambda unit: (unit >> 10) << ((unit & (1 << 9)) >> 6)
    level, keys = np.array([offset(units[0])]), [b""]
    letters = np.arange(1, 256, dtype=np.int32)
    labels = np.full(-(-len(units) // 256) * 256, -1, np.int16)  # children lie in blocks of 256
    labels[: len(units)] = np.where(units >> 31, -1, units & 0xFF)
    while len(keys):
        found = [(np.zeros(0, np.int64),) * 2]
        for begin in range(0, len(level), 4096):  # so many at once as a cache holds
            part = level[begin : begin + 4096].astype(np.int32)
            fits = part < len(labels)
            children = np.where(fits, part, 0)[:, None] ^ letters
            parent, letter = np.nonzero((labels[children] == letters) & fits[:, None])
            found.append((parent + begin, letter))
        parent, letter = (np.concatenate(column) for column in zip(*found, strict=True))
        at = level[parent] ^ letters[letter]
        keys = [keys[p] + bytes([letters[c]]) for p, c in zip(parent.tolist(), letter.tolist(), strict=True)]
        unit = units[at]
        level = at ^ offset(unit)
        for which in np.flatnonzero((unit >> 8) & 1):
            start = int(units[level[which]] & ((1 << 31) - 1))
            try:
                strings[keys[which].decode()] = pool[start : pool.index(b"\0", start)].decode()
            except (UnicodeDecodeError, ValueError):
                raise ValueError(
                    f"tokenizer.json: normalizer Precompiled: the entry {keys[which]!r} is not text"
                ) from None
    return strings


class CharactersMap:
    """Replaces what a precompiled_charsmap names. tokens: the number of added tokens."""

    def __init__(self, data: bytes, tokens: int):
        strings = read_charsmap(data)
        # The shortest string counts, so those that begin with another never do.
        strings = {key: to for key, to in strings.items() if not any(key[:n] in strings for n in range(1, len(key)))}
        self._strings = strings
        keys = [encode_points(key) for key in strings]
        values = [encode_points(to) for to in strings.values()]
        none = [np.zeros(0, np.int32)]
        alphabet = np.unique(np.concatenate([*keys, *none]))
        code = np.zeros(SCALARS, np.int32)
        code[alphabet] = np.arange(1, len(alphabet) + 1)
        self._code = Table(code, tokens)
        starts = np.zeros(SCALARS, bool)
        starts[[key[0] for key in keys]] = True
        self._starts = Table(starts, tokens)
        self._trie = Trie([code[key] for key in keys], len(alphabet) + 1)
        self._kinds = Table(_kinds(), tokens, token_value=_CONTROL)
        self._sizes = Table(np.digitize(np.arange(SCALARS), [0x80, 0x800, 0x10000]) + 1, tokens, token_value=9)
        lengths = np.array([len(value) for value in values], np.int32)
        with tf.init_scope(), tf.device("CPU:0"):
            self._joins = tf.constant(_joins().reshape(-1))
            self._key_lengths = tf.constant([0, *map(len, keys)], tf.int32)
            self._lengths = tf.constant([1, *lengths], tf.int32)
            self._value_starts = tf.constant([0, *(np.cumsum(lengths) - lengths)], tf.int32)
            self._values = tf.constant(np.concatenate([*values, [0]]), tf.int32)

    def __call__(self, text: Text) -> Text:
        """All pieces, each by itself, normalised."""
        starts_N = self._starts(text.points) > 0
        return Text(*tf.cond(tf.reduce_any(starts_N), lambda: self._replace(text, starts_N), lambda: text))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        if after is None or any(key[0] == " " and to[:1] != " " for key, to in self._strings.items()):
            return None
        kinds = _kinds()
        unsafe = after | (kinds == _PREPEND)  # of one cluster with the space
        if after.any():
            worse = [key for key, to in self._strings.items() if not to or after[ord(to[-1])]]
            # What goes on with such a cluster vanishes.
            within = set(kinds[[ord(c) for key in worse for c in key]].tolist())
            if within - {_OTHER, _EXTEND, _CONTROL, _CR, _LF}:
                return None
            unsafe |= kinds == _EXTEND
            unsafe[[ord(key) for key in worse if len(key) == 1]] = True
        return unsafe

    def _replace(self, text: Text, starts_N: tf.Tensor) -> Text:
        begins_N = begins(text)
        places = tf.cast(tf.where(starts_N)[:, 0], tf.int32)
        symbols = tf.concat([self._code(text.points), [0]], axis=0)
        found_N = tf.tensor_scatter_nd_update(
            tf.zeros_like(text.points), places[:, None], self._trie.longest(symbols, places)
        )
        kind_N = self._kinds(text.points)
        joined_N = tf.gather(self._joins, kind_N[:-1] * _KINDS + kind_N[1:])
        opens_N = begins_N | tf.concat([[True], ~joined_N], axis=0)
        first_C, stop_C, cluster_N = bounds(opens_N)
        size = tf.concat([[0], tf.cumsum(self._sizes(text.points))], axis=0)
        short_C = tf.gather(size, stop_C) - tf.gather(size, first_C) <= _LARGEST_CLUSTER
        reach_C = tf.gather(self._key_lengths, tf.gather(found_N, first_C))
        whole_N = tf.gather(short_C & (reach_C > 0) & (reach_C <= stop_C - first_C), cluster_N)
        alone_N = ~whole_N & tf.equal(tf.gather(self._key_lengths, found_N), 1)
        value_N = tf.where((whole_N & opens_N) | alone_N, found_N, 0)
        count_N = tf.where(whole_N & ~opens_N, 0, tf.gather(self._lengths, value_N))

        source_M = repeat(count_N)
        nth_M = tf.range(tf.size(source_M)) - tf.gather(tf.cumsum(count_N, exclusive=True), source_M)
        value_M = tf.gather(value_N, source_M)
        wider = take(text, source_M)
        string_M = tf.gather(self._values, tf.gather(self._value_starts, value_M) + nth_M)
        changed = wider._replace(points=tf.where(value_M > 0, string_M, wider.points))
        if not text.spans:
            return changed
        return realign(text, changed, self._consumed(text, changed, whole_N, opens_N, stop_C - first_C, cluster_N,
                                                     count_N, source_M, nth_M))  # fmt: skip

    @staticmethod
    def _consumed(text, changed, whole_N, opens_N, size_C, cluster_N, count_N, source_M, nth_M):
        """How many characters each one that is there now replaces, as the reference counts them."""
        old_N = tf.where(whole_N, tf.where(opens_N, tf.gather(size_C, cluster_N), 0), 1)
        old_M = tf.gather(old_N, source_M)
        count_M = tf.gather(count_N, source_M)
        last_M = tf.equal(nth_M, count_M - 1)
        consumed_M = tf.cast(nth_M < old_M, tf.int32) + tf.where(last_M, tf.maximum(old_M - count_M, 0), 0)
        # What becomes nothing counts for the character before it; at a piece's beginning it is not counted at all.
        vanished = tf.cast(tf.where(tf.equal(count_N, 0) & (old_N > 0))[:, 0], tf.int32)
        before = tf.searchsorted(source_M, vanished, side="left") - 1
        same = tf.where(
            (before >= 0)
            & tf.equal(
                tf.gather(tf.concat([changed.pieces, [-1]], axis=0), tf.maximum(before, 0)),
                tf.gather(text.pieces, vanished),
            )
        )[:, 0]
        return tf.tensor_scatter_nd_add(
            consumed_M, tf.gather(before, same)[:, None], tf.gather(old_N, tf.gather(vanished, same))
        )


# ---- Grapheme clusters: https://unicode.org/reports/tr29/ as far as clusters of at most five bytes need it ---------

_OTHER, _EXTEND, _PREPEND, _CONTROL, _CR, _LF, _LEADING, _VOWEL, _TRAILING, _LV, _LVT, _KINDS = range(12)


def _kinds() -> np.ndarray:
    kinds = np.full(SCALARS, _OTHER, np.int32)
    for name, kind in (("extend", _EXTEND), ("prepend", _PREPEND), ("control", _CONTROL)):
        kinds[character_set(name)] = kind
    kinds[[13, 10]] = _CR, _LF
    kinds[0x1100:0x1160] = kinds[0xA960:0xA97D] = _LEADING
    kinds[0x1160:0x11A8] = kinds[0xD7B0:0xD7C7] = _VOWEL
    kinds[0x11A8:0x1200] = kinds[0xD7CB:0xD7FC] = _TRAILING
    kinds[0xAC00:0xD7A4] = _LVT
    kinds[0xAC00:0xD7A4:28] = _LV
    return kinds


def _joins() -> np.ndarray:
    """Whether a character of one kind and the next, of another, are of one cluster, [kinds, kinds] bool."""
    joins = np.zeros((_KINDS, _KINDS), bool)
    joins[:, _EXTEND] = True
    joins[_PREPEND] = True
    joins[[_CONTROL, _CR, _LF]] = False
    joins[:, [_CONTROL, _CR, _LF]] = False
    joins[_CR, _LF] = True
    joins[_LEADING, [_LEADING, _VOWEL, _LV, _LVT]] = True
    joins[[_LV, _VOWEL], _VOWEL] = joins[[_LV, _VOWEL], _TRAILING] = True
    joins[[_LVT, _TRAILING], _TRAILING] = True
    return joins
