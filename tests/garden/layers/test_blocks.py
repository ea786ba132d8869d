"""Blocks against the papers' formulas, spelled out with their own parts, and what they leave out when asked to."""

import numpy as np
import pytest
import tensorflow as tf

from garden.layers import (
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    KeyValueCache,
    MultiHeadAttention,
    activation,
    attention_bias,
    rotary_frequencies,
    segment_positions,
)

D = 8
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)


def drawn(*shape, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def made(kind=EncoderBlock, *, rotary=None, attention_options=None, **options):
    parts = {"dtype": options.get("dtype")}
    attention = MultiHeadAttention(D, 2, rotary_frequencies=rotary, **(attention_options or {}), **parts)
    if kind is DecoderBlock:
        options["cross_attention"] = MultiHeadAttention(D, 2, **parts)
    block = kind(attention, FeedForward(D, 16, **parts), norm_epsilon=1e-5, **options)
    block.build((None, None, D))
    draw = np.random.default_rng(0)
    for variable in block.weights:
        variable.assign(draw.normal("scale" in variable.path, 0.3, variable.shape))
    return block


def norm(path, x):
    """The norm of a residual path, in numpy."""
    scale = path.norm.scale.numpy()
    if path.norm_kind == "rms":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + path.norm.bias.numpy()


def joined(path, x, function):
    return x + function(norm(path, x)) if path.pre_norm else norm(path, x + function(x))


STYLES = [{"pre_norm": pre, "norm": kind} for pre in (False, True) for kind in ("layer", "rms")]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_encoder_block_is_attention_then_feed_forward(style):
    block, x, bias = made(**style), drawn(2, 6, D), attention_bias(SEGMENTS)
    y = joined(block.attention_path, x, lambda x: block.attention(x, bias=bias).numpy())
    y = joined(block.feed_forward_path, y, lambda x: block.feed_forward(x).numpy())
    np.testing.assert_allclose(block(x, bias=bias), y, atol=1e-5)


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_decoder_block_reads_a_source_between_the_two(style):
    block, x, source = made(DecoderBlock, **style), drawn(2, 6, D), drawn(2, 4, D, seed=2)
    bias = attention_bias(SEGMENTS, query_positions=segment_positions(SEGMENTS), causal=True)
    source_bias = attention_bias(SEGMENTS, np.array([[1, 1, 2, 0], [1, 1, 1, 1]], np.int32))
    y = joined(block.attention_path, x, lambda x: block.attention(x, bias=bias).numpy())
    y = joined(block.cross_attention_path, y, lambda x: block.cross_attention(x, source, bias=source_bias).numpy())
    y = joined(block.feed_forward_path, y, lambda x: block.feed_forward(x).numpy())
    np.testing.assert_allclose(block(x, source, bias=bias, source_bias=source_bias), y, atol=1e-5)


@pytest.mark.parametrize("style", STYLES[::3], ids=str)
@pytest.mark.parametrize("rotary", [None, rotary_frequencies(4)], ids=["plain", "rotary"])
def test_wanted_positions_are_those_of_the_whole(style, rotary):
    block, x, positions = made(rotary=rotary, **style), tf.constant(drawn(2, 6, D)), segment_positions(SEGMENTS)
    wanted = np.array([[0, 3, 3], [5, 2, 0]], np.int32)
    upstream = drawn(2, 3, D, seed=3)

    def gradients(read):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = read()
        return y, *tape.gradient(y, [x, *block.trainable_variables], upstream)

    def some():
        segments = tf.gather(SEGMENTS, wanted, batch_dims=1)
        bias = attention_bias(segments, tf.constant(SEGMENTS))
        return block(x, bias=bias, positions=positions, read_positions=wanted)

    def whole():
        return tf.gather(block(x, bias=attention_bias(SEGMENTS), positions=positions), wanted, batch_dims=1)

    for ours, expected in zip(gradients(some), gradients(whole), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_a_cache_passes_through(kind):
    block, x, source = made(kind, rotary=rotary_frequencies(4), pre_norm=True), drawn(2, 5, D), drawn(2, 3, D, seed=2)
    positions = np.tile(np.arange(5), [2, 1])
    read = (source,) if kind is DecoderBlock else ()
    causal = attention_bias(np.ones([2, 5]), query_positions=positions, causal=True)
    whole = block(x, *read, bias=causal, positions=positions)
    cache, given = KeyValueCache.empty(2, 5, 2, 4), []
    for t in range(5):
        here = positions[:, t : t + 1]
        bias = attention_bias(
            np.ones([2, 1]), np.ones([2, 5]), query_positions=here, key_positions=positions, causal=True
        )
        y, cache = block(x[:, t : t + 1], *read, bias=bias, positions=here, cache=cache)
        given.append(y)
    np.testing.assert_allclose(tf.concat(given, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_packed_segments_get_what_they_get_alone(pre_norm):
    block, x = made(pre_norm=pre_norm), drawn(1, 6, D)
    together = block(x, bias=attention_bias(SEGMENTS[:1]))
    for part in (slice(0, 3), slice(3, 5)):
        np.testing.assert_allclose(together[:, part], block(x[:, part]), atol=1e-5)


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)])
def test_lower_precision_takes_float32_and_is_close(kind, policy, tolerance):
    inputs = [drawn(2, 6, D)] + ([drawn(2, 4, D, seed=2)] if kind is DecoderBlock else [])
    plain, block = made(kind), made(kind, dtype=policy)
    given = block(*inputs, bias=attention_bias(SEGMENTS))
    assert given.dtype == block.compute_dtype
    expected = plain(*inputs, bias=attention_bias(SEGMENTS))
    np.testing.assert_allclose(tf.cast(given, tf.float32), expected, atol=tolerance, rtol=tolerance)


def test_dropout_falls_on_both_residual_paths():
    block, x = made(dropout=0.5, pre_norm=True), drawn(1, 6, D)
    whole = block(x)
    np.testing.assert_array_equal(whole, block(x, training=False))
    assert np.abs(block(x, training=True) - whole).max() > 0.01
    for path in (block.attention_path, block.feed_forward_path):
        kept = path.leave(tf.zeros([100, 100]), tf.ones([100, 100]), training=True).numpy()
        assert 0.45 < (kept == 0).mean() < 0.55


def test_an_unknown_norm_lists_the_known_ones():
    with pytest.raises(ValueError, match='normalisation "batch" is not known; known: layer, rms'):
        made(norm="batch")


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_is_two_products_with_a_nonlinearity_between(name, gated, bias):
    layer, x = FeedForward(D, 5, activation=name, gated=gated, bias=bias), drawn(2, 3, D)
    layer.build(x.shape)
    for variable in layer.weights:
        variable.assign(drawn(*variable.shape, seed=4))
    add = lambda part, rows: part.bias.numpy()[rows] if bias else 0
    first = x @ layer.inner.kernel.numpy()[:, :5] + add(layer.inner, slice(0, 5))
    inner = activation(name)(first).numpy()
    if gated:
        inner = inner * (x @ layer.inner.kernel.numpy()[:, 5:] + add(layer.inner, slice(5, 10)))
    expected = inner @ layer.outer.kernel.numpy() + add(layer.outer, slice(None))
    np.testing.assert_allclose(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert len(layer.weights) == (4 if bias else 2)


def test_feed_forward_drops_its_inner_activations():
    layer = FeedForward(1, 10_000, activation="linear", bias=False, dropout=0.25)
    layer.build((None, 1))
    layer.inner.kernel.assign(np.ones([1, 10_000]))
    layer.outer.kernel.assign(np.full([10_000, 1], 1e-4))
    given = layer(np.ones([1, 1]), training=True).numpy().item()
    assert given != 1
    assert abs(given - 1) < 5 * np.sqrt(0.25 / 0.75 / 10_000)
