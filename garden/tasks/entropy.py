"""Cross-entropy and accuracy over a vocabulary, in few passes over the logits: they are training's largest tensor.

Shapes: M predicted places of all rows, V vocabulary.
"""

from collections.abc import Callable

import keras
import tensorflow as tf


def vocabulary_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of ids [M] under logits [M,V]: [M] float32.

    What `tf.nn.sparse_softmax_cross_entropy_with_logits` returns, in a quarter of its time on CPUs: softmax is oneDNN's, and
    its result becomes the gradient, in which only the targets' places are other. bfloat16 logits stay what they are.
    """
    if logits.dtype == tf.float16:
        # Most of a softmax is below what float16 holds.
        logits = tf.cast(logits, tf.float32)
    return _entropy(logits, tf.cast(targets, tf.int32))


@tf.custom_gradient
def _entropy(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    chances = tf.nn.softmax(logits)
    likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)

    def at(x: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(x, ids, batch_dims=1), tf.float32)

    # log sum exp, from the one place whose chance cannot be too small for its logarithm.
    normaliser = at(logits, likeliest) - tf.math.log(at(chances, likeliest))
    losses = normaliser - at(logits, targets)

    def gradient(upstream: tf.Tensor):
        places = tf.stack([tf.range(tf.shape(targets)[0]), targets], axis=-1)
        # chance - 1; bfloat16 chances near 1 have no digits left for it.
        change = tf.tensor_scatter_nd_update(chances, places, tf.cast(tf.math.expm1(-losses), chances.dtype))
        return change * tf.cast(upstream, change.dtype)[:, None], None

    return losses, gradient


@keras.saving.register_keras_serializable("garden")
class VocabularyEntropy(keras.losses.Loss):
    """`vocabulary_entropy` as a loss: ids [M], logits [M,V]."""

    def call(self, y_true, y_pred):
        return vocabulary_entropy(y_true, y_pred)


@keras.saving.register_keras_serializable("garden")
class VocabularyAccuracy(keras.metrics.Mean):
    """How often the likeliest of logits [M,V] is the id [M]; the first of equals, as everywhere.

    Keras's `SparseCategoricalAccuracy` passes over the logits five times, for zeros with a sign.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        right = tf.argmax(y_pred, axis=-1, output_type=tf.int32) == tf.cast(y_true, tf.int32)
        return super().update_state(tf.cast(right, tf.float32), sample_weight=sample_weight)
