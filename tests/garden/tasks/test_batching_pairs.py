"""Packing sources with their targets loses no token, keeps both sides of an example in one row, and wastes little."""

import functools

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from garden.tasks.batching import pack_pairs, pad_pairs

PAD = 99


@functools.cache
def compiled(layout, **options):
    """The layout as one graph for any lengths."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)] * 4, autograph=False)
    def run(*sides):
        sources, targets = (tf.RaggedTensor.from_row_lengths(*sides[i : i + 2]) for i in (0, 2))
        return layout(sources, targets, pad_id=PAD, **options)

    return run


def laid_out(lengths, layout=pack_pairs, **options) -> dict[str, np.ndarray]:
    """Examples of these lengths as rows: tokens of sources are numbered from 100, of targets from 10,100."""
    parts = []
    for side in range(2):
        sizes = np.array([pair[side] for pair in lengths], np.int32)
        parts += [np.arange(sizes.sum(), dtype=np.int32) + 100 + 10_000 * side, sizes]
    return {name: value.numpy() for name, value in compiled(layout, **options)(*parts).items()}


def check(lengths, x):
    """Every example stands once, both sides whole, in one row and of one segment number."""
    found = []
    for side, prefix in enumerate(("", "target_")):
        ids, segments, positions = (
            x[name]
            for name in (f"{prefix}ids" if prefix else "token_ids", f"{prefix}segment_ids", f"{prefix}positions")
        )
        begins = np.cumsum([0, *(pair[side] for pair in lengths)]) + 100 + 10_000 * side
        taken = np.zeros(ids.shape, bool)
        for row, slot in np.ndindex(*x["text_index"].shape):
            index = x["text_index"][row, slot]
            if index < 0:
                continue
            found.append((side, index))
            here = segments[row] == slot + 1
            size = lengths[index][side]
            np.testing.assert_array_equal(ids[row, here], begins[index] + np.arange(size))
            np.testing.assert_array_equal(positions[row, here], np.arange(size))
            places = np.flatnonzero(here)
            assert not size or places[-1] - places[0] == size - 1, "in one piece"
            taken[row] |= here
        np.testing.assert_array_equal(ids[~taken], PAD)
        np.testing.assert_array_equal(segments[~taken], 0)
        np.testing.assert_array_equal(positions[~taken], 0)
    assert sorted(found) == [(side, index) for side in range(2) for index in range(len(lengths))]
    assert (x["text_index"] >= 0).any(axis=1).all(), "no row without an example"
    assert all(value.dtype == np.int32 for value in x.values())


pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12)), max_size=25)


@given(pairs, st.sampled_from([1, 8, 64]), st.sampled_from([1, 16]))
@settings(max_examples=150, deadline=None)
def test_packing_keeps_every_example(lengths, row_length, multiple):
    x = laid_out(lengths, row_length=row_length, multiple=multiple)
    check(lengths, x)
    longest = max([row_length, *(source for source, _ in lengths)])
    assert x["token_ids"].shape[1] == -(-longest // multiple) * multiple
    assert x["target_ids"].shape[1] % multiple == 0
    assert len(x["token_ids"]) == len(x["target_ids"]) <= len(lengths)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_padding_gives_each_example_a_row(lengths):
    x = laid_out(lengths, pad_pairs)
    check(lengths, x)
    np.testing.assert_array_equal(x["text_index"][:, 0], np.arange(len(lengths)))


def test_both_sides_are_filled_well():
    random = np.random.default_rng(0)
    lengths = [(int(size), int(size * 0.4) + 1) for size in random.integers(4, 40, 200)]
    x = laid_out(lengths, row_length=128)
    assert (x["segment_ids"] > 0).mean() > 0.85
    assert (x["target_segment_ids"] > 0).mean() > 0.85
    assert x["target_ids"].shape[1] < x["token_ids"].shape[1]
