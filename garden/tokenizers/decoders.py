"""The decoder section of tokenizer.json: tokens back to text, in the graph.

What a component does to a token by itself is done once for the whole vocabulary; what depends on neighbours (bytes that
make a character together) or on the whole text is done in the graph.

Letters: V vocabulary, T tokens of all texts, B texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tokenizers.automaton import compile_pattern
from garden.tokenizers.byte_level import token_bytes
from garden.tokenizers.files import options
from garden.tokenizers.pretokenizers import metaspace_options

REPLACEMENT = "\ufffd"
_CLEAN_UP = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")]
_CLEAN_UP_END = [(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]
_WORDPIECE_CLEAN_UP = [*_CLEAN_UP, (" do not", " don't"), *_CLEAN_UP_END]

# A component on one token: token, whether it is the text's first, whether its last -> token.
_OnToken = Callable[[str, bool, bool], str]
_SUPPORTED = "BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece"


def clean_up_spaces(texts: tf.Tensor) -> tf.Tensor:
    """transformers' clean_up_tokenization: no space before punctuation and contractions, [B] string."""
    for spaced, closed in (*_CLEAN_UP, *_CLEAN_UP_END):
        texts = tf.strings.regex_replace(texts, re.escape(spaced), closed)
    return texts


def read_decoder(value: Mapping | None) -> tuple[list[_OnToken], list[dict]]:
    """What is done to each token by itself, and the components that see more; ValueError names what is not supported."""
    components = _flat(value)
    on_token: list[_OnToken] = []
    if value is None:
        on_token.append(lambda token, first, _: token if first else " " + token)
    while components and (made := _on_token(components[0])) is not None:
        on_token.append(made)
        components = components[1:]
    for index, component in enumerate(components):  # only what the graph can do may follow
        _on_token(component)
        kind = component["type"]
        late = index > 0 and kind in ("ByteFallback", "ByteLevel", "WordPiece", "BPEDecoder")
        if late or (kind == "Replace" and "Regex" in component["pattern"]):
            before = components[index - 1]["type"]
            raise ValueError(f'tokenizer.json: decoder "{kind}" after "{before}" is not supported')
        if kind == "Strip" and max(component.get("start", 0), component.get("stop", 0)) > 1000:
            raise ValueError("tokenizer.json: decoder Strip of more than 1000 characters is not supported")
    return on_token, components


class Decoder:
    """Token ids to texts by the decoder of a tokenizer.json.

    value: the section. spellings: the vocabulary, [V]. Raises ValueError that names a component that is not supported.
    """

    def __init__(self, value: Mapping | None, spellings: Sequence[str]):
        on_token, components = read_decoder(value)
        self._rest = components
        self._bytes = bool(components) and components[0]["type"] == "ByteLevel"

        def table(first: bool, last: bool) -> list[str]:
            tokens = spellings
            for made in on_token:
                tokens = [made(token, first, last) for token in tokens]
            return tokens

        middle = table(False, False)
        self._byte_of_token = None
        if components and components[0]["type"] == "ByteFallback":
            self._byte_of_token = np.array([_fallback_byte(token) for token in middle], np.int32)
            middle = [
                token if byte < 0 else bytes([byte]) for token, byte in zip(middle, self._byte_of_token, strict=True)
            ]
        finish = token_bytes if self._bytes else lambda token: token
        tables = [[finish(token) for token in middle]]
        self._places = [0, 0, 0, 0]  # which table: not first and not last; first; last; both
        for index, (first, last) in enumerate([(True, False), (False, True), (True, True)], 1):
            special = table(first, last)
            if self._byte_of_token is not None:
                special = [m if b >= 0 else t for t, m, b in zip(special, middle, self._byte_of_token, strict=True)]
            special = [finish(token) for token in special]
            if special not in tables:
                tables.append(special)
            self._places[index] = tables.index(special)
        self._size = len(spellings)
        with tf.init_scope(), tf.device("CPU:0"):
            self._tables = tf.constant([token for tokens in tables for token in tokens], tf.string)
            if self._byte_of_token is not None:
                self._is_byte = tf.constant(self._byte_of_token >= 0)

    def __call__(self, ids_T: tf.Tensor, splits: tf.Tensor) -> tf.Tensor:
        """Texts [B] of ids, all of them in the vocabulary. splits: [B+1] int64."""
        count = tf.size(ids_T)
        edges = tf.zeros([count + 1], tf.int32)
        first_T = tf.tensor_scatter_nd_update(edges, splits[:-1, None], tf.ones_like(splits[:-1], tf.int32))[:-1]
        if any(self._places):
            last = tf.tensor_scatter_nd_update(edges, splits[1:, None], tf.ones_like(splits[1:], tf.int32))
            place_T = tf.gather(tf.constant(self._places, tf.int64), first_T + 2 * last[1:])
            strings_T = tf.gather(self._tables, ids_T + place_T * self._size)
        else:
            strings_T = tf.gather(self._tables, ids_T)
        fused = False
        for component in self._rest:
            kind = component["type"]
            if kind == "ByteFallback":
                strings_T, splits = self._join_bytes(strings_T, tf.gather(self._is_byte, ids_T), first_T > 0, splits)
            elif kind in ("Fuse", "ByteLevel"):
                strings_T = strings_T if fused else _join(strings_T, splits)
                fused = True
            elif kind == "Strip":
                strings_T = _strip(strings_T, component)
            elif kind == "Replace":
                (pattern,) = component["pattern"].values()
                strings_T = _replace(strings_T, pattern, component["content"])
            elif kind == "Metaspace":
                strings_T = self._metaspace(strings_T, component, None if fused else splits)
        texts_B = strings_T if fused else _join(strings_T, splits)
        if self._bytes:
            texts_B = tf.strings.unicode_transcode(texts_B, "UTF-8", "UTF-8", errors="replace")
        return texts_B

    @staticmethod
    def _join_bytes(strings_T, byte_T, first_T, splits):
        """Neighbouring bytes become one token: their characters, or if they are not UTF-8, a replacement for each."""
        after_T = tf.concat([[False], byte_T[:-1]], axis=0)[: tf.size(byte_T)]
        begins_T = ~byte_T | ~after_T | first_T
        run_T = tf.cumsum(tf.cast(begins_T, tf.int64)) - 1
        begin = tf.where(begins_T)[:, 0]
        run_splits = tf.concat([begin, [tf.size(byte_T, tf.int64)]], axis=0)
        joined = _join(strings_T, run_splits)
        valid = tf.equal(tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace"), joined)
        replaced = tf.where(byte_T & ~tf.gather(valid, run_T), REPLACEMENT, strings_T)
        return _join(replaced, run_splits), tf.searchsorted(begin, splits, side="left", out_type=tf.int64)

    @staticmethod
    def _metaspace(strings_T, component, splits):
        fields = metaspace_options("decoder", component)
        later = _replace(strings_T, fields["replacement"], " ")
        if fields["prepend_scheme"] == "never":
            return later
        first = _replace(strings_T, fields["replacement"], "")
        if splits is None:
            return first
        leads = tf.gather(splits, tf.where(splits[1:] > splits[:-1])[:, 0])
        return tf.tensor_scatter_nd_update(later, leads[:, None], tf.gather(first, leads))


def _join(strings_T: tf.Tensor, splits: tf.Tensor) -> tf.Tensor:
    return tf.strings.reduce_join(tf.RaggedTensor.from_row_splits(strings_T, splits, validate=False), axis=1)


def _replace(strings: tf.Tensor, text: str, content: str) -> tf.Tensor:
    return tf.strings.regex_replace(strings, re.escape(text), content.replace("\\", "\\\\"))


def _strip(strings: tf.Tensor, component: Mapping) -> tf.Tensor:
    fields = options("decoder", component, content=" ", start=0, stop=0)
    content = re.escape(fields["content"])
    if fields["start"]:
        strings = tf.strings.regex_replace(
            strings, rf"\A(?:{content}){{0,{fields['start']}}}", "", replace_global=False
        )
    if fields["stop"]:
        strings = tf.strings.regex_replace(strings, rf"(?:{content}){{0,{fields['stop']}}}\z", "", replace_global=False)
    return strings


def _fallback_byte(token: str) -> int:
    """The byte of a token such as <0x0A>, or -1."""
    found = re.fullmatch(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>", token)
    return int(found[1], 16) if found else -1


# ---- Components that treat each token by itself ------------------------------------------------------------------


def _flat(value: Mapping | None) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise ValueError(f"tokenizer.json: decoder: expected an object, got {value!r:.80}")
    if value.get("type") != "Sequence":
        return [value]
    return [part for item in options("decoder", value, decoders=[])["decoders"] for part in _flat(item)]


def _on_token(component: Mapping) -> _OnToken | None:
    """What a component does to a token, None if it must see more than one."""
    kind = component.get("type")
    makers = {
        "BPEDecoder": _bpe,
        "Metaspace": _metaspace_on_token,
        "Replace": _replace_on_token,
        "Strip": _strip_on_token,
        "WordPiece": _wordpiece,
    }
    if kind in makers:
        return makers[kind](component)
    if kind not in ("ByteFallback", "ByteLevel", "Fuse"):
        raise ValueError(f'tokenizer.json: decoder "{kind}" is not supported; supported: {_SUPPORTED}')
    return None


def _bpe(component: Mapping) -> _OnToken:
    suffix = options("decoder", component, suffix="</w>")["suffix"]
    return lambda token, _, last: token.replace(suffix, "" if last else " ")


def _metaspace_on_token(component: Mapping) -> _OnToken:
    fields = metaspace_options("decoder", component)
    drop = fields["prepend_scheme"] != "never"
    return lambda token, first, _: token.replace(fields["replacement"], "" if first and drop else " ")


def _replace_on_token(component: Mapping) -> _OnToken:
    fields = options("decoder", component, pattern=None, content="")
    ((kind, pattern),) = fields["pattern"].items()
    content = fields["content"]
    if kind == "Regex" and "$" in content:
        raise ValueError(f'tokenizer.json: decoder Replace: groups in the content "{content}" are not supported')
    automaton = compile_pattern(pattern, literal=kind == "String")

    def replace(token: str, *_) -> str:
        pieces, at = [], 0
        for start, stop in automaton.find(token):
            pieces += [token[at:start], content]
            at = stop
        return "".join([*pieces, token[at:]])

    if kind == "String":
        return lambda token, *_: token.replace(pattern, content)
    return replace


def _strip_on_token(component: Mapping) -> _OnToken:
    fields = options("decoder", component, content=" ", start=0, stop=0)
    content, start, stop = fields["content"], fields["start"], fields["stop"]

    def strip(token: str, *_) -> str:
        leading = len(token) - len(token.lstrip(content))
        token = token[min(leading, start) :]
        trailing = len(token) - len(token.rstrip(content))
        return token[: len(token) - min(trailing, stop)]

    return strip


def _wordpiece(component: Mapping) -> _OnToken:
    fields = options("decoder", component, prefix="##", cleanup=True)
    prefix = fields["prefix"]

    def decode(token: str, first: bool, _: bool) -> str:
        if not first:
            token = token[len(prefix) :] if token.startswith(prefix) else " " + token
        for spaced, closed in _WORDPIECE_CLEAN_UP if fields["cleanup"] else ():
            token = token.replace(spaced, closed)
        return token

    return decode
