"""Tokenizers of several kinds, rows of real texts in each one's layouts, and rows of any layout."""

import random

import numpy as np
import pytest
from hypothesis import strategies as st

from garden import Tokenizer
from training.corpora.tokenizing import layout_of, tokenise
from training.corpora.vocabulary import train_vocabulary, write_vocabulary
from training.packing import batch_of, pack

KINDS = {
    "bert": {"kind": "wordpiece", "size": 160, "lower_case": True},
    "roberta": {"kind": "bpe", "size": 340, "template": "roberta"},
    "t5": {"kind": "unigram", "size": 220},
}
NAMES = ("token_ids", "segment_ids", "positions", "sentence_ids")
SYLLABLES = ("ka", "lo", "min", "tar", "ve", "su", "po", "ri", "den", "gu")


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of one sentence to eight, of made-up words of one syllable to four."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(300)]
    sentence = lambda: " ".join(draw.choices(words, k=draw.randint(2, 12))).capitalize() + "."
    return [" ".join(sentence() for _ in range(draw.randint(1, 8))) for _ in range(count)]


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


def laid_out(tokenizer: Tokenizer, layout: str, plan, length: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of random tokens: `plan` has for each row the lengths of each segment's sentences."""
    around = layout_of(tokenizer, layout)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocabulary_size), tokenizer.special_ids)
    draw = np.random.default_rng(seed)
    shape = (len(plan), length)
    rows = {name: np.zeros(shape, np.int32) for name in NAMES}
    rows["token_ids"][:] = tokenizer.pad_id or 0
    for row, segments in enumerate(plan):
        begin = 0
        for number, sentences in enumerate(segments, 1):
            ids = draw.choice(ordinary, sum(sentences))
            numbers = np.repeat(np.arange(1, len(sentences) + 1), sentences)
            ids = [*around.prefix, *ids, *around.suffix]
            numbers = [*[0] * len(around.prefix), *numbers, *[0] * len(around.suffix)]
            end = begin + len(ids)
            if end > length:
                break
            here = (row, slice(begin, end))
            rows["token_ids"][here], rows["sentence_ids"][here] = ids, numbers
            rows["segment_ids"][here], rows["positions"][here] = number, np.arange(len(ids))
            begin = end
    return rows


PLANS = st.lists(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=4), max_size=6), min_size=1, max_size=4
)  # rows of segments of sentences' lengths
SEEDS = st.integers(0, 2**31 - 1)


def segments_of(ids, segment_ids, row: int) -> list[list[int]]:
    """The tokens of each segment of a row, in order."""
    ids, segment_ids = np.asarray(ids)[row], np.asarray(segment_ids)[row]
    return [ids[segment_ids == number].tolist() for number in range(1, segment_ids.max(initial=0) + 1)]
