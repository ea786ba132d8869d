"""One vector for each text of a row.

Shapes: B batch, T length, Q texts of a row, D model width, A width of the scores' hidden layer.
"""

import keras
import tensorflow as tf

from garden.layers.projection import Dense


@keras.saving.register_keras_serializable("garden")
class AdditivePooling(keras.layers.Layer):
    """A weighted mean of a text's states, with weights from an additive score (Bahdanau et al., 2015; Lin et al., 2017).

        e_t = v . tanh(W h_t + b),   a = softmax(e) inside a text,   pooled = sum_t a_t h_t

    [B,T,D] -> [B,D], of each row's first text; with `texts` [B,Q], numbers of segments, [B,Q,D]. A text without a token gets
    zeros.

    Args:
        inner_width: A; default: D.
    """

    def __init__(self, inner_width: int | None = None, *, initializer="glorot_uniform", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.inner_width = inner_width
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        width = self.inner_width or input_shape[-1]
        parts = {"initializer": self.initializer, "dtype": self.dtype_policy}
        self.inner = Dense(width, name="inner", **parts)
        self.score = Dense(1, bias=False, name="score", **parts)
        self.inner.build(input_shape)
        self.score.build((*input_shape[:-1], width))

    def call(self, x: tf.Tensor, segment_ids: tf.Tensor | None = None, texts: tf.Tensor | None = None) -> tf.Tensor:
        x_BTD = tf.cast(x, self.compute_dtype)
        segment_ids_BT = tf.ones(tf.shape(x_BTD)[:2], tf.int32) if segment_ids is None else segment_ids
        texts_BQ = first_segments(segment_ids_BT)[:, None] if texts is None else texts
        scores_BT = tf.cast(self.score(tf.tanh(self.inner(x_BTD)))[..., 0], tf.float32)
        own_BQT = (texts_BQ[:, :, None] == segment_ids_BT[:, None, :]) & (segment_ids_BT > 0)[:, None, :]
        weights_BQT = tf.nn.softmax(tf.where(own_BQT, scores_BT[:, None, :], tf.float32.min))
        weights_BQT = tf.cast(tf.where(own_BQT, weights_BQT, 0.0), self.compute_dtype)
        pooled_BQD = tf.matmul(weights_BQT, x_BTD)
        return pooled_BQD[:, 0] if texts is None else pooled_BQD

    def get_config(self) -> dict:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "inner_width": self.inner_width, "initializer": initializer}


def mean_of_texts(x_BTD: tf.Tensor, segment_ids_BT: tf.Tensor, texts_BQ: tf.Tensor) -> tf.Tensor:
    """Returns the mean state of each text, whose number of segment is given; zeros where it has no token: [B,Q,D] float32."""
    own_BQT = (texts_BQ[:, :, None] == segment_ids_BT[:, None, :]) & (segment_ids_BT > 0)[:, None, :]
    own_BQT = tf.cast(own_BQT, tf.float32)
    sums_BQD = tf.matmul(own_BQT, tf.cast(x_BTD, tf.float32))
    return tf.math.divide_no_nan(sums_BQD, tf.reduce_sum(own_BQT, axis=-1, keepdims=True))


def first_segments(segment_ids_BT: tf.Tensor) -> tf.Tensor:
    """Returns the segment of each row's first token that is not padding, 0 where there is none: [B,T] -> [B]."""
    ended = tf.pad(segment_ids_BT, [[0, 0], [0, 1]])
    first = tf.argmax(tf.cast(ended > 0, tf.int32), axis=1, output_type=tf.int32)
    return tf.gather(ended, first, batch_dims=1)
