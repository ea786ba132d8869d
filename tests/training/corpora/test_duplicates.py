"""Duplicates: as a plain comparison finds them, in any batches, with little memory, and after a kill."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora import buckets
from training.corpora.buckets import Buckets
from training.corpora.duplicates import Duplicates, bucket_keys
from training.corpora.minhash import HASH, Fingerprints, MinHash, similarity


def corpus(seed: int = 1, documents: int = 600) -> list[str]:
    """Texts of which about a third repeat an earlier one, exactly or with some words changed."""
    random = np.random.default_rng(seed)
    texts: list[str] = []
    for _ in range(documents):
        words = [f"w{number}" for number in random.integers(300, size=random.integers(3, 120))]
        if texts and random.random() < 0.35:
            words = texts[random.integers(len(texts))].split()
            for place in random.integers(len(words), size=random.integers(4)):
                words[place] = f"x{random.integers(9)}"
        texts.append(" ".join(words))
    return texts


def plain_verdicts(fingerprints: np.ndarray, near: float | None, minhash: MinHash | None) -> list[tuple[int, bool]]:
    """What `Duplicates` finds, the slow way: each document against the first of each of its buckets."""
    firsts: dict[int, int] = {}
    verdicts = []
    for number, keys in enumerate(bucket_keys(fingerprints, near, minhash).tolist()):
        candidates = sorted({firsts.setdefault(key, number) for key in keys if key} - {number})
        ours = fingerprints[number]
        same = [each for each in candidates if (fingerprints[each, :HASH] == ours[:HASH]).all()]
        alike = [each for each in candidates if near is not None and similarity(ours, fingerprints[each]) >= near]
        verdicts.append((min(same or alike or [-1]), bool(same)))
    return verdicts


@pytest.mark.parametrize("near", [None, 0.6, 0.9])
@pytest.mark.parametrize("batch", [1, 37, 600])
def test_finds_what_the_plain_way_finds_in_any_batches(tmp_path, near, batch):
    texts = corpus()
    # So few keys in memory that there are many runs.
    with Duplicates(tmp_path, near, most_held=200) as duplicates:
        prints = duplicates.fingerprints(texts)
        parts = [duplicates.judge(prints[begin : begin + batch]) for begin in range(0, len(prints), batch)]
        found = [
            (int(first), bool(exact)) for each in parts for first, exact in zip(each.first, each.exact, strict=True)
        ]
        assert found == plain_verdicts(prints, near, duplicates.minhash)
        assert len(duplicates) == len(texts)
        counts = sum((each.counts for each in parts), start=type(parts[0].counts)())
        assert counts["dropped exact_duplicates"] == sum(exact for _, exact in found) > 20
        assert counts["dropped near_duplicates"] == sum(first >= 0 and not exact for first, exact in found)
        assert (counts["dropped near_duplicates"] > 10) == (near is not None)


def test_finds_planted_duplicates_and_nothing_else(tmp_path):
    """Recall at the threshold's upper side and precision at its lower, away from the estimate's own error."""
    random = np.random.default_rng(2)
    originals = [" ".join(f"w{number}" for number in random.integers(5000, size=200)) for _ in range(400)]
    alike, other = [], []
    for text in originals:
        words = text.split()
        # 2 changed words change at most 10 of 196 runs: similarity 186 / 206 = 0.90; 15 change about 70: below 0.5.
        for into, changes in ((alike, 2), (other, 15)):
            changed = list(words)
            for place in random.permutation(200)[:changes]:
                changed[place] = "changed"
            into.append(" ".join(changed))
    with Duplicates(tmp_path, 0.8) as duplicates:
        assert not duplicates.judge(duplicates.fingerprints(originals)).duplicate.any()
        found = duplicates.judge(duplicates.fingerprints(alike))
        assert found.duplicate.mean() > 0.98
        assert (found.first[found.duplicate] == np.flatnonzero(found.duplicate)).all()
        assert not duplicates.judge(duplicates.fingerprints(other)).duplicate.any()


@pytest.mark.parametrize("most_held", [100, 1 << 20])
def test_goes_on_after_a_kill(tmp_path, most_held):
    texts = corpus(3)
    whole = Duplicates(tmp_path / "whole", 0.7, most_held=most_held)
    prints = whole.fingerprints(texts)
    expected = whole.judge(prints)
    killed = Duplicates(tmp_path / "killed", 0.7, most_held=most_held)
    killed.judge(prints[:250])
    del killed  # nothing saved or closed
    with (tmp_path / "killed/fingerprints.bin").open("ab") as file:
        file.write(prints[250].tobytes() + b"half")
    with (tmp_path / "killed/verdicts.bin").open("ab") as file:
        file.write(b"half")
    (tmp_path / "killed/000999.run").write_bytes(b"half")
    again = Duplicates(tmp_path / "killed", 0.7, most_held=most_held)
    assert len(again) == 250
    found = again.judge(prints[200:], start=200)
    np.testing.assert_array_equal(found.first, expected.first[200:])
    np.testing.assert_array_equal(again.verdicts(0, 1000).first, expected.first)
    np.testing.assert_array_equal(again.verdicts(0, 1000).exact, expected.exact)


def test_says_what_does_not_fit(tmp_path):
    with Duplicates(tmp_path, 0.8) as duplicates:
        prints = duplicates.fingerprints(["one", "two", "three"])
        duplicates.judge(prints)
        with pytest.raises(ValueError, match=r"document 1 is not the one that was judged before.*remove"):
            duplicates.judge(prints[[0, 2]], start=0)
        with pytest.raises(ValueError, match="document 5: the next one is 3; feed documents in corpus order"):
            duplicates.judge(prints, start=5)
        assert len(duplicates.judge(prints[:0])) == 0
    with pytest.raises(ValueError, match=r"an index of duplicates with other settings.*remove it"):
        Duplicates(tmp_path, 0.9)


def test_texts_without_words_are_duplicates_only_if_they_are_the_same(tmp_path):
    with Duplicates(tmp_path, 0.5) as duplicates:
        found = duplicates.judge(duplicates.fingerprints(["+-", "-+", "", "+ -", "+-"]))
        assert found.first.tolist() == [-1, -1, -1, -1, 0]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(1, 60), max_size=30), max_size=12),
    st.integers(1, 40),
    st.integers(1, 8),
)
def test_the_index_is_a_dictionary(tmp_path_factory, batches, most_held, block):
    directory = tmp_path_factory.mktemp("index")
    known: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_PAGE", 2)
        patch.setattr(buckets, "_GAP", 1)
        patch.setattr(buckets, "_BLOCK", 2 * block)
        index = Buckets(directory, {}, most_held=most_held)
        number = 0
        for keys in batches:
            numbers = np.arange(number, number + len(keys))
            expected = [known.setdefault(key, at) for key, at in zip(keys, numbers.tolist(), strict=True)]
            assert index.first(np.array(keys, np.uint64), numbers).tolist() == expected
            number += len(keys)
            if index.is_full():
                index.save(number)
                index = Buckets(directory, {}, most_held=most_held)
                assert index.documents == number
        assert len(list(directory.glob("*.run"))) <= 8


def test_keys_depend_on_nothing_but_fingerprints():
    """So that a cluster may group by them."""
    make = Fingerprints(MinHash())
    prints = make(corpus(documents=50))
    keys = bucket_keys(prints, 0.8, make.minhash)
    assert keys.shape == (50, 1 + 18)
    np.testing.assert_array_equal(bucket_keys(prints[7:9], 0.8, make.minhash), keys[7:9])
    assert bucket_keys(prints, None, None).shape == (50, 1)


def test_memory_does_not_grow_with_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "_BLOCK", 1 << 12)
    count = 1 << 20  # 16 MiB of entries
    keys = np.random.default_rng(1).integers(1, 2**64, count, np.uint64)
    index = Buckets(tmp_path, {})
    for begin in (0, count // 2):
        half = slice(begin, begin + count // 2)
        index.first(keys[half], np.arange(count)[half])
        if begin == 0:
            index.save(count // 2)
    tracemalloc.start()
    try:
        index.save(count)  # merges the two runs
        again = Buckets(tmp_path, {})
        found = again.first(keys[::1000], np.arange(count, count + len(keys[::1000])))
        assert found.tolist() == list(range(0, count, 1000))
        assert len(again._runs) == 1
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
