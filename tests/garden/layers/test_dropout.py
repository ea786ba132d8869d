"""Dropout's rate, scale and seeds: the same seed and step give the same masks, anything else gives others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.layers import Dropout, step_seed
from garden.layers.dropout import keep_mask

ONES = np.ones([200, 500], np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_rate_and_scale(rate):
    given = Dropout(rate, seed=1)(ONES, training=True).numpy()
    # Five standard deviations of a share of 100,000 independent draws.
    slack = 5 * np.sqrt(rate * (1 - rate) / ONES.size)
    assert abs((given == 0).mean() - rate) < slack
    np.testing.assert_allclose(given[given != 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(given.mean() - 1) < slack / (1 - rate)


def test_neighbours_are_independent():
    dropped = (Dropout(0.3, seed=2)(ONES, training=True).numpy() == 0).reshape(-1)
    for lag in (1, 2, 3, 500):
        correlation = np.corrcoef(dropped[:-lag], dropped[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(dropped.size), lag


@pytest.mark.parametrize("shape", [[0, 4], [1], [3, 5, 7], [1, 1]], ids=str)
def test_any_shape(shape):
    assert keep_mask(tf.constant(shape), tf.constant([1, 2]), 0.5).shape == shape
    assert Dropout(0.5)(tf.ones(shape), training=True).shape == shape


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_dtype_stays(dtype):
    given = Dropout(0.5, dtype="mixed_float16")(tf.cast(ONES[:2], dtype), training=True)
    assert given.dtype == dtype
    assert set(tf.cast(given, tf.float32).numpy().reshape(-1)) == {0.0, 2.0}


def test_nothing_happens_outside_training_or_at_rate_zero():
    x = tf.constant(ONES)
    assert Dropout(0.5)(x) is x
    layer = Dropout(0.0)
    assert layer(x, training=True) is x
    assert not layer.variables


def test_gradient_is_the_mask():
    x = tf.constant(ONES[:3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Dropout(0.5)(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match=f"got {rate}"):
        Dropout(rate)


def test_a_seed_generator_counts_outside_of_steps():
    first, second, other = Dropout(0.5, seed=7), Dropout(0.5, seed=7), Dropout(0.5, seed=8)
    masks = [first(ONES, training=True) for _ in range(3)]
    for mask in masks:
        np.testing.assert_array_equal(mask, second(ONES, training=True))
        assert np.any(mask != other(ONES, training=True))
    assert np.any(masks[0] != masks[1])
    assert np.any(masks[1] != masks[2])


def test_keras_seeds_layers_without_one():
    def mask():
        keras.utils.set_random_seed(5)
        return Dropout(0.5)(ONES, training=True)

    np.testing.assert_array_equal(mask(), mask())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_a_step_decides_masks_whatever_happened_before(compiled):
    layers = [Dropout(0.5), Dropout(0.5)]

    def masks(seed, step):
        with step_seed(seed, step):
            return [layer(ONES, training=True) for layer in layers] + [layers[0](ONES, training=True)]

    run = tf.function(masks) if compiled else masks
    once = run(3, tf.constant(10))
    layers[0](ONES, training=True)
    for given, again in zip(once, run(3, tf.constant(10)), strict=True):
        np.testing.assert_array_equal(given, again)
    others = run(3, tf.constant(11)) + run(4, tf.constant(10))
    distinct = {mask.numpy().tobytes() for mask in once + others}
    assert len(distinct) == 9, "each call, step and seed has masks of its own"


def test_graph_and_eager_masks_of_a_step_are_the_same():
    layer = Dropout(0.5)

    def mask(step):
        with step_seed(1, step):
            return layer(ONES, training=True)

    np.testing.assert_array_equal(mask(tf.constant(2)), tf.function(mask)(tf.constant(2)))


def test_the_end_of_a_step_is_the_end_of_its_seeds():
    layer = Dropout(0.5, seed=1)
    with pytest.raises(RuntimeError), step_seed(0, tf.constant(0)):
        raise RuntimeError
    np.testing.assert_array_equal(layer(ONES, training=True), Dropout(0.5, seed=1)(ONES, training=True))
