"""Norms against numpy in double precision, and their float32 insides."""

import numpy as np
import pytest
import tensorflow as tf

from garden.layers import LayerNorm, RMSNorm


def expected(layer, x):
    x = np.asarray(x, np.float64)
    if isinstance(layer, RMSNorm):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.epsilon) * layer.scale.numpy()
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.epsilon) * layer.scale.numpy()
    return y + (layer.bias.numpy() if layer.has_bias else 0)


def made(kind, width, **options):
    layer = kind(**options)
    layer.build((None, width))
    draw = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(variable + draw.normal(size=variable.shape))
    return layer


KINDS = [(LayerNorm, {}), (LayerNorm, {"bias": False}), (LayerNorm, {"epsilon": 0.1}), (RMSNorm, {})]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norms_are_their_formulas(kind, options, offset):
    x = np.random.default_rng(1).normal(offset, 2.0, [2, 3, 16]).astype(np.float32)
    layer = made(kind, 16, **options)
    np.testing.assert_allclose(layer(x), expected(layer, x), atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
def test_constant_and_zero_rows_are_finite(kind, options):
    x = tf.constant([[0.0] * 4, [5.0] * 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = made(kind, 4, **options)(x)
    assert np.isfinite(y).all()
    assert np.isfinite(tape.gradient(y, x)).all()


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.03), ("mixed_float16", 0.004)])
def test_statistics_are_float32_under_every_policy(kind, policy, tolerance):
    # Squares of these overflow float16, and their mean is no bfloat16.
    x = tf.cast([[1_000.0, 1_001.0, 999.0, 1_004.0] * 4], "float16")
    layer = made(kind, 16, dtype=policy)
    given = layer(x)
    assert given.dtype == layer.compute_dtype
    np.testing.assert_allclose(tf.cast(given, tf.float32), expected(layer, x), atol=tolerance, rtol=tolerance)
