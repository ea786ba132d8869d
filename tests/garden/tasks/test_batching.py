"""Packing loses no token, mixes no texts, and wastes little; padding is its plain twin."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from garden.layers import segment_positions
from garden.tasks.batching import pack, pad, spread, unpack

PAD = 99


@functools.cache
def compiled(layout, **options):
    """The layout as one graph for any lengths."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)] * 2, autograph=False)
    def run(values, lengths):
        ragged = tf.RaggedTensor.from_row_lengths(values, lengths)
        return layout(ragged, ragged + 1_000, pad_id=PAD, **options)

    return run


def laid_out(lengths, layout=pack, **options) -> dict[str, np.ndarray]:
    """Texts of these lengths as rows; the tokens of all of them are numbered from 100."""
    values = np.arange(100, 100 + sum(lengths), dtype=np.int32)
    given = compiled(layout, **options)(values, np.array(lengths, np.int32))
    return {name: value.numpy() for name, value in given.items()}


def check(lengths, x):
    """Every text stands once, whole and in one piece, where `text_index` and `text_positions` say."""
    R, T = x["token_ids"].shape
    texts = np.split(np.arange(100, 100 + sum(lengths)), np.cumsum(lengths)[:-1]) if lengths else []
    taken = np.zeros([R, T], bool)
    found = []
    for row, slot in np.ndindex(*x["text_index"].shape):
        index = x["text_index"][row, slot]
        if index < 0:
            assert x["text_positions"][row, slot] == 0
            continue
        found.append(index)
        start, length = x["text_positions"][row, slot], lengths[index]
        assert 0 <= start < T
        part = slice(start, start + length)
        np.testing.assert_array_equal(x["token_ids"][row, part], texts[index])
        np.testing.assert_array_equal(x["type_ids"][row, part], texts[index] + 1_000)
        np.testing.assert_array_equal(x["segment_ids"][row, part], slot + 1)
        np.testing.assert_array_equal(x["positions"][row, part], np.arange(length))
        assert not taken[row, part].any()
        taken[row, part] = True
    assert sorted(found) == list(range(len(lengths)))
    np.testing.assert_array_equal(x["token_ids"][~taken], PAD)
    for name in ("segment_ids", "positions", "type_ids"):
        np.testing.assert_array_equal(x[name][~taken], 0)
    np.testing.assert_array_equal(x["positions"][taken], segment_positions(x["segment_ids"]).numpy()[taken])
    assert (x["text_index"] >= 0).any(axis=1).all(), "no row without a text"
    assert all(value.dtype == np.int32 for value in x.values())


lengths_of_texts = st.lists(st.integers(0, 20), max_size=30)


@given(lengths_of_texts, st.sampled_from([1, 8, 64]), st.sampled_from([1, 16]))
@settings(max_examples=200, deadline=None)
def test_packing_keeps_every_text(lengths, row_length, multiple):
    x = laid_out(lengths, row_length=row_length, multiple=multiple)
    check(lengths, x)
    longest = max([*lengths, row_length])
    assert x["token_ids"].shape[1] == -(-longest // multiple) * multiple
    # First-fit on decreasing lengths needs at most 11/9 of the fewest rows possible, and one more.
    fewest = -(-sum(max(length, 1) for length in lengths) // x["token_ids"].shape[1])
    assert len(x["token_ids"]) <= len(lengths)
    if sum(lengths):
        full = [sum(max(lengths[index], 1) for index in row if index >= 0) for row in x["text_index"]]
        assert len(x["token_ids"]) <= max(2 * fewest, 1)
        # Whatever is first in a row did not fit in any row before it.
        for row in range(1, len(full)):
            first = lengths[x["text_index"][row, 0]]
            assert all(x["token_ids"].shape[1] - count < max(first, 1) for count in full[:row])


@given(lengths_of_texts, st.sampled_from([1, 16]))
@settings(max_examples=60, deadline=None)
def test_padding_is_one_text_a_row(lengths, multiple):
    x = laid_out(lengths, pad, multiple=multiple)
    check(lengths, x)
    np.testing.assert_array_equal(x["text_index"][:, 0], np.arange(len(lengths)))
    assert x["token_ids"].shape == (len(lengths), -(-max([*lengths, 1]) // multiple) * multiple)


def test_first_fit_example():
    x = laid_out([3, 6, 2, 5, 4, 10], row_length=10)
    rows = [[lengths for lengths in row if lengths >= 0] for row in x["text_index"].tolist()]
    assert rows == [[5], [1, 4], [3, 0, 2]]


def test_lengths_as_they_come_fill_rows_well():
    lengths = np.clip(np.random.default_rng(0).gamma(2.0, 14.0, 256).astype(int), 3, 128).tolist()
    x = laid_out(lengths, row_length=64)
    assert (x["segment_ids"] > 0).mean() > 0.95


@pytest.mark.parametrize("layout", [pack, pad])
def test_an_empty_batch_has_no_rows(layout):
    x = laid_out([], layout)
    check([], x)
    assert x["token_ids"].shape == (0, 1)
    assert unpack(tf.zeros([0, 1, 3]), x["text_index"], 0).shape == (0, 3)


def test_a_text_longer_than_the_rows_makes_them_longer():
    x = laid_out([3, 12, 2], row_length=8)
    check([3, 12, 2], x)
    assert x["token_ids"].shape == (2, 12)


def test_texts_without_tokens_have_places_of_their_own_after_a_full_row():
    x = laid_out([4, 0, 4, 0], row_length=4)
    check([4, 0, 4, 0], x)


@given(st.lists(st.integers(1, 9), max_size=12), st.sampled_from([pack, pad]))
@settings(max_examples=60, deadline=None)
def test_spread_and_unpack_undo_each_other(lengths, layout):
    index = laid_out(lengths, layout)["text_index"]
    for shape in ([], [3]):
        values = np.random.default_rng(0).normal(size=[len(lengths), *shape]).astype(np.float32)
        there = spread(tf.constant(values), index)
        assert there.shape == (*index.shape, *shape)
        np.testing.assert_array_equal(there.numpy()[index < 0], 0)
        np.testing.assert_array_equal(unpack(there, index, len(lengths)), values)


@pytest.mark.parametrize("count", [1, 3])
def test_batches_whose_size_is_known_are_packed_too(count):
    ragged = tf.RaggedTensor.from_row_lengths(tf.range(2 * count), [2] * count)

    @tf.function
    def packed():
        return pack(ragged, ragged, pad_id=0)

    assert packed()["token_ids"].shape == (count, 2)
