"""Dense layers on the last axis, several of one input as one matrix product.

Shapes: M rows (all leading axes folded), D input width, E output width.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("garden")
class Projections(keras.layers.Layer):
    """Several dense layers that read the same input, stored side by side in one [D, E1+E2+...] kernel.

    [...,D] -> a tuple of [...,E1], [...,E2], ...: a third of the operations and variables that queries, keys and values of
    their own would need, for the same speed in a whole attention layer (benchmarks/attention.py). `only` computes a run of
    them: cross-attention reads queries from one tensor and keys and values from another, and a block whose output is
    wanted at a few positions needs queries only there.

    Tried and lost: the bias's gradient as a product with ones (faster than BiasAddGrad alone, slower in a step).
    """

    def __init__(self, widths: Sequence[int], *, bias: bool = True, initializer="glorot_uniform", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.widths = tuple(widths)
        self.has_bias = bias
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        total = sum(self.widths)
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], total), initializer=self.initializer)
        # What is several matrices by its meaning is told apart by optimisers that treat matrices as such.
        self.kernel.parts = self.widths
        self.bias = self.add_weight(name="bias", shape=(total,), initializer="zeros") if self.has_bias else None

    def call(self, x: tf.Tensor, only: slice = slice(None)) -> tuple[tf.Tensor, ...]:
        x = tf.cast(x, self.compute_dtype)
        widths = self.widths[only]
        kernel, bias = self.kernel.value, self.bias.value if self.has_bias else None
        if widths != self.widths:
            start = sum(self.widths[: only.start or 0])
            kernel = kernel[:, start : start + sum(widths)]
            bias = None if bias is None else bias[start : start + sum(widths)]
        y = matmul(x, tf.cast(kernel, self.compute_dtype))
        if bias is not None:
            y = tf.nn.bias_add(y, tf.cast(bias, self.compute_dtype))
        y = tf.reshape(y, tf.concat([tf.shape(x)[:-1], [sum(widths)]], axis=0))
        y.set_shape([*x.shape[:-1], sum(widths)])
        return tuple(tf.split(y, widths, axis=-1)) if len(widths) > 1 else (y,)

    def get_config(self) -> dict:
        initializer = keras.initializers.serialize(self.initializer)
        return {
            **super().get_config(),
            "widths": self.widths,
            "bias": self.has_bias,
            "initializer": initializer,
        }


@keras.saving.register_keras_serializable("garden")
class Dense(Projections):
    """A dense layer on the last axis: [...,D] -> [...,E]."""

    def __init__(self, width: int, **kwargs):
        super().__init__((width,), **kwargs)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return super().call(x)[0]

    def get_config(self) -> dict:
        config = super().get_config()
        (width,) = config.pop("widths")
        return {**config, "width": width}


def matmul(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns x @ kernel with x's leading axes folded: [...,D], [D,E] -> [M,E].

    One two-dimensional product: a batched one broadcasts the kernel and pays for it in the gradient.
    """
    return tf.matmul(tf.reshape(x, [-1, kernel.shape[0]]), kernel)
