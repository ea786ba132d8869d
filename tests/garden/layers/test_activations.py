"""Activations against TensorFlow's own, values and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from garden.layers import ACTIVATIONS, activation
from garden.layers.activations import gelu

X = np.concatenate([np.linspace(-12, 12, 401), [0.0, -50.0, 50.0, 1e-20]]).astype(np.float32)
UPSTREAM = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)


def value_and_gradient(function, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x, tf.cast(upstream, x.dtype))


def test_gelu_and_its_gradient_are_tensorflows():
    given = value_and_gradient(gelu, tf.constant(X), UPSTREAM)
    expected = value_and_gradient(tf.nn.gelu, tf.constant(X), UPSTREAM)
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_gelu_in_lower_precision_is_close(dtype, tolerance):
    x = tf.cast(X, dtype)
    given = value_and_gradient(gelu, x, UPSTREAM)
    expected = value_and_gradient(tf.nn.gelu, tf.cast(x, tf.float32), UPSTREAM)
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(tf.cast(ours, tf.float32), theirs, atol=tolerance, rtol=tolerance)


def test_gelu_differentiates_inside_a_compiled_function():
    compiled = tf.function(lambda x: value_and_gradient(gelu, x, UPSTREAM), jit_compile=True)
    for ours, theirs in zip(compiled(X), value_and_gradient(gelu, tf.constant(X), UPSTREAM), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


FORMULAS = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    x = X[np.abs(X) < 13].astype(np.float64)
    np.testing.assert_allclose(activation(name)(tf.constant(x, tf.float32)), FORMULAS[name](x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_activation_keeps_the_dtype(dtype):
    for name in ACTIVATIONS:
        assert activation(name)(tf.constant([-1.0, 2.0], dtype)).dtype == dtype, name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r'activation "geluu" is not known; known: .*gelu_new'):
        activation("geluu")
