"""Texts to what is packed into rows: token ids without special tokens, and which of them begin a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from garden.tokenizers import Tokenizer
from training.packing import Layout

PROBES = (
    "The quick brown fox, it's said, jumped over 13 lazy dogs!  (Twice.)",
    "Ünïcödé ﬁ ｆｕｌｌ ½ 東京 שלום ñ n\u0303 🙂 \t tabs\nand lines",
    "ALL CAPS don't 3.14159 e-mail@example.org http://example.org/a_b?c=d",
)
"""Texts whose ids tell tokenizers apart that have one vocabulary."""


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a hash of what decides a tokenizer's ids: its vocabulary, what stands round texts, the ids of some texts."""
    ids = tokenizer([*PROBES, ""]).to_list()
    pairs = tokenizer([PROBES[0]], [PROBES[2]]).to_list()
    text = json.dumps([tokenizer.vocabulary, ids, pairs], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
    tokenizer: Tokenizer, texts: Sequence[str], sentences: Callable[[str], Sequence[int]] | None = None
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Returns each text's token ids [L] int32, and which tokens begin a sentence [L] bool.

    Args:
        texts: a batch; large ones (1,024 and more) are fastest.
        sentences: gives the character offsets at which a text's sentences begin, in order; None: sentences are not told apart.
    """
    if sentences is None:
        encoded = tokenizer._run(tf.constant(texts), None, None, "longest_first", False, spans=False)
        return [(ids, None) for ids in _split(encoded.token_ids)]
    encoded = tokenizer.encode(tf.constant(texts), add_special_tokens=False)
    made = []
    for text, ids, starts in zip(texts, _split(encoded.token_ids), _split(encoded.starts), strict=True):
        begins = np.zeros(len(ids), bool)
        if len(ids):
            # A sentence begins at the first token that starts at its offset or behind it.
            at = np.searchsorted(starts, np.asarray(sentences(text), np.int64))
            begins[at[at < len(ids)]] = True
        made.append((ids, begins))
    return made


def _split(values: tf.RaggedTensor) -> list[np.ndarray]:
    return np.split(values.values.numpy(), values.row_splits.numpy()[1:-1])
