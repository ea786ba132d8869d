"""The pre_tokenizer section of tokenizer.json: each component cuts pieces into smaller ones, in all texts at once.

Letters: N characters, W pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tokenizers.byte_level import GPT2_PATTERN, BytesAsCharacters
from garden.tokenizers.characters import SCALARS, Flag, character_data, character_set
from garden.tokenizers.files import options
from garden.tokenizers.patterns import Pattern, Segments
from garden.tokenizers.text import FIRST_TOKEN, Table, Text, begins, bounds, insert, keep, split

Step = Callable[[Text], Text]

_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def compile_pre_tokenizer(value: Mapping | None, tokens: int) -> tuple[list[Step], bool]:
    """The steps of a pre-tokenizer, and whether the model is to see bytes; ValueError that names what is not supported.

    tokens: the number of added tokens.
    """
    components = _flat(value)
    steps: list[Step] = []
    for index, component in enumerate(components):
        kind = component.get("type")
        if kind not in _MAKERS:
            raise ValueError(
                f'tokenizer.json: pre_tokenizer "{kind}" is not supported; supported: Sequence, {", ".join(_MAKERS)}'
            )
        steps.extend(_MAKERS[kind](component, tokens))
        if kind == "ByteLevel" and index < len(components) - 1:
            steps.append(BytesAsCharacters(tokens))  # the components that follow see them
    return steps, bool(components) and components[-1].get("type") == "ByteLevel"


def _flat(value: Mapping | None) -> list[Mapping]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ValueError(f"tokenizer.json: pre_tokenizer: expected an object, got {value!r:.80}")
    if value.get("type") != "Sequence":
        return [value]
    inner = options("pre_tokenizer", value, pretokenizers=[])["pretokenizers"]
    return [component for item in inner for component in _flat(item)]


# ---- Cutting -----------------------------------------------------------------------------------------------------


def _cut(text: Text, segments: Segments, behavior: str, invert: bool = False) -> Text:
    """Cut pieces at matches, and do with the matches as the reference calls it."""
    matched_N = segments.matched ^ invert
    before_N = tf.concat([[False], matched_N[:-1]], axis=0)[: tf.size(matched_N)]
    cut_N = segments.begins
    if behavior == "Contiguous":
        cut_N &= matched_N ^ before_N
    elif behavior == "MergedWithPrevious":
        cut_N &= ~matched_N | before_N
    elif behavior == "MergedWithNext":
        cut_N &= matched_N | ~before_N
    text = split(text, cut_N)
    return keep(text, ~matched_N | (text.points >= FIRST_TOKEN)) if behavior == "Removed" else text


class _Characters:
    """Cuts at every character of a set."""

    def __init__(self, members: np.ndarray, tokens: int, behavior: str):
        self._table, self._members, self._behavior = Table(members, tokens), members, behavior

    def __call__(self, text: Text) -> Text:
        matched_N = self._table(text.points) > 0
        before_N = tf.concat([[False], matched_N[:-1]], axis=0)[: tf.size(matched_N)]
        return _cut(text, Segments(begins(text) | matched_N | before_N, matched_N), self._behavior)

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        if not self._members[ord(" ")] or self._behavior == "MergedWithPrevious":
            return after
        return self._members if self._behavior == "Contiguous" else np.zeros_like(self._members)


class _Kinds:
    """Cuts where characters of another kind follow, and removes those of kind 0."""

    def __init__(self, kinds: np.ndarray, tokens: int, alone: int | None = None):
        self._table, self._kinds, self._alone = Table(kinds, tokens, token_value=-1), kinds, alone

    def __call__(self, text: Text) -> Text:
        kind_N = self._table(text.points)
        changes_N = tf.concat([[True], tf.not_equal(kind_N[1:], kind_N[:-1])], axis=0)[: tf.size(kind_N)]
        if self._alone is not None:
            changes_N |= tf.equal(kind_N, self._alone)
        return keep(split(text, changes_N), tf.not_equal(kind_N, 0))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        return after if self._kinds[ord(" ")] else np.zeros(len(self._kinds), bool)


class _Matches:
    """Cuts at a pattern's matches."""

    def __init__(self, pattern: Pattern, behavior: str, invert: bool = False):
        self._pattern, self._behavior, self._invert = pattern, behavior, invert

    def __call__(self, text: Text) -> Text:
        return _cut(text, self._pattern(text), self._behavior, self._invert)

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        over, begins_match = self._pattern.at_space()
        if begins_match and self._behavior in ("Isolated", "Removed"):
            return over
        return None if after is None else after | over


class PrefixSpace:
    """Puts a space before every piece that does not begin with one."""

    def __call__(self, text: Text) -> Text:
        first_W, _, _ = bounds(begins(text))
        point_W = tf.gather(text.points, first_W)
        missing = tf.where((point_W < FIRST_TOKEN) & tf.not_equal(point_W, ord(" ")))[:, 0]
        return insert(text, tf.gather(first_W, missing), np.array([ord(" ")]))

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        return after


class Metaspace:
    """Spaces become a visible character, which is put before pieces too; pieces may be cut before it."""

    def __init__(self, replacement: str, scheme: str, cut: bool):
        self._replacement, self._scheme, self._cut = ord(replacement), scheme, cut
        self.asks_for_spans = scheme == "first"

    def __call__(self, text: Text) -> Text:
        text = text._replace(points=tf.where(tf.equal(text.points, ord(" ")), self._replacement, text.points))
        if self._scheme != "never":
            first_W, _, _ = bounds(begins(text))
            point_W = tf.gather(text.points, first_W)
            missing_W = (point_W < FIRST_TOKEN) & tf.not_equal(point_W, self._replacement)
            if self._scheme == "first":  # the piece that begins where the text begins
                missing_W &= tf.equal(tf.gather(text.spans[0], first_W), 0)
            text = insert(text, tf.gather(first_W, tf.where(missing_W)[:, 0]), np.array([self._replacement]))
        return split(text, tf.equal(text.points, self._replacement)) if self._cut else text

    def unsafe_before_space(self, after: np.ndarray | None) -> np.ndarray | None:
        """See `space_cuts`."""
        return np.zeros(SCALARS, bool) if self._cut else None


# ---- Components --------------------------------------------------------------------------------------------------


def _flags(flag: Flag) -> np.ndarray:
    return (character_data().flags & flag) > 0


def _behavior(component: Mapping, section: str, default: str) -> str:
    behavior = component.get("behavior", default)
    if behavior not in _BEHAVIORS:
        raise ValueError(f'tokenizer.json: {section} behavior "{behavior}" is not supported; known: {_BEHAVIORS}')
    return behavior


def read_pattern(section: str, value: Any, tokens: int) -> Pattern:
    """A pattern as tokenizer.json writes it: {"String": ...} or {"Regex": ...}."""
    if isinstance(value, str):
        value = {"String": value}
    if not isinstance(value, dict) or len(value) != 1 or not {"String", "Regex"} & set(value):
        raise ValueError(
            f'tokenizer.json: {section}: expected {{"String": ...}} or {{"Regex": ...}}, got {value!r:.80}'
        )
    ((kind, pattern),) = value.items()
    return Pattern(pattern, tokens, literal=kind == "String")


def metaspace_options(section: str, component: Mapping) -> dict:
    """Metaspace's replacement, prepend_scheme and split, also as older files write them."""
    component = {name: value for name, value in component.items() if name != "str_rep"}
    fields = options(
        section, component, replacement="\u2581", prepend_scheme="always", add_prefix_space=True, split=True
    )
    if fields.pop("add_prefix_space") is False:
        fields["prepend_scheme"] = "never"
    if fields["prepend_scheme"] not in ("always", "first", "never") or len(fields["replacement"]) != 1:
        raise ValueError(f"tokenizer.json: {section} Metaspace: {fields} is not supported")
    return fields


def _byte_level(component: Mapping, tokens: int) -> list[Step]:
    fields = options("pre_tokenizer", component, add_prefix_space=True, trim_offsets=True, use_regex=True)
    steps: list[Step] = [PrefixSpace()] if fields["add_prefix_space"] else []
    return [*steps, _Matches(Pattern(GPT2_PATTERN, tokens), "Isolated")] if fields["use_regex"] else steps


def _split(component: Mapping, tokens: int) -> list[Step]:
    fields = options("pre_tokenizer", component, pattern=None, behavior="Removed", invert=False)
    pattern = read_pattern("pre_tokenizer Split", fields["pattern"], tokens)
    return [_Matches(pattern, _behavior(fields, "pre_tokenizer Split", "Removed"), fields["invert"])]


def _digits(component: Mapping, tokens: int) -> list[Step]:
    alone = options("pre_tokenizer", component, individual_digits=False)["individual_digits"]
    return [_Characters(character_set("numeric"), tokens, "Isolated" if alone else "Contiguous")]


def _bert(component: Mapping, tokens: int) -> list[Step]:
    options("pre_tokenizer", component)
    kinds = np.where(_flags(Flag.SEPARATOR), 0, np.where(_flags(Flag.PUNCTUATION), 2, 1))
    return [_Kinds(kinds, tokens, alone=2)]


def _whitespace(component: Mapping, tokens: int) -> list[Step]:
    options("pre_tokenizer", component)
    return [_Kinds(np.where(_flags(Flag.WORD), 1, np.where(_flags(Flag.SPACE), 0, 2)), tokens)]


def _whitespace_split(component: Mapping, tokens: int) -> list[Step]:
    options("pre_tokenizer", component)
    return [_Characters(_flags(Flag.SPACE), tokens, "Removed")]


def _punctuation(component: Mapping, tokens: int) -> list[Step]:
    fields = options("pre_tokenizer", component, behavior="Isolated")
    return [_Characters(_flags(Flag.PUNCTUATION), tokens, _behavior(fields, "pre_tokenizer Punctuation", "Isolated"))]


def _delimiter(component: Mapping, tokens: int) -> list[Step]:
    delimiter = options("pre_tokenizer", component, delimiter=" ")["delimiter"]
    return [_Matches(Pattern(delimiter, tokens, literal=True), "Removed")]


def _metaspace(component: Mapping, _: int) -> list[Step]:
    fields = metaspace_options("pre_tokenizer", component)
    return [Metaspace(fields["replacement"], fields["prepend_scheme"], fields["split"])]


_MAKERS: dict[str, Callable[[Mapping, int], list[Step]]] = {
    "BertPreTokenizer": _bert,
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _delimiter,
    "Digits": _digits,
    "Metaspace": _metaspace,
    "Punctuation": _punctuation,
    "Split": _split,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
}
