"""Perplexity, of all predicted tokens together."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("garden")
class Perplexity(keras.metrics.Mean):
    """exp of the mean cross-entropy of ids [M] under logits [M,V], over all batches and replicas."""

    def __init__(self, name: str = "perplexity", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y_true, tf.int32), y_pred)
        return super().update_state(losses, sample_weight=sample_weight)

    def result(self):
        # A mean of batches' perplexities would be another number. exp(88) is the last that float32 holds.
        return tf.exp(tf.minimum(super().result(), 88.0))
