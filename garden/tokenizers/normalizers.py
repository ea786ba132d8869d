"""The normalizer section of tokenizer.json: each component rewrites the characters of all pieces at once.

Letters: N characters, M characters after a step, W pieces.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from garden.tokenizers.byte_level import BytesAsCharacters
from garden.tokenizers.characters import SCALARS, Flag, character_data, character_set, encode_points
from garden.tokenizers.charsmap import CharactersMap
from garden.tokenizers.files import options
from garden.tokenizers.normal_forms import NormalForm, strings_of
from garden.tokenizers.patterns import Pattern
from garden.tokenizers.pretokenizers import Step, read_pattern
from garden.tokenizers.text import FIRST_TOKEN, Table, Text, begins, bounds, insert, keep, repeat, take


def compile_normalizer(value: Mapping | None, tokens: int) -> list[Step]:
    """The steps of a normalizer; ValueError that names what is not supported. tokens: the number of added tokens."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ValueError(f"tokenizer.json: normalizer: expected an object, got {value!r:.80}")
    kind = value.get("type")
    if kind == "Sequence":
        inner = options("normalizer", value, normalizers=[])["normalizers"]
        return [step for item in inner for step in compile_normalizer(item, tokens)]
    if kind not in _MAKERS:
        raise ValueError(
            f'tokenizer.json: normalizer "{kind}" is not supported; supported: Sequence, {", ".join(sorted(_MAKERS))}'
        )
    return _MAKERS[kind](value, tokens)


# ---- Steps -------------------------------------------------------------------------------------------------------


class Mapped:
    """Characters become strings, perhaps empty ones; each stands where its character stood."""

    def __init__(self, strings: Mapping[int, tuple[int, ...]], tokens: int):
        """strings: code point -> the code points that it becomes; others stay."""
        keys = np.array(list(strings), np.int64)
        index = np.zeros(SCALARS, np.int32)
        index[keys] = np.arange(1, len(keys) + 1)
        self._table = Table(index, tokens)
        lengths = np.array([1, *map(len, strings.values())], np.int32)
        flat = np.array([0, *(point for string in strings.values() for point in string), 0], np.int32)
        self._simple = bool((lengths == 1).all())
        self._strings = strings
        with tf.init_scope(), tf.device("CPU:0"):
            self._lengths, self._flat = tf.constant(lengths), tf.constant(flat)
            self._starts = tf.constant(np.cumsum(lengths) - lengths, tf.int32)

    def __call__(self, text: Text) -> Text:
        index_N = self._table(text.points)
        return Text(*tf.cond(tf.reduce_any(index_N > 0), lambda: self._map(text, index_N), lambda: text))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        if after is None or ord(" ") in self._strings:
            return None
        unsafe = after.copy()
        for point, string in self._strings.items() if after.any() else ():
            unsafe[point] = not string or after[string[-1]]
        return unsafe

    def _map(self, text: Text, index_N: tf.Tensor) -> Text:
        if self._simple:
            mapped_N = tf.gather(self._flat, tf.gather(self._starts, index_N))
            return text._replace(points=tf.where(index_N > 0, mapped_N, text.points))
        count_N = tf.gather(self._lengths, index_N)
        source_M = repeat(count_N)
        nth_M = tf.range(tf.size(source_M)) - tf.gather(tf.cumsum(count_N, exclusive=True), source_M)
        wider, index_M = take(text, source_M), tf.gather(index_N, source_M)
        mapped_M = tf.gather(self._flat, tf.gather(self._starts, index_M) + nth_M)
        return wider._replace(points=tf.where(index_M > 0, mapped_M, wider.points))


class Replaced:
    """Matches of a pattern become a string, which stands where the last character of the match stood."""

    def __init__(self, pattern: Pattern, content: str):
        self._pattern, self._content = pattern, encode_points(content)

    def __call__(self, text: Text) -> Text:
        segments = self._pattern(text)
        return Text(*tf.cond(tf.reduce_any(segments.matched), lambda: self._replace(text, segments), lambda: text))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        over, _ = self._pattern.at_space()
        readable = self._pattern.readable()
        to_space = len(self._content) > 0 and self._content[0] == ord(" ")
        if after is None or (readable[ord(" ")] and not to_space):
            return None
        if after.any() and (not len(self._content) or after[self._content[-1]]):
            over = over | readable
        return after | over

    def _replace(self, text: Text, segments) -> Text:
        matched_N = segments.matched
        last_N = tf.concat([segments.begins[1:], [True]], axis=0)
        if len(self._content) == 1:
            text = text._replace(points=tf.where(matched_N, self._content[0], text.points))
            return keep(text, ~matched_N | last_N)
        count_N = tf.where(matched_N, tf.where(last_N, len(self._content), 0), 1)
        source_M = repeat(count_N)
        nth_M = tf.range(tf.size(source_M)) - tf.gather(tf.cumsum(count_N, exclusive=True), source_M)
        wider = take(text, source_M)
        content = tf.constant([*self._content, 0], tf.int32)
        content_M = tf.gather(content, tf.minimum(nth_M, len(self._content)))
        return wider._replace(points=tf.where(tf.gather(matched_N, source_M), content_M, wider.points))


class Prepended:
    """Puts a string before every piece."""

    def __init__(self, content: str):
        self._content = encode_points(content)

    def __call__(self, text: Text) -> Text:
        first_W, _, _ = bounds(begins(text))
        plain = tf.where(tf.gather(text.points, first_W) < FIRST_TOKEN)[:, 0]
        return insert(text, tf.gather(first_W, plain), self._content)


class Stripped:
    """Removes white space at the ends of pieces."""

    def __init__(self, left: bool, right: bool, tokens: int):
        self._table, self._left, self._right = Table(_flags(Flag.SPACE), tokens), left, right

    def __call__(self, text: Text) -> Text:
        ink_N = tf.equal(self._table(text.points), 0)
        first_W, stop_W, rank_N = bounds(begins(text))
        here_N = tf.range(tf.size(text.points))
        ink = tf.concat([[-1], tf.cast(tf.where(ink_N)[:, 0], tf.int32), [tf.size(text.points)]], axis=0)
        kept_N = tf.ones_like(ink_N)
        if self._left:
            start_W = tf.minimum(tf.gather(ink, tf.searchsorted(ink, first_W)), stop_W)
            kept_N &= here_N >= tf.gather(start_W, rank_N)
        if self._right:
            end_W = tf.maximum(tf.gather(ink, tf.searchsorted(ink, stop_W) - 1) + 1, first_W)
            kept_N &= here_N < tf.gather(end_W, rank_N)
        return keep(text, kept_N)


# ---- Components --------------------------------------------------------------------------------------------------


def _flags(flag: Flag) -> np.ndarray:
    return (character_data().flags & flag) > 0


def _removed(members: np.ndarray) -> dict[int, tuple[int, ...]]:
    return {int(point): () for point in np.flatnonzero(members)}


def _spaces(points) -> dict[int, tuple[int, ...]]:
    return {int(point): (ord(" "),) for point in points}


def _nothing_else(make: Callable[[int], list[Step]]) -> Callable[[Mapping, int], list[Step]]:
    """A component without options."""

    def made(component: Mapping, tokens: int) -> list[Step]:
        options("normalizer", component)
        return make(tokens)

    return made


def _nmt(tokens: int) -> list[Step]:
    removed = [*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
    blank = [0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]
    return [Mapped({**dict.fromkeys(removed, ()), **_spaces(blank)}, tokens)]


def _bert(component: Mapping, tokens: int) -> list[Step]:
    fields = options(
        "normalizer", component, clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    data, steps = character_data(), []
    if fields["clean_text"]:
        cleaned = {**_removed(_flags(Flag.CLEANED)), **_spaces(np.flatnonzero(_flags(Flag.BLANKED)))}
        steps.append(Mapped(cleaned, tokens))
    if fields["handle_chinese_chars"]:
        apart = {int(p): (ord(" "), int(p), ord(" ")) for p in np.flatnonzero(_flags(Flag.CHINESE))}
        steps.append(Mapped(apart, tokens))
    strip = fields["lowercase"] if fields["strip_accents"] is None else fields["strip_accents"]
    if strip:
        accents = {point: string for point, string in strings_of(data.strip).items() if not string}
        steps += [NormalForm(compatible=False, composed=False, tokens=tokens), Mapped(accents, tokens)]
    if fields["lowercase"]:
        steps.append(Mapped(strings_of(data.lower), tokens))
    return steps


def _strip(component: Mapping, tokens: int) -> list[Step]:
    fields = options("normalizer", component, strip_left=True, strip_right=True)
    return [Stripped(fields["strip_left"], fields["strip_right"], tokens)]


def _replace(component: Mapping, tokens: int) -> list[Step]:
    fields = options("normalizer", component, pattern=None, content="")
    pattern = fields["pattern"]
    if isinstance(pattern, dict) and "Regex" in pattern and "$" in fields["content"]:
        raise ValueError(f'tokenizer.json: normalizer Replace: groups in "{fields["content"]}" are not supported')
    return [Replaced(read_pattern("normalizer Replace", pattern, tokens), fields["content"])]


def _precompiled(component: Mapping, tokens: int) -> list[Step]:
    charsmap = options("normalizer", component, precompiled_charsmap=None)["precompiled_charsmap"]
    try:
        data = base64.b64decode(charsmap or "", validate=True)
    except (binascii.Error, TypeError):
        raise ValueError("tokenizer.json: normalizer Precompiled: precompiled_charsmap is not base64") from None
    return [CharactersMap(data, tokens)] if data else []


_MAKERS: dict[str, Callable[[Mapping, int], list[Step]]] = {
    "BertNormalizer": _bert,
    "ByteLevel": _nothing_else(lambda tokens: [BytesAsCharacters(tokens)]),
    "Lowercase": _nothing_else(lambda tokens: [Mapped(strings_of(character_data().lower), tokens)]),
    "NFC": _nothing_else(lambda tokens: [NormalForm(compatible=False, composed=True, tokens=tokens)]),
    "NFD": _nothing_else(lambda tokens: [NormalForm(compatible=False, composed=False, tokens=tokens)]),
    "NFKC": _nothing_else(lambda tokens: [NormalForm(compatible=True, composed=True, tokens=tokens)]),
    "NFKD": _nothing_else(lambda tokens: [NormalForm(compatible=True, composed=False, tokens=tokens)]),
    "Nmt": _nothing_else(_nmt),
    "Precompiled": _precompiled,
    "Prepend": lambda value, _: [Prepended(options("normalizer", value, prepend="")["prepend"])],
    "Replace": _replace,
    "Strip": _strip,
    "StripAccents": _nothing_else(lambda tokens: [Mapped(_removed(character_set("mark")), tokens)]),
}
