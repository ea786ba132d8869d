"""Repeated runs of sentences: what stays is what a plain twin leaves, in one piece or after a kill."""

import json

import numpy as np
import pytest
from corpus_texts import built, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.config import make_corpus_config
from training.corpora.describe import rows_as_text
from training.corpora.repeats import Repeats, Runs
from training.corpora.sentences import sentences
from training.corpora.store import Corpus
from training.corpora.workers import Local

SENTENCES = st.sampled_from(["The cat sat.", "Dogs ran on.", "THE  cat sat.", "Birds sang!", "On a mat?"])
TEXTS = st.lists(st.lists(SENTENCES, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=12)


def plainly(texts: list[str], length: int) -> list[str]:
    """Each run is looked for among all that came before."""
    seen, left = set(), []
    for text in texts:
        parts = sentences(text)
        plain = [" ".join(part.lower().split()) for part in parts]
        gone = set()
        for begin in range(len(parts) - length + 1):
            run = tuple(plain[begin : begin + length])
            if run in seen:
                gone.update(range(begin, begin + length))
            seen.add(run)
        left.append("".join(part for place, part in enumerate(parts) if place not in gone).strip())
    return left


def judged(repeats: Repeats, runs: Runs, texts: list[str], at_once: int) -> list[str]:
    left, fed = [], 0
    for begin in range(0, len(texts), at_once):
        some = texts[begin : begin + at_once]
        counts, hashes = runs(some)
        repeated = repeats.judge(hashes, fed)
        fed += len(hashes)
        ends = np.cumsum(counts)
        left += [
            runs.without(text, repeated[end - count : end]) for text, count, end in zip(some, counts, ends, strict=True)
        ]
    return left


@settings(deadline=None, max_examples=60)
@given(texts=TEXTS, length=st.integers(1, 3), at_once=st.integers(1, 5), stop=st.integers(0, 12))
def test_what_stays_is_what_a_plain_twin_leaves(tmp_path_factory, texts, length, at_once, stop):
    directory = tmp_path_factory.mktemp("repeats")
    runs = Runs(length)
    first = Repeats(directory, length, most_held=8)  # which is written again and again
    judged(first, runs, texts[:stop], 2)
    # Whether the first wrote its index at last or was killed: another one is told the same.
    if stop % 2:
        first.close()
    assert judged(Repeats(directory, length), runs, texts, at_once) == plainly(texts, length)


def test_lines_stay_lines():
    runs = Runs(1)
    counts, _ = runs(["One.\nTwo. Three.\nFour."])
    assert counts.tolist() == [4]
    assert runs.without("One.\nTwo. Three.\nFour.", np.array([False, True, True, False])) == "One.\nFour."
    assert runs.without("One.\nTwo. Three.\nFour.", np.array([False, False, True, True])) == "One.\nTwo."


@pytest.mark.parametrize(
    "cleaning",
    [
        {},
        pytest.param({"exact_duplicates": True}, id="duplicates", marks=pytest.mark.slow),
        pytest.param({"c4": True}, id="c4", marks=pytest.mark.slow),
    ],
)
def test_a_corpus_without_them(cleaning, tokenizer_dir, tmp_path):
    notice = "The cat sat on a mat. Dogs ran over hills in rain. Birds sang and dogs sat on."
    texts = [f"A cat ran over the hills {'and on ' * number}. {notice}" for number in range(1, 7)]
    texts += [texts[0], notice]
    write_jsonl(tmp_path / "texts.jsonl", texts)
    config = make_corpus_config(
        {
            "sources": [{"name": "pages", "paths": [str(tmp_path / "texts.jsonl")]}],
            "tokenizer": str(tokenizer_dir),
            "sequence_length": 64,
            "cleaning": {"repeated_sentences": 3, **cleaning},
        }
    )
    report, _ = built(config, tmp_path / "corpus", Local(1))
    rows = rows_as_text(tmp_path / "corpus", split="train", count=Corpus(tmp_path / "corpus").rows("train"))
    together = " ".join(segment["text"] for row in rows for segment in row["segments"])
    assert together.count("birds sang") == 1
    counts = report["sources"]["pages"]["cleaning"]["counts"]
    of_copies = 1 if cleaning.get("exact_duplicates") else 2
    assert counts["changed repeated_sentences"] == 5 + of_copies
    # Of the notice alone nothing is left, nor of a page of C4 with a sentence of its own.
    dropped = {"c4": 7, "exact_duplicates": 1}.get(next(iter(cleaning), ""), 2)
    assert report["dropped"]["repeated_sentences"] == counts["dropped repeated_sentences"] == dropped
    assert counts["kept"] == 8 - dropped
    assert json.loads((tmp_path / "corpus/report.json").read_text()) == report
