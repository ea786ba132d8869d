"""Positions inside segments against a loop, and the encodings against their formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from garden.layers import (
    LearnedPositions,
    SinusoidalPositions,
    rotary_frequencies,
    rotate,
    segment_positions,
    sinusoidal_table,
)

rows = st.integers(1, 12).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 3), min_size=length, max_size=length), max_size=5)
)
compiled = tf.function(segment_positions, input_signature=[tf.TensorSpec([None, None], tf.int32)])


@given(rows)
@settings(max_examples=150, deadline=None)
def test_segment_positions_count_from_each_change(segment_ids):
    expected = []
    for row in segment_ids:
        expected.append([])
        for index, segment in enumerate(row):
            same = index and row[index - 1] == segment
            expected[-1].append(expected[-1][-1] + 1 if same else 0)
    table = np.array(segment_ids, np.int32).reshape(len(segment_ids), -1 if segment_ids else 4)
    np.testing.assert_array_equal(compiled(table), np.array(expected, np.int32).reshape(table.shape))


def test_left_padding_does_not_shift_a_text():
    given = segment_positions(np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32))
    np.testing.assert_array_equal(given, [[0, 1, 0, 1, 2], [0, 1, 2, 0, 1]])
    assert given.dtype == tf.int32


def test_sinusoidal_table_is_the_papers():
    table = sinusoidal_table(300, 10)
    assert table.dtype == np.float32
    for position in (0, 1, 17, 299):
        for i in range(5):
            angle = position / 10_000 ** (2 * i / 10)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_sinusoidal_positions_look_the_table_up():
    layer = SinusoidalPositions(16, 8, dtype="mixed_bfloat16")
    positions = np.array([[0, 3, 15], [1, 1, 2]])
    given = layer(positions)
    assert given.dtype == tf.bfloat16
    np.testing.assert_array_equal(given, tf.cast(sinusoidal_table(16, 8)[positions], tf.bfloat16))
    assert not layer.weights


def test_learned_positions_are_rows_that_learn():
    layer = LearnedPositions(5, 3)
    positions = tf.constant([[0, 4, 4]])
    with tf.GradientTape() as tape:
        given = layer(positions)
    np.testing.assert_array_equal(given[0], layer.table.numpy()[[0, 4, 4]])
    gradient = tf.convert_to_tensor(tape.gradient(given, layer.table.value))
    np.testing.assert_array_equal(gradient[:, 0], [1, 0, 0, 0, 2])


def test_rotary_frequencies_are_the_papers():
    np.testing.assert_allclose(rotary_frequencies(8, 500.0), [500.0 ** (-2 * i / 8) for i in range(4)], rtol=1e-6)


@pytest.mark.parametrize("function", [lambda: rotary_frequencies(5), lambda: sinusoidal_table(4, 5)])
def test_odd_widths_are_refused(function):
    with pytest.raises(ValueError, match="got 5"):
        function()


def test_rotation_is_multiplication_by_a_complex_number():
    draw = np.random.default_rng(0)
    x, positions = draw.normal(size=[2, 4, 3, 6]).astype(np.float32), draw.integers(0, 500, [2, 4])
    frequencies = rotary_frequencies(6)
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * positions[:, :, None, None] * frequencies)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(tf.constant(x), positions, frequencies), expected, atol=1e-4)


def test_rotation_keeps_lengths_and_makes_products_depend_on_the_distance():
    draw = np.random.default_rng(1)
    query, key = (tf.constant(draw.normal(size=[1, 1, 1, 8]).astype(np.float32)) for _ in range(2))
    turned = lambda x, position: rotate(x, np.array([[position]]), rotary_frequencies(8)).numpy().reshape(-1)
    assert np.linalg.norm(turned(query, 77)) == pytest.approx(np.linalg.norm(query), abs=1e-5)
    products = [turned(query, 5 + shift) @ turned(key, 2 + shift) for shift in (0, 1, 100)]
    np.testing.assert_allclose(products, products[0], atol=1e-4)
    assert abs(turned(query, 5) @ turned(key, 3) - products[0]) > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_angles_are_computed_in_float32(dtype):
    x = tf.ones([1, 1, 1, 2], dtype)
    # 4,097 is no bfloat16 or float16: computed in either, the angle would be that of 4,096.
    given = tf.cast(rotate(x, np.array([[4_097]]), np.ones([1], np.float32)), tf.float32).numpy().reshape(-1)
    angle = 4_097.0
    expected = [math.cos(angle) - math.sin(angle), math.cos(angle) + math.sin(angle)]
    np.testing.assert_allclose(given, expected, atol=0.02)
