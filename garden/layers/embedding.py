"""The token table, read one way for embeddings and the other way for tied logits."""

import keras
import tensorflow as tf

from garden.layers.mesh import Cut, on, piece_bounds, shard_config, shard_count, sharded

LEAST_ROWS = 64
"""Rows for each shard from which on a table is worth dividing on a mesh: looking up a row takes work on every device."""


@keras.saving.register_keras_serializable("garden")
class Embedding(keras.layers.Layer):
    """Rows of a [V,D] table: ids [...] int32 -> [...,D]. `logits` multiplies by the same table's transpose.

    An id outside the table is an error on CPUs and a row of zeros on accelerators, as `tf.gather` defines it; of a table in
    shards it is a row of zeros.
    """

    def __init__(self, size: int, width: int, *, initializer="normal", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.size = size
        self.width = width
        self.initializer = keras.initializers.get(initializer)
        self.shards = []

    def build(self, input_shape=None):
        if 1 < shard_count() <= self.size // LEAST_ROWS:
            self.shards = sharded(self, self._shard, {"": Cut(0, (self.size,))})
            return
        self.table = self.add_weight(name="table", shape=(self.size, self.width), initializer=self.initializer)

    def _shard(self, before: list) -> "Embedding":
        """Returns a table of some of the rows."""
        begin, end = piece_bounds(self.size, shard_count())[len(before) :][:2]
        return Embedding.from_config(shard_config(self, before, size=end - begin))

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        if self.shards:
            return tf.add_n([on(shard.device, self._rows, shard, ids, begin) for shard, begin in self._begins()])
        # Gather from the float32 variable, then cast: its gradient stays a list of rows.
        return tf.cast(tf.gather(self.table.value, ids), self.compute_dtype)

    def _begins(self) -> list[tuple["Embedding", int]]:
        """Returns the shards, each with the number of its first row."""
        return list(zip(self.shards, piece_bounds(self.size, len(self.shards)), strict=False))

    @staticmethod
    def _rows(shard: "Embedding", ids: tf.Tensor, begin: int) -> tf.Tensor:
        """Returns the rows that a shard has, and zeros for all others."""
        own = (ids >= begin) & (ids < begin + shard.size)
        rows = shard(tf.where(own, ids - begin, 0))
        return rows * tf.cast(own, rows.dtype)[..., None]

    def logits(self, x: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        """Returns x @ table^T, plus a bias [V] where there is one: [...,D] -> [...,V]."""
        if self.shards:
            biases = [None] * len(self.shards) if bias is None else tf.split(bias, [part.size for part in self.shards])
            pairs = zip(self.shards, biases, strict=True)
            return tf.concat([on(part.device, part.logits, x, own) for part, own in pairs], axis=-1)
        rows = tf.reshape(x, [-1, self.width])
        flat = tf.matmul(rows, tf.cast(self.table.value, x.dtype), transpose_b=True)
        if bias is not None:
            # No plain addition: oneDNN does this one inside the product.
            flat = tf.nn.bias_add(flat, tf.cast(bias, x.dtype))
        return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [self.size]], axis=0))

    def get_config(self) -> dict:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "size": self.size, "width": self.width, "initializer": initializer}
