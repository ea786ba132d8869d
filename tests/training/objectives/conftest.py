"""Tokenizers of several kinds, and rows of texts in each one's layouts."""

import numpy as np
import pytest
from objective_rows import texts

from garden import Tokenizer
from training.corpora.tokenizing import layout_of, tokenise
from training.corpora.vocabulary import train_vocabulary, write_vocabulary
from training.packing import batch_of, pack

KINDS = {
    "bert": {"kind": "wordpiece", "size": 160, "lower_case": True},
    "roberta": {"kind": "bpe", "size": 340, "template": "roberta"},
    "t5": {"kind": "unigram", "size": 220},
}


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory):
    """A function: the kind of a tokenizer, "bert", "roberta" or "t5" -> one."""
    made = {}

    def tokenizer(kind: str) -> Tokenizer:
        if kind not in made:
            directory = tmp_path_factory.mktemp("tokenizer") / kind
            write_vocabulary(train_vocabulary(texts(100), **KINDS[kind]), directory)
            made[kind] = Tokenizer.from_pretrained(directory)
        return made[kind]

    return tokenizer


@pytest.fixture(scope="session")
def rows_of(tokenizer_of):
    """A function: kind, layout, T and number of rows -> a batch of rows of texts."""
    made = {}

    def rows(kind: str, layout: str, length: int = 64, count: int = 32) -> dict[str, np.ndarray]:
        key = (kind, layout, length, count)
        if key not in made:
            tokenizer = tokenizer_of(kind)
            documents = tokenise(tokenizer, texts(count * (1 + length // 20)), sentences=True)
            packed = next(pack(documents, length, layout_of(tokenizer, layout), at_once=count))
            batch = batch_of(packed, tokenizer.pad_id or 0)
            assert len(batch["token_ids"]) >= count
            made[key] = {name: values[:count] for name, values in batch.items()}
        return made[key]

    return rows
