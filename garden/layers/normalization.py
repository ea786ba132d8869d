"""Normalisation over the last axis, always computed in float32 whatever the layer's policy."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("garden")
class LayerNorm(keras.layers.Layer):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis; [..., D] in and out (Ba et al., 2016)."""

    def __init__(self, epsilon: float = 1e-12, *, bias: bool = True, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.epsilon = epsilon
        self.has_bias = bias

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = self.add_weight(name="scale", shape=(width,), initializer="ones")
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros") if self.has_bias else None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        y = centred * tf.math.rsqrt(variance + self.epsilon) * tf.cast(self.scale, tf.float32)
        if self.bias is not None:
            y += tf.cast(self.bias, tf.float32)
        return tf.cast(y, self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "epsilon": self.epsilon, "bias": self.has_bias}


@keras.saving.register_keras_serializable("garden")
class RMSNorm(keras.layers.Layer):
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis; [..., D] in and out (Zhang and Sennrich, 2019)."""

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        y = x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + self.epsilon)
        return tf.cast(y * tf.cast(self.scale, tf.float32), self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "epsilon": self.epsilon}


def normalization(kind: str, epsilon: float, **kwargs) -> keras.layers.Layer:
    """Returns the layer for `kind`: "layer" or "rms"; ValueError for another."""
    kinds = {"layer": LayerNorm, "rms": RMSNorm}
    if kind not in kinds:
        raise ValueError(f'normalisation "{kind}" is not known; known: {", ".join(kinds)}')
    return kinds[kind](epsilon, **kwargs)
