"""The token table, read one way for embeddings and the other way for tied logits."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("garden")
class Embedding(keras.layers.Layer):
    """Rows of a [V,D] table: ids [...] int32 -> [...,D]. `logits` multiplies by the same table's transpose.

    An id outside the table is an error on CPUs and a row of zeros on accelerators, as `tf.gather` defines it.
    """

    def __init__(self, size: int, width: int, *, initializer="normal", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.size = size
        self.width = width
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape=None):
        self.table = self.add_weight(name="table", shape=(self.size, self.width), initializer=self.initializer)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        # Gather from the float32 variable, then cast: its gradient stays a list of rows.
        return tf.cast(tf.gather(self.table.value, ids), self.compute_dtype)

    def logits(self, x: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        """Returns x @ table^T, plus a bias [V] where there is one: [...,D] -> [...,V]."""
        rows = tf.reshape(x, [-1, self.width])
        flat = tf.matmul(rows, tf.cast(self.table.value, x.dtype), transpose_b=True)
        if bias is not None:
            # No plain addition: oneDNN does this one inside the product.
            flat = tf.nn.bias_add(flat, tf.cast(bias, x.dtype))
        return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [self.size]], axis=0))

    def get_config(self) -> dict:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "size": self.size, "width": self.width, "initializer": initializer}
