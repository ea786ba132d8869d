"""Rows of any layout for tests of objectives, and what stands in them."""

import random

import numpy as np
from hypothesis import strategies as st

from training.corpora.tokenizing import layout_of

NAMES = ("token_ids", "segment_ids", "positions", "sentence_ids")
SYLLABLES = ("ka", "lo", "min", "tar", "ve", "su", "po", "ri", "den", "gu")


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of one sentence to eight, of made-up words of one syllable to four."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(300)]
    sentence = lambda: " ".join(draw.choices(words, k=draw.randint(2, 12))).capitalize() + "."
    return [" ".join(sentence() for _ in range(draw.randint(1, 8))) for _ in range(count)]


def laid_out(tokenizer, layout: str, plan, length: int, seed: int) -> dict[str, np.ndarray]:
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


def unmasked(x, y) -> np.ndarray:
    """Token ids [B,T] with what stood where the masks are."""
    ids = np.array(x["token_ids"])
    np.put_along_axis(ids, np.asarray(x["mask_positions"]), np.asarray(y), axis=1)
    return ids


def texts_of(tokenizer, rows, row: int) -> list[list[int]]:
    """The tokens of each segment of a row, without those that stand round its text."""
    segments = segments_of(rows["token_ids"], rows["segment_ids"], row)
    numbers = segments_of(rows["sentence_ids"], rows["segment_ids"], row)
    return [
        [token for token, number in zip(*both, strict=True) if number] for both in zip(segments, numbers, strict=True)
    ]
