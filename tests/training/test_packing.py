"""Rows of packed documents: nothing is lost, nothing crosses, little is padding; the same documents give the same rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.packing import Layout, Packer, batch_of, pack

LAYOUTS = {
    "single": Layout(name="single", prefix=(101,), suffix=(102,)),
    "pair": Layout(name="pair", prefix=(101,), suffix=(102, 102)),
    "causal": Layout(name="causal", suffix=(103,)),
    "causal_with_prefix": Layout(name="causal", prefix=(104,), suffix=(103,)),
}


def packed(documents, length, layout, **options):
    packer = Packer(length, layout, **options)
    rows = [row for ids, starts in documents for row in packer.add(ids, starts)]
    rows += list(packer.finish())
    return packer.laid_out(rows), packer.counts


def segments(rows):
    """The ids of each segment, row by row."""
    batch = batch_of(rows, pad_id=0)
    found = []
    for ids, numbers in zip(batch["token_ids"], batch["segment_ids"], strict=True):
        found += [list(ids[numbers == number]) for number in range(1, numbers.max(initial=0) + 1)]
    return found


def random_documents(count, seed=0, longest=300):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / 80, count), longest)
    return [(1000 + np.arange(length) + 1000 * index, None) for index, length in enumerate(lengths)]


documents_of = st.lists(st.integers(0, 60), max_size=40).map(
    lambda lengths: [(1000 + np.arange(length) + 1000 * index, None) for index, length in enumerate(lengths)]
)


@settings(deadline=None, max_examples=60)
@given(documents_of, st.sampled_from(list(LAYOUTS)), st.integers(6, 50), st.sampled_from([1, 2, 8, 64]))
def test_every_token_is_there_once_and_in_order(documents, name, length, open_rows):
    layout = LAYOUTS[name]
    rows, counts = packed(documents, length, layout, open_rows=open_rows, least_piece=3)
    assert rows.token_ids.shape[1] == length
    pieces = {}
    for segment in segments(rows):
        inside = segment
        if not layout.carry:
            assert tuple(segment[: len(layout.prefix)]) == layout.prefix
            assert tuple(segment[-len(layout.suffix) :]) == layout.suffix
            inside = segment[len(layout.prefix) : -len(layout.suffix)]
        own = [token for token in inside if token >= 1000]
        assert len({token // 1000 for token in own}) <= 1, "two documents in one segment"
        if own:
            pieces.setdefault(own[0] // 1000, []).append(inside)
    for index, (ids, _) in enumerate(documents):
        if not len(ids):
            continue
        # Pieces of one document in the order of what they begin with; causal ones overlap by a token.
        mine = sorted(pieces[index + 1], key=lambda piece: min(token for token in piece if token >= 1000))
        whole = list(mine[0])
        for piece in mine[1:]:
            assert not layout.carry or whole[-1] == piece[0]
            whole += piece[1:] if layout.carry else piece
        expected = [*layout.prefix, *ids, *layout.suffix] if layout.carry else list(ids)
        assert whole == expected
    assert counts.documents == len(documents)
    assert counts.empty == sum(not len(ids) for ids, _ in documents)
    assert counts.real == rows.real.sum()
    assert counts.rows == len(rows)


@settings(deadline=None, max_examples=60)
@given(documents_of, st.integers(0, 5), st.integers(0, 5), st.sampled_from(["single", "causal"]), st.integers(14, 50))
def test_special_tokens_are_known_wherever_a_cut_falls(documents, before, after, name, length):
    layout = Layout(name=name, prefix=tuple(range(1, 1 + before)), suffix=tuple(range(11, 11 + after)))
    rows, _ = packed(documents, length, layout, open_rows=3, least_piece=1)
    real = np.arange(length) < rows.real[:, None]
    np.testing.assert_array_equal(rows.special, real & (rows.token_ids < 1000))


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_full(name, length):
    rows, counts = packed(random_documents(20_000), length, LAYOUTS[name])
    assert counts.fill > 0.99
    assert counts.fill == pytest.approx(np.mean(rows.real / length))


def test_the_same_documents_give_the_same_rows():
    first, _ = packed(random_documents(500), 64, LAYOUTS["single"])
    second, _ = packed(random_documents(500), 64, LAYOUTS["single"])
    np.testing.assert_array_equal(first.token_ids, second.token_ids)


def test_streaming_gives_the_rows_that_packing_at_once_gives():
    documents = random_documents(3000)
    whole, _ = packed(documents, 64, LAYOUTS["single"])
    parts = list(pack(iter(documents), 64, LAYOUTS["single"], at_once=100))
    assert len(parts) > 10
    np.testing.assert_array_equal(np.concatenate([part.token_ids for part in parts]), whole.token_ids)


def test_a_batch_says_where_segments_and_sentences_are():
    starts = np.array([True, False, False, True, False])
    rows, _ = packed(
        [(np.arange(1000, 1005), starts), (np.arange(2000, 2002), None)], 12, LAYOUTS["single"], open_rows=1
    )
    batch = batch_of(rows, pad_id=7)
    assert batch["token_ids"].tolist() == [[101, 1000, 1001, 1002, 1003, 1004, 102, 101, 2000, 2001, 102, 7]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0]]
    assert batch["sentence_ids"].tolist() == [[0, 1, 1, 1, 2, 2, 0, 0, 1, 1, 0, 0]]
    assert all(values.dtype == np.int32 for values in batch.values())


def test_cuts_are_counted():
    _, counts = packed([(np.arange(25), None)], 12, LAYOUTS["single"])
    assert counts.cut == 2


def test_a_row_without_room_is_refused():
    with pytest.raises(
        ValueError, match="sequence_length: 4 places have no room for the pair layout's 3 special tokens"
    ):
        Packer(4, LAYOUTS["pair"])


def test_no_documents_give_no_rows():
    assert list(pack([], 16, LAYOUTS["single"])) == []
