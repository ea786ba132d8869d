"""What a network remembers of the tokens it has read, so that the next ones cost no more than themselves.

Shapes: B batch, T new tokens, S places of the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from garden.layers import KeyValueCache


class DecoderCache(NamedTuple):
    """Keys and values of each block, and which token stands in which place.

        cache = backbone.empty_cache(batch, size)
        outputs = backbone({"token_ids": prompts, "segment_ids": mask}, cache=cache)
        outputs = backbone({"token_ids": next_ids}, cache=outputs["cache"])     # [B,1], and so on

    Its tensors have the batch as their first dimension, or none at all, so that `tf.nest.map_structure` reorders a beam,
    and shapes that never change, so that `tf.while_loop` and XLA take it as a loop variable.
    """

    layers: tuple[KeyValueCache, ...]
    segment_ids: tf.Tensor  # [B,S] int32, 0 where a place is empty or holds padding
    positions: tf.Tensor  # [B,S] int32

    @classmethod
    def empty(cls, layers: tuple[KeyValueCache, ...]) -> DecoderCache:
        """Returns a cache of empty layers."""
        nothing = tf.zeros(tf.shape(layers[0].key)[:2], tf.int32)
        nothing = tf.ensure_shape(nothing, layers[0].key.shape[:2])
        return cls(layers, nothing, nothing)

    def next_positions(self, segment_ids_BT: tf.Tensor) -> tf.Tensor:
        """Returns how many tokens of its own segment stand before each new token: [B,T] int32, 0 for padding."""
        same_before = tf.linalg.band_part(tf.ones([tf.shape(segment_ids_BT)[1]] * 2, tf.int32), -1, 0) - tf.eye(
            tf.shape(segment_ids_BT)[1], dtype=tf.int32
        )
        of_new = tf.cast(segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :], tf.int32) * same_before
        of_old = tf.cast(segment_ids_BT[:, :, None] == self.segment_ids[:, None, :], tf.int32)
        count = tf.reduce_sum(of_new, axis=-1) + tf.reduce_sum(of_old, axis=-1)
        return count * tf.cast(segment_ids_BT > 0, tf.int32)

    def noted(self, inputs: Mapping[str, tf.Tensor]) -> DecoderCache:
        """Returns the cache with the segments and positions of new tokens; the blocks add keys and values."""
        places = self.layers[0].length + tf.range(tf.shape(inputs["token_ids"])[1])

        def write(buffer_BS: tf.Tensor, update_BT: tf.Tensor) -> tf.Tensor:
            by_place = tf.tensor_scatter_nd_update(tf.transpose(buffer_BS), places[:, None], tf.transpose(update_BT))
            return tf.ensure_shape(tf.transpose(by_place), buffer_BS.shape)

        segment_ids, positions = (
            write(self.segment_ids, inputs["segment_ids"]),
            write(self.positions, inputs["positions"]),
        )
        return self._replace(segment_ids=segment_ids, positions=positions)
