"""The vocabulary's loss and accuracy, against the plain ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.tasks.entropy import VocabularyAccuracy, VocabularyEntropy, vocabulary_entropy


def plain(targets, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32))


def both(dtype, scale):
    logits = tf.cast(tf.random.stateless_normal([64, 1000], [1, 2]) * scale, dtype)
    targets = tf.random.stateless_uniform([64], [3, 4], 0, 1000, tf.int32)
    # Some places are sure of their targets, some of others.
    logits += tf.cast(tf.one_hot(targets, 1000) * tf.linspace(-40.0, 40.0, 64)[:, None], dtype)
    weights = tf.random.stateless_uniform([64], [5, 6])
    for function in (vocabulary_entropy, plain):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function(targets, logits)
        yield losses.numpy(), tf.cast(tape.gradient(losses, logits, weights), tf.float32).numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 8e-3), ("float16", 1e-3)])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_losses_and_gradients_are_the_plain_ones(dtype, tolerance, scale):
    (losses, gradient), (plain_losses, plain_gradient) = both(dtype, scale)
    np.testing.assert_allclose(losses, plain_losses, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=tolerance, atol=tolerance / 2)


def test_a_target_whose_chance_is_zero_in_float32_has_a_finite_loss():
    logits = tf.constant([[0.0, 500.0, -500.0]])
    assert vocabulary_entropy([2], logits).numpy() == pytest.approx([1000.0])
    assert VocabularyEntropy()([1], logits).numpy() == pytest.approx(0.0)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 1.0, 1.0]])
def test_accuracy_is_keras_s(weights):
    logits = tf.constant([[1.0, 3.0, 2.0], [1.0, 0.0, 0.0], [5.0, 5.0, 1.0], [0.0, 0.0, -1.0]])
    ours, theirs = VocabularyAccuracy(), keras.metrics.SparseCategoricalAccuracy()
    for metric in (ours, theirs):
        metric.update_state([1, 2, 0, 1], logits, sample_weight=weights)
    assert float(ours.result()) == pytest.approx(float(theirs.result()))
