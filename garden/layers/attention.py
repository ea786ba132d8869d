"""Multi-head attention over packed segments, for self- and cross-attention, with room for a key/value cache.

Shapes: B batch, T query length, S key length, D model width, N query heads, K key/value heads, G = N/K query heads that
share one key/value head, H head width.
"""

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from garden.layers.clusters import dropped_softmax, worthwhile
from garden.layers.dropout import Dropout
from garden.layers.mesh import Cut, divided, on, shard_config, shard_count, sharded
from garden.layers.normalization import RMSNorm
from garden.layers.positions import rotate
from garden.layers.projection import Dense, Projections

# Added to the logit of a key that may not be seen. Finite, so that a row that sees nothing gives numbers, not NaN.
MASKED = -1e9


def attention_bias(
    query_segment_ids: tf.Tensor,
    key_segment_ids: tf.Tensor | None = None,
    *,
    query_positions: tf.Tensor | None = None,
    key_positions: tf.Tensor | None = None,
    causal: bool = False,
    window: int | None = None,
) -> tf.Tensor:
    """Returns what to add to attention's logits so that a token sees only its own segment: [B,1,T,S] float32.

    Args:
        query_segment_ids: [B,T] int32; 0 is padding, which sees only padding.
        key_segment_ids: [B,S] int32; default: the queries'.
        query_positions, key_positions: [B,T] and [B,S] int32, needed for `causal` and `window`.
        causal: keys at later positions are hidden.
        window: keys `window` or more positions away are hidden.
    """
    key_segment_ids = query_segment_ids if key_segment_ids is None else key_segment_ids
    seen = query_segment_ids[:, :, None] == key_segment_ids[:, None, :]
    if causal or window:
        if query_positions is None:
            raise ValueError("attention_bias: causal and window need query_positions")
        key_positions = query_positions if key_positions is None else key_positions
        distance = query_positions[:, :, None] - key_positions[:, None, :]
        if causal:
            seen &= distance >= 0
        if window:
            seen &= tf.abs(distance) < window
    return tf.where(seen, 0.0, MASKED)[:, None]


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens seen so far, in buffers whose length never changes.

    `key`, `value`: [B,S,K,H]; `length`: scalar int32, how many of the S places are filled. Attention only calls
    `append` and reads `key` and `value`; which places a query may see is the bias's business, so another cache (a ring for
    a sliding window, say) can take its place.
    """

    key: tf.Tensor
    value: tf.Tensor
    length: tf.Tensor

    @classmethod
    def empty(cls, batch: int, size: int, heads: int, head_width: int, dtype="float32") -> "KeyValueCache":
        """Returns a cache with `size` free places."""
        buffer = tf.zeros([batch, size, heads, head_width], dtype)
        return cls(buffer, buffer, tf.constant(0))

    def append(self, key_BTKH: tf.Tensor, value_BTKH: tf.Tensor) -> "KeyValueCache":
        """Returns the cache with T more tokens; the caller sees to it that they fit."""
        added = tf.shape(key_BTKH)[1]
        places = self.length + tf.range(added)

        def write(buffer: tf.Tensor, update: tf.Tensor) -> tf.Tensor:
            by_place = tf.tensor_scatter_nd_update(
                tf.transpose(buffer, [1, 0, 2, 3]), places[:, None], tf.transpose(update, [1, 0, 2, 3])
            )
            return tf.ensure_shape(tf.transpose(by_place, [1, 0, 2, 3]), buffer.shape)

        return KeyValueCache(write(self.key, key_BTKH), write(self.value, value_BTKH), self.length + added)


class KeyValues(NamedTuple):
    """A source's keys and values, [B,S,K,H] each: computed once, where many steps attend to the same source."""

    key: tf.Tensor
    value: tf.Tensor


@keras.saving.register_keras_serializable("garden")
class MultiHeadAttention(keras.layers.Layer):
    """softmax(Q K^T / sqrt(H) + bias) V in N heads (Vaswani et al., 2017), with K <= N key/value heads (Ainslie et al., 2023).

    One kernel holds the projections of queries, keys and values side by side (`projections.Projections`).

    Args:
        width: D, of the output; inputs may have another.
        heads: N.
        key_value_heads: K, a divisor of N; default N.
        head_width: H; default D / N.
        dropout: rate on the attention probabilities.
        bias: whether the projections of queries, keys and values add one.
        output_bias: whether the output projection does; default as `bias`.
        scale: what logits are multiplied by; default 1 / sqrt(H).
        rotary_frequencies: [H/2]; when given, queries and keys are rotated by their positions.
        rotary_scale: what rotated queries and keys are multiplied by.
        head_norm_epsilon: when given, an RMS norm over each head's query, and one over its key, comes before the rotation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_value_heads: int | None = None,
        head_width: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        output_bias: bool | None = None,
        scale: float | None = None,
        rotary_frequencies: np.ndarray | None = None,
        rotary_scale: float = 1.0,
        head_norm_epsilon: float | None = None,
        initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        key_value_heads = key_value_heads or heads
        if head_width is None and width % heads:
            raise ValueError(f"attention: {heads} heads do not divide the width {width}")
        if heads % key_value_heads:
            raise ValueError(f"attention: {key_value_heads} key/value heads do not divide {heads} heads")
        self.width, self.heads, self.key_value_heads = width, heads, key_value_heads
        self.head_width = head_width or width // heads
        self.has_bias, self.has_output_bias = bias, bias if output_bias is None else output_bias
        self.scale = 1 / math.sqrt(self.head_width) if scale is None else scale
        self.rotary_frequencies = None if rotary_frequencies is None else np.asarray(rotary_frequencies, np.float32)
        self.rotary_scale, self.head_norm_epsilon = rotary_scale, head_norm_epsilon
        self.initializer = keras.initializers.get(initializer)
        widths = [n * self.head_width for n in (heads, key_value_heads, key_value_heads)]
        parts = {"dtype": self.dtype_policy, "initializer": self.initializer}
        self.query_key_value = Projections(widths, bias=bias, name="query_key_value", **parts)
        self.output_projection = Dense(width, bias=self.has_output_bias, name="output", **parts)
        self.query_norm = self.key_norm = None
        if head_norm_epsilon is not None:
            self.query_norm = RMSNorm(head_norm_epsilon, dtype=self.dtype_policy, name="query_norm")
            self.key_norm = RMSNorm(head_norm_epsilon, dtype=self.dtype_policy, name="key_norm")
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.shards = []

    def build(self, input_shape):
        if shard_count() > 1:
            columns, rows = Cut(-1, self.query_key_value.widths), Cut(0, (self.heads * self.head_width,))
            cuts = {"query_key_value": columns, "output_projection": rows}
            self.shards = sharded(self, self._shard, cuts, input_shape)
            return
        self.query_key_value.build(input_shape)
        for head_norm in (self.query_norm, self.key_norm):
            if head_norm is not None and not head_norm.built:
                head_norm.build((None, None, None, self.head_width))
        self.output_projection.build((*input_shape[:-1], self.heads * self.head_width))

    def _shard(self, before: list) -> "MultiHeadAttention":
        """Returns an attention of some of the heads."""
        heads, fewer = divided(self, "heads", self.heads), divided(self, "key/value heads", self.key_value_heads)
        config = {"heads": heads, "key_value_heads": fewer}
        shard = MultiHeadAttention.from_config(shard_config(self, before, **config))
        if before and self.query_norm is not None:
            shard.query_norm, shard.key_norm = before[0].query_norm, before[0].key_norm  # all heads' alike
        return shard

    def read(self, source_BSD: tf.Tensor) -> KeyValues:
        """Returns a source's keys and values, which `call` takes in its place."""
        if self.rotary_frequencies is not None:
            raise ValueError("attention: rotary frequencies turn keys by their positions; give the source itself")
        if self.shards:
            parts = [on(shard.device, shard.read, source_BSD) for shard in self.shards]
            return KeyValues(*(tf.concat(heads, axis=2) for heads in zip(*parts, strict=True)))
        key, value = self.query_key_value(source_BSD, only=slice(1, 3))
        return KeyValues(self._heads(key, self.key_value_heads), self._heads(value, self.key_value_heads))

    def call(
        self,
        x_BTD: tf.Tensor,
        source_BSD: tf.Tensor | KeyValues | None = None,
        *,
        bias: tf.Tensor | None = None,
        query_positions: tf.Tensor | None = None,
        key_positions: tf.Tensor | None = None,
        rotary_frequencies: tf.Tensor | None = None,
        cache: KeyValueCache | None = None,
        training: bool = False,
    ):
        """Returns [B,T,D], or ([B,T,D], the longer cache) when a cache is given.

        Args:
            x_BTD: what asks.
            source_BSD: what is read, or what `read` made of it; default: x itself. With it, x gives queries only.
            bias: [B or 1, 1 or N, T, S] float32 added to the logits, as `attention_bias` makes it.
            query_positions, key_positions: [B,T] and [B,S] int32, for rotary frequencies only.
            rotary_frequencies: [H/2], of this call, where they depend on how long its texts are.
            cache: keys and values of earlier tokens; S is then the cache's size.
        """
        if self.shards:
            turned = {"query_positions": query_positions, "key_positions": key_positions}
            turned |= {"rotary_frequencies": rotary_frequencies, "training": training}
            return self._add_shards(x_BTD, source_BSD, bias, cache, turned)
        if isinstance(source_BSD, KeyValues):
            (query,) = self.query_key_value(x_BTD, only=slice(0, 1))
            return self.output_projection(
                self._attend(self._heads(query, self.heads), source_BSD.key, source_BSD.value, bias, training)
            )
        if source_BSD is None:
            query, key, value = self.query_key_value(x_BTD)
        else:
            (query,) = self.query_key_value(x_BTD, only=slice(0, 1))
            key, value = self.query_key_value(source_BSD, only=slice(1, 3))
        query_BTNH = self._heads(query, self.heads)
        key_BSKH = self._heads(key, self.key_value_heads)
        value_BSKH = self._heads(value, self.key_value_heads)
        if self.query_norm is not None:
            query_BTNH, key_BSKH = self.query_norm(query_BTNH), self.key_norm(key_BSKH)
        if self.rotary_frequencies is not None:
            if query_positions is None or (source_BSD is not None and key_positions is None):
                raise ValueError(
                    "attention: rotary frequencies need query_positions, and key_positions beside a source"
                )
            key_positions = query_positions if key_positions is None else key_positions
            speeds = self.rotary_frequencies if rotary_frequencies is None else rotary_frequencies
            query_BTNH = rotate(query_BTNH, query_positions, speeds, self.rotary_scale)
            key_BSKH = rotate(key_BSKH, key_positions, speeds, self.rotary_scale)
        if cache is not None:
            cache = cache.append(key_BSKH, value_BSKH)
            key_BSKH, value_BSKH = cache.key, cache.value
        output = self.output_projection(self._attend(query_BTNH, key_BSKH, value_BSKH, bias, training))
        return output if cache is None else (output, cache)

    def _add_shards(self, x_BTD, source_BSD, bias, cache, options):
        """Returns what `call` does: each shard reads its own heads' part of the bias, of the cache and of a read source."""
        count = len(self.shards)

        def of_heads(x: tf.Tensor, axis: int) -> list[tf.Tensor]:
            return tf.split(x, count, axis) if x.shape[axis] != 1 else [x] * count

        biases = [None] * count if bias is None else of_heads(bias, 1)
        sources, caches = [source_BSD] * count, [None] * count
        if isinstance(source_BSD, KeyValues):
            sources = [KeyValues(*parts) for parts in zip(*(tf.split(x, count, 2) for x in source_BSD), strict=True)]
        if cache is not None:
            parts = zip(tf.split(cache.key, count, 2), tf.split(cache.value, count, 2), strict=True)
            caches = [KeyValueCache(key, value, cache.length) for key, value in parts]
        answers = [
            on(shard.device, shard, x_BTD, source, bias=bias, cache=cache, **options)
            for shard, source, bias, cache in zip(self.shards, sources, biases, caches, strict=True)
        ]
        if cache is None:
            return tf.add_n(answers)
        changes, longer = zip(*answers, strict=True)
        keys, values = (tf.concat([getattr(each, name) for each in longer], axis=2) for name in ("key", "value"))
        return tf.add_n(changes), KeyValueCache(keys, values, longer[0].length)

    def _heads(self, x: tf.Tensor, heads: int) -> tf.Tensor:
        shape = tf.shape(x)
        y = tf.reshape(x, [shape[0], shape[1], heads, self.head_width])
        return tf.ensure_shape(y, [x.shape[0], x.shape[1], heads, self.head_width])

    def _attend(self, query_BTNH, key_BSKH, value_BSKH, bias, training) -> tf.Tensor:
        """Returns the heads' answers side by side, [B,T,N*H]. Softmax is in float32 under every policy."""
        shape = tf.shape(query_BTNH)
        if self.scale != 1:
            query_BTNH *= tf.constant(self.scale, query_BTNH.dtype)
        groups = self.heads // self.key_value_heads
        if groups > 1:
            # Query heads that share a key are more queries to that key: T*G of them.
            query_BTNH = tf.reshape(query_BTNH, [shape[0], shape[1], self.key_value_heads, groups, self.head_width])
            logits = tf.einsum("BTKGH,BSKH->BKGTS", query_BTNH, key_BSKH)
            logits = tf.reshape(logits, [shape[0], self.heads, shape[1], tf.shape(key_BSKH)[1]])
        else:
            logits = tf.einsum("BTNH,BSNH->BNTS", query_BTNH, key_BSKH)
        if bias is not None and bias.shape.is_fully_defined() and worthwhile(logits, training):
            probabilities = dropped_softmax(logits, bias, **self.dropout.drawn())
        else:
            logits = tf.cast(logits, tf.float32)
            if bias is not None:
                logits += bias
            probabilities = tf.cast(tf.nn.softmax(logits), self.compute_dtype)
            probabilities = self.dropout(probabilities, training=training)
        if groups > 1:
            probabilities = tf.reshape(
                probabilities, [shape[0], self.key_value_heads, groups, shape[1], tf.shape(key_BSKH)[1]]
            )
            answer = tf.einsum("BKGTS,BSKH->BTKGH", probabilities, value_BSKH)
        else:
            answer = tf.einsum("BNTS,BSNH->BTNH", probabilities, value_BSKH)
        answer = tf.reshape(answer, [shape[0], shape[1], self.heads * self.head_width])
        return tf.ensure_shape(answer, [None, None, self.heads * self.head_width])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "width": self.width,
            "heads": self.heads,
            "key_value_heads": self.key_value_heads,
            "head_width": self.head_width,
            "dropout": self.dropout.rate,
            "bias": self.has_bias,
            "output_bias": self.has_output_bias,
            "scale": self.scale,
            "rotary_frequencies": None if self.rotary_frequencies is None else self.rotary_frequencies.tolist(),
            "rotary_scale": self.rotary_scale,
            "head_norm_epsilon": self.head_norm_epsilon,
            "initializer": keras.initializers.serialize(self.initializer),
        }
