"""Texts to what is packed into rows: token ids without special tokens, and which of them begin a sentence."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from garden.tokenizers import Tokenizer
from training.corpora.sentences import sentence_starts
from training.packing import Layout

PROBES = (
    "The quick brown fox, it's said, jumped over 13 lazy dogs!  (Twice.)",
    "Ünïcödé ﬁ ｆｕｌｌ ½ 東京 שלום ñ n\u0303 🙂 \t tabs\nand lines",
    "ALL CAPS don't 3.14159 e-mail@example.org http://example.org/a_b?c=d",
)
"""Texts whose ids tell tokenizers apart that have one vocabulary."""


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash of what decides a tokenizer's ids: its vocabulary, what stands round texts, the ids of some texts."""
    texts = _ids(tokenizer, [*PROBES, ""]).to_list()
    # As the tokenizer would put them together, without the seconds that its graphs for that take to make.
    ids = [_joined(tokenizer, text) for text in texts]
    pairs = [_joined(tokenizer, texts[0], texts[2])]
    text = json.dumps([tokenizer.vocabulary, ids, pairs], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _joined(tokenizer: Tokenizer, first: list[int], second: list[int] | None = None) -> list[int]:
    texts = {"first": first, "second": second}
    parts = tokenizer.template.parts(second is not None, True)
    return [token for part in parts for token in (part.ids if part.source == "special" else texts[part.source])]


def layout_of(tokenizer: Tokenizer, name: str) -> Layout:
    """Returns a layout with the special tokens that a tokenizer's template puts round a single text.

    Raises ValueError for a layout that the tokenizer's special tokens do not allow.
    """
    single = tokenizer.template.single
    text = next(index for index, part in enumerate(single) if part.source == "first")
    prefix = tuple(token for part in single[:text] for token in part.ids)
    suffix = tuple(token for part in single[text + 1 :] for token in part.ids)
    if name == "causal":
        end = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.sep_id
        if end is not None and end not in suffix[-1:]:
            suffix = (*suffix, end)
    if name == "pair":
        if not suffix:
            raise ValueError("layout pair: the tokenizer's template puts no token behind a text, which would part two")
        suffix = (*suffix, suffix[-1])
    return Layout(name=name, prefix=prefix, suffix=suffix)


def pad_id_of(tokenizer: Tokenizer) -> int:
    """Returns the id that stands in padding: any will do where a tokenizer has none, since nothing reads it."""
    return tokenizer.pad_id or 0


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], *, sentences: bool = False
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Returns each text's token ids [L] int32, and which tokens begin a sentence [L] bool, or None where not asked for.

    A sentence begins at the first token that starts at its place or behind it. Batches of 1,024 texts and more are fastest.
    """
    if not sentences:
        return _split(_ids(tokenizer, texts), None)
    if not texts:
        return []
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    documents = np.cumsum(lengths + 1) - lengths - 1
    joined = "\n".join(texts)  # one search through all of them
    starts = np.union1d(documents, sentence_starts(joined))
    if _parts_at(tokenizer, joined, starts):
        # Sentences are texts of their own: that costs nothing, where places in the text cost as much as the ids.
        ends = [*starts[1:].tolist(), len(joined)]
        ids = _ids(tokenizer, [joined[begin:end] for begin, end in zip(starts.tolist(), ends, strict=True)])
        splits = ids.row_splits.numpy()
        begins = np.zeros(splits[-1], bool)
        begins[splits[:-1][splits[1:] > splits[:-1]]] = True
        firsts = splits[np.append(np.searchsorted(starts, documents), len(starts))]
        return _split(tf.RaggedTensor.from_row_splits(ids.values, firsts, validate=False), begins)
    encoded = tokenizer.encode(tf.constant(texts), add_special_tokens=False)
    places = encoded.starts.values.numpy() + np.repeat(documents, encoded.starts.row_lengths().numpy())
    begins = np.zeros(len(places), bool)
    at = np.searchsorted(places, starts)
    begins[at[at < len(places)]] = True
    return _split(encoded.token_ids, begins)


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> tf.RaggedTensor:
    strings = tf.constant(texts) if len(texts) else tf.zeros([0], tf.string)
    return tokenizer._run(strings, None, None, "longest_first", False, spans=False).token_ids


def _parts_at(tokenizer: Tokenizer, text: str, starts: np.ndarray) -> bool:
    """Returns whether the tokens of a text that is parted at `starts` are those of its parts."""
    cutter = _first_cutter(tokenizer)
    if cutter == "WhitespaceSplit":  # BERT's cuts at punctuation too, behind which sentences without spaces begin
        return all(text[start - 1].isspace() or text[start : start + 1].isspace() for start in starts[1:].tolist())
    return cutter == "BertPreTokenizer"


@functools.lru_cache(maxsize=8)
def _first_cutter(tokenizer: Tokenizer) -> str | None:
    section = json.loads(tokenizer._to_files()["tokenizer.json"])["pre_tokenizer"] or {}
    first, *_ = section.get("pretokenizers") or [section]
    return first.get("type")


def _split(ids: tf.RaggedTensor, begins: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray | None]]:
    values, splits = ids.values.numpy(), ids.row_splits.numpy().tolist()
    pairs = itertools.pairwise(splits)
    return [(values[begin:end], None if begins is None else begins[begin:end]) for begin, end in pairs]
