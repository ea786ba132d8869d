"""Compiled clusters, against the plain layers that they stand for."""

import numpy as np
import pytest
import tensorflow as tf

from garden.layers import FeedForward, MultiHeadAttention, activation, attention_bias, clusters
from garden.layers.blocks import EncoderBlock
from garden.layers.dropout import step_seed

SEED = tf.constant([3, -4])
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2}


def drawn(shape, index, dtype="float32"):
    return tf.cast(tf.random.stateless_normal(shape, [index, 7]), dtype)


def close(ours, plain, tolerance):
    for a, b in zip(ours, plain, strict=True):
        a, b = (tf.cast(x, tf.float32).numpy() for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def run(function, inputs, dtype):
    """The function's value and gradients, which are of a weighted sum of it."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return [y, *tape.gradient(y, inputs, drawn(y.shape, 99, dtype))]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_residual_norm(dtype, rate):
    shape = [4, 6, 32]
    inputs = [drawn(shape, 1, dtype), drawn(shape, 2, dtype), 1 + drawn([32], 3), drawn([32], 4)]
    options = {"seed": SEED, "rate": rate} if rate else {}

    def plain(x, change, scale, bias):
        mask = clusters.kept(change.shape, SEED, rate) if rate else 1.0
        y = tf.cast(x, tf.float32) + tf.cast(change, tf.float32) * mask
        mean, variance = tf.nn.moments(y, [-1], keepdims=True)
        return tf.cast((y - mean) * tf.math.rsqrt(variance + 1e-5) * scale + bias, x.dtype)

    ours = run(lambda *given: clusters.residual_norm(*given, epsilon=1e-5, **options), inputs, dtype)
    close(ours, run(plain, inputs, dtype), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("bias_shape", [[2, 1, 8, 16], [1, 3, 8, 16]])
def test_dropped_softmax(dtype, rate, bias_shape):
    inputs = [drawn([2, 3, 8, 16], 1, dtype), drawn(bias_shape, 2)]
    options = {"seed": SEED, "rate": rate} if rate else {}

    def plain(logits, bias):
        chances = tf.nn.softmax(tf.cast(logits, tf.float32) + bias)
        return tf.cast(chances * (clusters.kept(chances.shape, SEED, rate) if rate else 1.0), logits.dtype)

    ours = run(lambda *given: clusters.dropped_softmax(*given, **options), inputs, dtype)
    close(ours, run(plain, inputs, dtype), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ["gelu", "gelu_new", "silu", "relu"])
def test_activations(dtype, name):
    function, inputs = activation(name), [3 * drawn([5, 7], 1, dtype)]

    def plain(x):
        return tf.cast(function(tf.cast(x, tf.float32)), x.dtype)

    close(run(clusters.elementwise(function), inputs, dtype), run(plain, inputs, dtype), TOLERANCES[dtype])


def test_masks_keep_their_share_and_depend_on_nothing_else():
    shape = tf.TensorShape([512, 1024])
    fold = tf.random.experimental.stateless_fold_in
    # Two calls of one step, and the same call of the next step.
    seeds = [fold(fold(tf.constant([1, 0]), step), call) for step, call in ((7, 1), (7, 2), (8, 1), (7, 1))]
    masks = [clusters.kept(shape, seed, 0.1).numpy() for seed in seeds]
    assert np.array_equal(masks[0], masks[3])
    assert set(np.unique(masks[0])) == {0.0, np.float32(1 / 0.9)}
    zeros = [mask == 0 for mask in masks[:3]]
    size = zeros[0].size
    deviation = np.sqrt(0.1 * 0.9 / size)
    for zero in zeros:
        assert abs(zero.mean() - 0.1) < 4 * deviation
        # No row and no column has more or fewer than chance gives them.
        for axis, length in ((0, 512), (1, 1024)):
            spread = zero.mean(axis=axis).std() / np.sqrt(0.1 * 0.9 / length)
            assert 0.9 < spread < 1.1
        # Neighbours, near and far, know nothing of each other.
        for step in (1, 2, 16, 1024, 4096):
            both = (zero.ravel()[step:] & zero.ravel()[:-step]).mean()
            assert abs(both - 0.01) < 5 * np.sqrt(0.01 / size)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for step in (0, 1, 2, 3):
            both = (zeros[one].ravel()[step:] & zeros[other].ravel()[: size - step]).mean()
            assert abs(both - 0.01) < 5 * np.sqrt(0.01 / size)
    assert (clusters.kept(shape, SEED, 0.0).numpy() == 1).all()


def block(dropout=0.0):
    layer = EncoderBlock(MultiHeadAttention(32, 2, dropout=dropout), FeedForward(32, 64), dropout=dropout)
    layer.build((None, None, 32))
    return layer


def outcome(layer, x, segments):
    with tf.GradientTape() as tape, step_seed(1, tf.constant(5)):
        y = layer(x, bias=attention_bias(segments), training=True)
        loss = tf.reduce_sum(y * drawn(y.shape, 9))
    return [y, *tape.gradient(loss, layer.trainable_variables)]


def test_a_block_trains_as_the_plain_one_does(monkeypatch):
    layer, x = block(), drawn([2, 8, 32], 1)
    segments = tf.constant([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])
    plain = outcome(layer, x, segments)
    monkeypatch.setattr(clusters, "LEAST", 0)
    assert clusters.worthwhile(x, True)
    close(outcome(layer, x, segments), plain, 1e-4)


def test_a_block_with_dropout_is_a_function_of_seed_and_step(monkeypatch):
    monkeypatch.setattr(clusters, "LEAST", 0)
    layer, x, segments = block(0.5), drawn([2, 8, 32], 1), tf.ones([2, 8], tf.int32)
    first, again = (outcome(layer, x, segments)[0].numpy() for _ in range(2))
    assert np.array_equal(first, again)
    with step_seed(1, tf.constant(6)):
        assert not np.allclose(first, layer(x, bias=attention_bias(segments), training=True))


def test_inference_small_tensors_and_unknown_shapes_stay_plain():
    large = tf.zeros([1024, 1024])
    assert clusters.worthwhile(large, True)
    assert not clusters.worthwhile(large, False)
    assert not clusters.worthwhile(tf.zeros([8, 8]), True)

    @tf.function(input_signature=[tf.TensorSpec([None, 1024])])
    def unknown(x):
        return tf.constant(clusters.worthwhile(x, True))

    assert not unknown(large)
