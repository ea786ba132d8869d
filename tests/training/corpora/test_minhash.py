"""Fingerprints: pure, and an estimate of what a plain comparison of sets of runs gives."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora import minhash
from training.corpora.minhash import HASH, Fingerprints, MinHash, bands, similarity, word_hashes


def plain_words(text: str) -> list[str]:
    """The words of a text, the slow way."""
    words, word = [], ""
    for character in text.lower():
        unspaced = any(first <= ord(character) <= last for first, last in minhash._UNSPACED)
        if character.isalnum() and not unspaced:
            word += character
            continue
        words += [word] * bool(word)
        words += [character] * character.isalnum()
        word = ""
    return words + [word] * bool(word)


def plain_similarity(ours: str, theirs: str, run: int) -> float:
    """The Jaccard similarity of two texts' sets of runs of words."""

    def runs(text: str) -> set:
        words = plain_words(text)
        return {tuple(words[begin : begin + run]) for begin in range(max(len(words) - run + 1, 1))}

    return len(runs(ours) & runs(theirs)) / len(runs(ours) | runs(theirs))


def pair(random: np.random.Generator, words: int = 150, changes: int = 10) -> tuple[str, str]:
    """A text of common words, and the same with some words changed."""
    one = [f"w{number}" for number in random.integers(400, size=words)]
    other = list(one)
    for place in random.integers(words, size=random.integers(changes + 1)):
        other[place] = f"x{random.integers(400)}"
    return " ".join(one), " ".join(other)


@settings(deadline=None)
@given(st.lists(st.text(st.characters() | st.sampled_from("ab 猫ก.\n"), max_size=60), max_size=8))
def test_words_are_the_plain_ones(texts):
    """The same words have the same hashes, others have others, and each text has its own."""
    hashes, counts = word_hashes(texts)
    words = [plain_words(text) for text in texts]
    assert counts.tolist() == list(map(len, words))
    named = dict(zip((word for each in words for word in each), hashes.tolist(), strict=True))
    assert [named[word] for each in words for word in each] == hashes.tolist()
    assert len(set(named.values())) == len(named)


@settings(deadline=None)
@given(st.lists(st.text("abcde fgh", max_size=200), min_size=1, max_size=6), st.integers(1, 40))
def test_a_fingerprint_depends_on_its_text_alone(texts, most):
    """Not on the texts beside it, nor on where batches, blocks and pieces of long texts end."""
    make = Fingerprints(MinHash())
    together = make(texts)
    assert together.shape == (len(texts), HASH + 128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "_BLOCK", most)
        patch.setattr(minhash, "_MOST_CHARACTERS", 10 * most)
        # Pieces end at spaces, or where there are none in the middle of a word.
        if max(map(len, " ".join(texts).split()), default=0) < 10 * most:
            np.testing.assert_array_equal(make(texts), together)
    np.testing.assert_array_equal([make([text])[0] for text in texts], together)


def test_is_the_same_in_another_process():
    code = (
        "from training.corpora.minhash import *; print(Fingerprints(MinHash())(['one two', 'drei'])[:, ::20].tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(Fingerprints(MinHash())(["one two", "drei"])[:, ::20].tolist())


def test_estimates_the_similarity_of_sets_of_runs():
    random = np.random.default_rng(1)
    pairs = [pair(random) for _ in range(400)]
    make = Fingerprints(MinHash())
    estimate = similarity(make([one for one, _ in pairs]), make([other for _, other in pairs]))
    true = np.array([plain_similarity(*each, run=5) for each in pairs])
    deviation = (estimate - true) / np.maximum(np.sqrt(true * (1 - true) / 128), 1 / 256)
    assert abs(deviation.mean()) < 0.2
    assert 0.8 < deviation.std() < 1.2
    assert abs(estimate - true).max() < 0.2
    assert (estimate[true == 1] == 1).all()


def test_what_counts_as_the_same():
    make = Fingerprints(MinHash())
    one, spaced, dotted, other, short, empty, symbols = make(
        [
            "The same words here, again.",
            "the SAME\nwords  here, again.",
            "the same words; here again",
            "Others",
            "others!",
            "",
            "+-",
        ]
    )
    assert (one[:HASH] == spaced[:HASH]).all()
    assert (one[:HASH] != dotted[:HASH]).any()
    assert similarity(one, dotted) == similarity(other, short) == 1
    assert similarity(one, other) < 0.1
    assert similarity(empty, symbols) == 0, "texts without words are not alike"


def test_bands_are_as_selective_as_recall_allows():
    assert bands(0.8, 128, 0.98) == (18, 7)
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        number, rows = bands(threshold, 128, 0.98)
        assert number * rows <= 128
        assert 1 - (1 - threshold**rows) ** number >= 0.98
