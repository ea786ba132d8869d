"""Activation functions under the names that published configurations use."""

import math
from collections.abc import Callable

import tensorflow as tf

Activation = Callable[[tf.Tensor], tf.Tensor]


@tf.custom_gradient
def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """The exact Gaussian error linear unit, x * Phi(x), any shape (Hendrycks and Gimpel, 2016).

    The derivative Phi(x) + x * phi(x) reuses the forward pass's Phi(x): forward and backward together take about half the
    time of `tf.nn.gelu` and its automatic gradient on a CPU, where each pass over the tensor counts.
    """
    half, one = tf.constant(0.5, x.dtype), tf.constant(1.0, x.dtype)
    scaled = x * tf.constant(1 / math.sqrt(2), x.dtype)
    cumulative = half * (one + tf.math.erf(scaled))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-tf.square(scaled)) * tf.constant(1 / math.sqrt(2 * math.pi), x.dtype)
        return upstream * (cumulative + x * density)

    return x * cumulative, gradient


def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """The tanh approximation of GELU, as GPT-2 and `gelu_new` use it."""
    return tf.nn.gelu(x, approximate=True)


def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """x * sigmoid(1.702 x), the approximation that CLIP was trained with."""
    return x * tf.sigmoid(1.702 * x)


def relu_squared(x: tf.Tensor) -> tf.Tensor:
    """max(x, 0) squared (So et al., 2021, "Primer")."""
    return tf.square(tf.nn.relu(x))


ACTIVATIONS: dict[str, Activation] = {
    "elu": tf.nn.elu,
    "gelu": gelu,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": lambda x: x * tf.nn.relu6(x + 3) / 6,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.01),
    "linear": lambda x: x,
    "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "quick_gelu": quick_gelu,
    "relu": tf.nn.relu,
    "relu2": relu_squared,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}


def activation(name: str) -> Activation:
    """Returns the function that configurations call `name`; ValueError lists the known names."""
    if name not in ACTIVATIONS:
        raise ValueError(f'activation "{name}" is not known; known: {", ".join(sorted(ACTIVATIONS))}')
    return ACTIVATIONS[name]
