"""Attention against loops over batch, heads and positions, and what masks, packing, caches and precisions must keep."""

import numpy as np
import pytest
import tensorflow as tf

from garden.layers import (
    KeyValueCache,
    MultiHeadAttention,
    attention_bias,
    rotary_frequencies,
    segment_positions,
)

D = 12


def loops(layer: MultiHeadAttention, x, source=None, seen=None, turn=lambda head, position: head):
    """Attention as the paper writes it, one query at a time. `seen`: [B,T,S] bool."""
    source = x if source is None else source
    kernel = layer.query_key_value.kernel.numpy().astype(np.float64)
    bias = layer.query_key_value.bias.numpy() if layer.has_bias else np.zeros(kernel.shape[1])
    N, K, H = layer.heads, layer.key_value_heads, layer.head_width
    parts = [slice(0, N * H), slice(N * H, (N + K) * H), slice((N + K) * H, (N + 2 * K) * H)]
    answers = []
    for b in range(len(x)):
        query, key, value = (
            (row @ kernel[:, part] + bias[part]).reshape(len(row), -1, H)
            for row, part in zip((x[b], source[b], source[b]), parts, strict=True)
        )
        rows = []
        for t in range(len(query)):
            heads = []
            for n in range(N):
                k = n // (N // K)
                logits = [
                    turn(query[t, n], t) @ turn(key[s, k], s) / np.sqrt(H) if seen is None or seen[b, t, s] else -np.inf
                    for s in range(len(key))
                ]
                weights = np.exp(logits - np.max(logits))
                heads.append(weights / weights.sum() @ value[:, k])
            rows.append(np.concatenate(heads))
        answers.append(rows)
    out = np.array(answers) @ layer.output_projection.kernel.numpy()
    return out + (layer.output_projection.bias.numpy() if layer.has_output_bias else 0)


def made(seed=0, width=D, heads=4, **options) -> MultiHeadAttention:
    layer = MultiHeadAttention(width, heads, **options)
    layer.build((None, None, D))
    draw = np.random.default_rng(seed)
    for variable in layer.weights:
        variable.assign(draw.normal(0, 0.5, variable.shape))
    return layer


def drawn(*shape, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_value_heads": 2},
        {"key_value_heads": 1, "bias": False},
        {"head_width": 5},
        {"head_width": 2, "key_value_heads": 2, "output_bias": False},
        {"width": 7, "head_width": 3, "bias": False, "output_bias": True},
    ],
    ids=str,
)
def test_self_and_cross_attention_equal_the_loops(options):
    layer, x, source = made(**options), drawn(2, 5, D), drawn(2, 7, D, seed=2)
    np.testing.assert_allclose(layer(x), loops(layer, x), atol=2e-5)
    np.testing.assert_allclose(layer(x, source), loops(layer, x, source), atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 2}, {"causal": True, "window": 3}], ids=str)
def test_what_a_token_sees(options):
    segment_ids = np.array([[1, 1, 1, 1, 2, 2, 0, 0], [0, 1, 1, 2, 3, 3, 3, 3]], np.int32)
    positions = segment_positions(segment_ids)
    bias = attention_bias(segment_ids, query_positions=positions, **options)
    assert bias.shape == (2, 1, 8, 8)
    assert bias.dtype == tf.float32
    seen = np.zeros([2, 8, 8], bool)
    for b, t, s in np.ndindex(2, 8, 8):
        distance = t - s
        seen[b, t, s] = (
            segment_ids[b, t] == segment_ids[b, s]
            and not (options.get("causal") and distance < 0)
            and not (options.get("window") and abs(distance) >= options["window"])
        )
    np.testing.assert_array_equal(bias.numpy()[:, 0] == 0, seen)
    layer, x = made(key_value_heads=2), drawn(2, 8, D)
    np.testing.assert_allclose(layer(x, bias=bias), loops(layer, x, seen=seen), atol=2e-5)


def test_cross_attention_with_its_own_segments():
    query_segments, key_segments = np.array([[1, 1, 2]]), np.array([[1, 2, 2, 0]])
    bias = attention_bias(query_segments, key_segments)
    layer, x, source = made(), drawn(1, 3, D), drawn(1, 4, D, seed=2)
    seen = query_segments[:, :, None] == key_segments[:, None]
    np.testing.assert_allclose(layer(x, source, bias=bias), loops(layer, x, source, seen), atol=2e-5)


def test_causal_and_window_need_positions():
    with pytest.raises(ValueError, match="query_positions"):
        attention_bias(np.ones([1, 2], np.int32), causal=True)


def test_rotary_attention_equals_the_loops_and_knows_relative_positions_only():
    frequencies = rotary_frequencies(6, theta=100.0)
    layer, x = made(heads=2, rotary_frequencies=frequencies), drawn(1, 5, D)

    def turn(head, position):
        first, second = head[:3], head[3:]
        cos, sin = np.cos(position * frequencies), np.sin(position * frequencies)
        return np.concatenate([first * cos - second * sin, first * sin + second * cos])

    positions = np.arange(5)[None]
    given = layer(x, query_positions=positions)
    np.testing.assert_allclose(given, loops(layer, x, turn=turn), atol=2e-5)
    np.testing.assert_allclose(layer(x, query_positions=positions + 1_000), given, atol=1e-4)
    assert np.abs(layer(x, query_positions=positions * 2) - given).max() > 1e-3


def test_rotary_attention_without_positions_says_so():
    layer = made(heads=2, rotary_frequencies=rotary_frequencies(6))
    with pytest.raises(ValueError, match="query_positions"):
        layer(drawn(1, 3, D))
    with pytest.raises(ValueError, match="key_positions"):
        layer(drawn(1, 3, D), drawn(1, 3, D), query_positions=np.arange(3)[None])


@pytest.mark.parametrize("options", [{}, {"key_value_heads": 1, "rotary_frequencies": rotary_frequencies(3 + 1)}])
def test_a_packed_row_gives_each_segment_what_it_gets_alone(options):
    layer = made(head_width=4, **options)
    lengths = [5, 1, 4]
    alone = [drawn(1, length, D, seed=length) for length in lengths]
    packed = np.concatenate([*alone, np.full([1, 3, D], 9, np.float32)], axis=1)
    segment_ids = np.array([[1] * 5 + [2] + [3] * 4 + [0] * 3])
    upstream = drawn(*packed.shape, seed=9)

    def answers_and_gradients(x, segment_ids, upstream):
        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            positions = segment_positions(segment_ids)
            y = layer(x, bias=attention_bias(segment_ids), query_positions=positions)
            total = tf.reduce_sum(y * upstream * tf.cast(segment_ids > 0, tf.float32)[..., None])
        return y, *tape.gradient(total, [x, *layer.trainable_variables])

    y, of_x, *of_weights = answers_and_gradients(packed, segment_ids, upstream)
    start, sums = 0, [0.0] * len(of_weights)
    for x in alone:
        part = slice(start, start + x.shape[1])
        start = part.stop
        y_alone, of_x_alone, *rest = answers_and_gradients(x, np.ones(x.shape[:2], np.int32), upstream[:, part])
        np.testing.assert_allclose(y[:, part], y_alone, atol=1e-5)
        np.testing.assert_allclose(of_x[:, part], of_x_alone, atol=1e-5)
        sums = [total + gradient for total, gradient in zip(sums, rest, strict=True)]
    for packed_gradient, total in zip(of_weights, sums, strict=True):
        np.testing.assert_allclose(packed_gradient, total, atol=2e-5)
    assert not np.any(of_x[:, start:]), "padding has no influence"


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_rows_of_padding_and_queries_that_see_nothing_are_finite(policy):
    layer, x = made(dtype=policy), tf.constant(drawn(2, 4, D))
    only_padding = attention_bias(np.array([[0, 0, 0, 0], [1, 1, 0, 0]]))
    nothing = attention_bias(np.ones([2, 4], np.int32), np.full([2, 4], 2))
    for bias in (only_padding, nothing):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, bias=bias)
        assert np.isfinite(y).all()
        assert np.isfinite(tape.gradient(y, x)).all()


@pytest.mark.parametrize("rotary", [None, rotary_frequencies(4)], ids=["plain", "rotary"])
@pytest.mark.parametrize("steps", [[1] * 6, [4, 1, 1], [6]], ids=str)
def test_decoding_with_a_cache_equals_the_whole(steps, rotary):
    layer, x = made(key_value_heads=2, head_width=4, rotary_frequencies=rotary), drawn(2, 6, D)
    positions = np.tile(np.arange(6), [2, 1])
    whole = layer(
        x,
        bias=attention_bias(np.ones([2, 6]), query_positions=positions, causal=True),
        query_positions=positions,
    )
    size = 8  # two places stay free
    cache = KeyValueCache.empty(2, size, 2, 4)
    places = np.tile(np.arange(size), [2, 1])
    decode = tf.function(layer.__call__, reduce_retracing=True)
    given, start = [], 0
    for step in steps:
        here = positions[:, start : start + step]
        bias = attention_bias(
            np.ones([2, step]), np.ones([2, size]), query_positions=here, key_positions=places, causal=True
        )
        y, cache = decode(x[:, start : start + step], bias=bias, query_positions=here, cache=cache)
        given.append(y)
        start += step
    assert cache.length == 6
    assert cache.key.shape == (2, size, 2, 4)
    assert not np.any(cache.value[:, 6:])
    np.testing.assert_allclose(tf.concat(given, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.1), ("mixed_float16", 0.01)])
def test_lower_precision_is_close_and_its_softmax_is_float32(policy, tolerance):
    plain, layer, x = made(), made(dtype=policy), drawn(2, 5, D)
    bias = attention_bias(np.array([[1, 1, 2, 2, 0]] * 2))
    y = layer(x, bias=bias)
    assert y.dtype == layer.compute_dtype
    np.testing.assert_allclose(tf.cast(y, tf.float32), plain(x, bias=bias), atol=tolerance, rtol=tolerance)

    @tf.function
    def traced(x):
        return layer(x, bias=bias)

    softmaxes = [op for op in traced.get_concrete_function(x).graph.get_operations() if op.type == "Softmax"]
    assert [op.inputs[0].dtype for op in softmaxes] == [tf.float32]


def test_large_logits_neither_overflow_nor_lose_their_mask_in_float16():
    layer = MultiHeadAttention(2, 1, bias=False, dtype="mixed_float16")
    layer.build((None, None, 2))
    layer.query_key_value.kernel.assign(np.tile(np.eye(2), [1, 3]))
    layer.output_projection.kernel.assign(np.eye(2))
    x = np.array([[[200.0, 0.0], [200.0, 1.0], [0.0, 1.0]]], np.float32)  # logits up to 28,284
    seen = np.array([[[1, 0, 1], [0, 1, 1], [1, 1, 1]]], bool)
    given = layer(x, bias=tf.where(seen, 0.0, -1e9)[:, None]).numpy()
    np.testing.assert_allclose(given[0, 0], [200.0, 0.0])
    np.testing.assert_allclose(given[0, 1], [200.0, 1.0])
    assert np.isfinite(given).all()


def test_dropout_of_probabilities_only_while_training():
    layer, x = made(dropout=0.5), drawn(2, 5, D)
    np.testing.assert_array_equal(layer(x), layer(x, training=False))
    assert np.abs(layer(x, training=True) - layer(x)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, "4 heads do not divide the width 10"),
        ({"width": 12, "heads": 4, "key_value_heads": 3}, "3 key/value heads do not divide 4 heads"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**options)
