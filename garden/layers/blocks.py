"""Encoder and decoder blocks: attention and feed-forward, each with a residual path and a norm before or after it.

Shapes: B batch, T length, S source length, P wanted positions, D model width.
"""

import keras
import tensorflow as tf

from garden.layers.attention import KeyValueCache, KeyValues, MultiHeadAttention
from garden.layers.clusters import residual_norm, worthwhile
from garden.layers.dropout import Dropout
from garden.layers.feed_forward import FeedForward
from garden.layers.mesh import Mesh, built_on, staged
from garden.layers.normalization import LayerNorm, normalization
from garden.layers.recomputation import recomputable


@keras.saving.register_keras_serializable("garden")
class Residual(keras.layers.Layer):
    """One residual path: norm(x + f(x)) (post-norm, Vaswani et al., 2017) or x + f(norm(x)) (pre-norm, Xiong et al., 2020)."""

    def __init__(
        self, *, pre_norm: bool, norm: str = "layer", norm_epsilon: float = 1e-12, dropout: float = 0.0, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.pre_norm, self.norm_kind, self.norm_epsilon = pre_norm, norm, norm_epsilon
        self.norm = normalization(norm, norm_epsilon, dtype=self.dtype_policy, name="norm")
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape):
        self.norm.build(input_shape)

    def enter(self, x: tf.Tensor) -> tf.Tensor:
        """What the path's function reads."""
        return self.norm(x) if self.pre_norm else x

    def leave(self, x: tf.Tensor, change: tf.Tensor, training: bool) -> tf.Tensor:
        """The stream after the path: x and its change joined."""
        plain = self.pre_norm or not isinstance(self.norm, LayerNorm) or self.norm.bias is None
        if not plain and x.dtype == self.compute_dtype and worthwhile(x, training):
            norm = {"scale": self.norm.scale.value, "bias": self.norm.bias.value, "epsilon": self.norm.epsilon}
            return residual_norm(x, change, **norm, **self.dropout.drawn())
        # A stream of float32 among parts of float16 keeps what float16 cannot hold.
        y = x + self.dropout(tf.cast(change, x.dtype), training=training)
        return y if self.pre_norm else self.norm(y)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "pre_norm": self.pre_norm,
            "norm": self.norm_kind,
            "norm_epsilon": self.norm_epsilon,
            "dropout": self.dropout.rate,
        }


@keras.saving.register_keras_serializable("garden")
class EncoderBlock(keras.layers.Layer):
    """Self-attention, then feed-forward.

    Args:
        attention, feed_forward: the two parts, as layers.
        pre_norm, norm, norm_epsilon, dropout: the residual paths', see `Residual`.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward,
        *,
        pre_norm: bool = False,
        norm: str = "layer",
        norm_epsilon: float = 1e-12,
        dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.paths = {"pre_norm": pre_norm, "norm": norm, "norm_epsilon": norm_epsilon, "dropout": dropout}
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_path = Residual(**self.paths, dtype=self.dtype_policy, name="attention_path")
        self.feed_forward_path = Residual(**self.paths, dtype=self.dtype_policy, name="feed_forward_path")
        self.stage: Mesh | None = None

    def build(self, input_shape):
        with built_on(self.stage):
            for part in (self.attention, self.attention_path, self.feed_forward, self.feed_forward_path):
                part.build(input_shape)

    @staged
    @recomputable
    def call(
        self,
        x_BTD: tf.Tensor,
        *,
        bias: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        read_positions: tf.Tensor | None = None,
        rotary_frequencies: tf.Tensor | None = None,
        cache: KeyValueCache | None = None,
        training: bool = False,
    ):
        """Returns [B,T,D]; with `read_positions` [B,P], only those places of it, [B,P,D]; with a cache, (it, cache).

        Keys and values are needed everywhere, but queries, the output projection and the feed-forward network only where
        somebody reads the result: for the last block of a classifier that is one place a text.
        `bias` is then [B,1,P,T]. `positions` [B,T] serve rotary frequencies, and `rotary_frequencies` [H/2] take the place of
        the layer's own.
        """
        x_BTD, cache = self.attended(x_BTD, bias, positions, read_positions, rotary_frequencies, cache, training)
        change = self.feed_forward(self.feed_forward_path.enter(x_BTD), training=training)
        x_BTD = self.feed_forward_path.leave(x_BTD, change, training)
        return x_BTD if cache is None else (x_BTD, cache)

    def attended(self, x_BTD, bias, positions, read_positions, rotary_frequencies, cache, training) -> tuple:
        """Returns the stream after self-attention, and the cache."""
        x_BTD = tf.cast(x_BTD, self.compute_dtype)
        entered = self.attention_path.enter(x_BTD)
        if read_positions is None:
            change = self.attention(
                entered,
                bias=bias,
                query_positions=positions,
                rotary_frequencies=rotary_frequencies,
                cache=cache,
                training=training,
            )
        else:
            x_BTD = tf.gather(x_BTD, read_positions, batch_dims=1)
            change = self.attention(
                tf.gather(entered, read_positions, batch_dims=1),
                entered,
                bias=bias,
                query_positions=None if positions is None else tf.gather(positions, read_positions, batch_dims=1),
                key_positions=positions,
                rotary_frequencies=rotary_frequencies,
                cache=cache,
                training=training,
            )
        if cache is not None:
            change, cache = change
        return self.attention_path.leave(x_BTD, change, training), cache

    def get_config(self) -> dict:
        parts = {
            "attention": keras.saving.serialize_keras_object(self.attention),
            "feed_forward": keras.saving.serialize_keras_object(self.feed_forward),
        }
        return {**super().get_config(), **parts, **self.paths}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**_revived(config, "attention", "feed_forward"))


@keras.saving.register_keras_serializable("garden")
class DecoderBlock(EncoderBlock):
    """Self-attention, attention to a source, then feed-forward.

    Without a source (`cross_attention=None`) it is an `EncoderBlock` whose bias is causal: a decoder-only network uses
    that.
    """

    def __init__(self, attention, feed_forward, *, cross_attention: MultiHeadAttention, **kwargs):
        super().__init__(attention, feed_forward, **kwargs)
        self.cross_attention = cross_attention
        self.cross_attention_path = Residual(**self.paths, dtype=self.dtype_policy, name="cross_attention_path")

    def build(self, input_shape):
        super().build(input_shape)
        with built_on(self.stage):
            self.cross_attention.build(input_shape)
            self.cross_attention_path.build(input_shape)

    @staged
    @recomputable
    def call(
        self,
        x_BTD: tf.Tensor,
        source_BSD: tf.Tensor | KeyValues,
        *,
        bias: tf.Tensor | None = None,
        source_bias: tf.Tensor | None = None,
        positions: tf.Tensor | None = None,
        read_positions: tf.Tensor | None = None,
        rotary_frequencies: tf.Tensor | None = None,
        cache: KeyValueCache | None = None,
        training: bool = False,
    ):
        """Returns [B,T,D], or (it, cache) with a cache. `bias` [B,1,T,T or the cache's size], `source_bias` [B,1,T,S].

        With `read_positions` [B,P] only those places, as in `EncoderBlock`; T is P in both biases then. The source may be
        what `cross_attention.read` made of it.
        """
        x_BTD, cache = self.attended(x_BTD, bias, positions, read_positions, rotary_frequencies, cache, training)
        entered = self.cross_attention_path.enter(x_BTD)
        change = self.cross_attention(entered, source_BSD, bias=source_bias, training=training)
        x_BTD = self.cross_attention_path.leave(x_BTD, change, training)
        change = self.feed_forward(self.feed_forward_path.enter(x_BTD), training=training)
        x_BTD = self.feed_forward_path.leave(x_BTD, change, training)
        return x_BTD if cache is None else (x_BTD, cache)

    def get_config(self) -> dict:
        cross_attention = keras.saving.serialize_keras_object(self.cross_attention)
        return {**super().get_config(), "cross_attention": cross_attention}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**_revived(config, "attention", "feed_forward", "cross_attention"))


def _revived(config: dict, *names: str) -> dict:
    parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in names}
    return {**config, **parts}
