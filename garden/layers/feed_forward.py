"""The position-wise feed-forward network. Shapes: D model width, F feed-forward width."""

import keras
import tensorflow as tf

from garden.layers.activations import activation
from garden.layers.clusters import elementwise, worthwhile
from garden.layers.dropout import Dropout
from garden.layers.mesh import Cut, divided, on, shard_config, shard_count, sharded
from garden.layers.projection import Dense, Projections


@keras.saving.register_keras_serializable("garden")
class FeedForward(keras.layers.Layer):
    """activation(x W1 + b1) W2 + b2, [...,D] -> [...,D] (Vaswani et al., 2017).

    Args:
        width: D.
        inner_width: F.
        activation: a name from `garden.layers.ACTIVATIONS`.
        gated: activation(x W1) * (x V) inside, as GLU variants have it (Shazeer, 2020).
        dropout: rate on the inner [...,F] activations.
        bias: whether the products add one.
        outer_dtype: dtype policy of the second product, where float16 cannot hold it; default: the layer's.
    """

    def __init__(
        self,
        width: int,
        inner_width: int,
        *,
        activation: str = "gelu",
        gated: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        outer_dtype=None,
        initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.outer_dtype = outer_dtype
        self.width, self.inner_width = width, inner_width
        self.activation_name, self.gated, self.has_bias = activation, gated, bias
        self.initializer = keras.initializers.get(initializer)
        parts = {"dtype": self.dtype_policy, "initializer": self.initializer, "bias": bias}
        self.inner = Projections([inner_width] * (2 if gated else 1), name="inner", **parts)
        self.outer = Dense(width, name="outer", **(parts | ({"dtype": outer_dtype} if outer_dtype else {})))
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.shards = []

    def build(self, input_shape):
        if shard_count() > 1:
            cuts = {"inner": Cut(-1, self.inner.widths), "outer": Cut(0, (self.inner_width,))}
            self.shards = sharded(self, self._shard, cuts, input_shape)
            return
        self.inner.build(input_shape)
        self.outer.build((*input_shape[:-1], self.inner_width))

    def _shard(self, before: list) -> "FeedForward":
        """Returns a network of some of the columns."""
        inner_width = divided(self, "columns", self.inner_width)
        return FeedForward.from_config(shard_config(self, before, inner_width=inner_width))

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self.shards:
            return tf.add_n([on(shard.device, shard, x, training=training) for shard in self.shards])
        inner, *values = self.inner(x)
        function = activation(self.activation_name)
        inner = elementwise(function)(inner) if worthwhile(inner, training) else function(inner)
        for value in values:
            inner *= value
        return self.outer(self.dropout(inner, training=training))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "width": self.width,
            "inner_width": self.inner_width,
            "activation": self.activation_name,
            "gated": self.gated,
            "dropout": self.dropout.rate,
            "bias": self.has_bias,
            "outer_dtype": self.outer_dtype,
            "initializer": keras.initializers.serialize(self.initializer),
        }
