"""Recurrent layers: the papers' equations in packed rows, both directions, beside padding; attention to texts and sources."""

import numpy as np
import pytest
import tensorflow as tf

from garden import layers
from garden.layers.recurrent import segment_starts

D, H = 5, 4
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [0, 0, 1, 1, 0, 1], [3, 1, 1, 0, 2, 2]], np.int32)
X = np.random.default_rng(0).normal(size=[*SEGMENTS.shape, D]).astype(np.float32)
SOURCE = np.random.default_rng(1).normal(size=[3, 4, 7]).astype(np.float32)
SOURCE_SEGMENTS = np.array([[1, 2, 2, 0], [0, 1, 1, 0], [1, 1, 2, 0]], np.int32)
CELLS = {
    "elman": lambda **options: layers.Elman(H, **options),
    "elman, relu": lambda **options: layers.Elman(H, activation="relu", **options),
    "elman, sigmoid": lambda **options: layers.Elman(H, activation="sigmoid", **options),
    "lstm": lambda **options: layers.LSTM(H, **options),
    "gru": lambda **options: layers.GRU(H, **options),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(layer, *shapes):
    """The layer with weights that are all other than zero."""
    random = np.random.default_rng(2)
    layer.build(*shapes)
    layer.set_weights([random.normal(size=variable.shape) * 0.7 for variable in layer.weights])
    return layer


def step(layer, x, h, c):
    """One step of one row, as the papers have it: new h and c."""
    weights = {variable.name: variable.numpy() for variable in layer.weights}
    given = x @ weights["kernel"] + weights.get("bias", 0)
    recurrent = h @ weights["recurrent_kernel"] + weights.get("recurrent_bias", 0)
    if isinstance(layer, layers.LSTM):
        i, f, g, o = np.split(given + recurrent, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if isinstance(layer, layers.GRU):
        (r, z, n), (ur, uz, un) = np.split(given, 3), np.split(recurrent, 3)
        new, z = np.tanh(n + sigmoid(r + ur) * un), sigmoid(z + uz)
        return (1 - z) * new + z * h, c
    kinds = {"tanh": np.tanh, "sigmoid": sigmoid, "relu": lambda x: np.maximum(x, 0)}
    return kinds[layer.activation_name](given + recurrent), c


def naive(layer, x, segment_ids, begin=None):
    """The layer in plain loops: one text after the other, without its padding."""
    y = np.zeros([*segment_ids.shape, H])
    for row, segments in enumerate(segment_ids):
        for segment in set(segments) - {0}:
            places = np.flatnonzero(segments == segment)
            places = places[::-1] if layer.reverse else places
            h, c = np.zeros(H) if begin is None else begin[row, places[0]], np.zeros(H)
            for place in places:
                h, c = step(layer, x[row, place], h, c)
                y[row, place] = h
    return y


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_each_text_has_its_own_states(kind, reverse):
    layer = drawn(CELLS[kind](reverse=reverse), X.shape)
    np.testing.assert_allclose(layer(X, SEGMENTS), naive(layer, X, SEGMENTS), atol=1e-5)
    begin = np.random.default_rng(3).normal(size=[*SEGMENTS.shape, H])
    np.testing.assert_allclose(layer(X, SEGMENTS, begin=begin), naive(layer, X, SEGMENTS, begin), atol=1e-5)
    no_bias = drawn(CELLS[kind](reverse=reverse, bias=False), X.shape)
    assert len(no_bias.weights) == 2
    np.testing.assert_allclose(no_bias(X), naive(no_bias, X, np.ones_like(SEGMENTS)), atol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_are_the_differences(kind):
    layer = drawn(CELLS[kind](dtype="float64"), X.shape)
    x, begin = tf.constant(X, tf.float64), tf.constant(np.random.default_rng(3).normal(size=[*SEGMENTS.shape, H]))
    direction = np.random.default_rng(4).normal(size=[*SEGMENTS.shape, H])
    shapes = [variable.shape for variable in layer.weights]

    def value(x, begin, *weights):
        layer.set_weights(weights)
        return tf.reduce_sum(layer(x, SEGMENTS, begin=begin) * direction)

    points = [x, begin, *layer.get_weights()]
    with tf.GradientTape() as tape:
        tape.watch([x, begin])
        total = tf.reduce_sum(layer(x, SEGMENTS, begin=begin) * direction)
    gradients = tape.gradient(total, [x, begin, *(variable.value for variable in layer.weights)])
    assert [gradient.shape for gradient in gradients] == [x.shape, begin.shape, *shapes]
    random = np.random.default_rng(5)
    for index, gradient in enumerate(gradients):
        way = random.normal(size=gradient.shape)
        sides = [
            value(*(point + side * 1e-6 * way if i == index else point for i, point in enumerate(points)))
            for side in (1, -1)
        ]
        np.testing.assert_allclose(np.sum(gradient * way), (sides[0] - sides[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_what_stands_under_padding_changes_nothing():
    layer = drawn(layers.GRU(H), X.shape)
    dirty = np.where(SEGMENTS[..., None] > 0, X, np.nan).astype(np.float32)
    np.testing.assert_array_equal(layer(dirty, SEGMENTS), layer(X, SEGMENTS))


@pytest.mark.parametrize("kind", CELLS)
def test_a_memory_goes_on_where_the_tokens_before_it_ended(kind):
    layer = drawn(CELLS[kind](), X.shape)
    whole = layer(X, SEGMENTS)
    for steps in ([1] * 6, [2, 0, 3, 1]):
        memory, pieces, begin = layer.empty_memory(len(X)), [], 0
        for size in steps:
            part = slice(begin, begin + size)
            y, memory = layer(X[:, part], SEGMENTS[:, part], memory=memory)
            pieces.append(y)
            begin += size
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)
        np.testing.assert_array_equal(memory.segment_ids, [2, 1, 2])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_states_are_not_of_half_precision(policy):
    layer = drawn(layers.LSTM(H, dtype=policy), X.shape)
    y, memory = layer(X, SEGMENTS, memory=layer.empty_memory(len(X)))
    assert y.dtype == policy.removeprefix("mixed_")
    assert {state.dtype for state in memory.states} == {tf.float32}
    np.testing.assert_allclose(tf.cast(y, tf.float32), naive(layer, X, SEGMENTS), atol=0.03)


@pytest.mark.parametrize("kind", CELLS)
def test_one_graph_serves_any_length(kind):
    layer = drawn(CELLS[kind](), X.shape)

    @tf.function(input_signature=[tf.TensorSpec([None, None, D]), tf.TensorSpec([None, None], tf.int32)])
    def run(x, segment_ids):
        with tf.GradientTape() as tape:
            y = layer(x, segment_ids)
        return y, tape.gradient(y, layer.trainable_variables)

    for rows, length in ((3, 6), (1, 1), (2, 0), (0, 3), (0, 0)):
        y, gradients = run(X[:rows, :length], SEGMENTS[:rows, :length])
        np.testing.assert_allclose(y, naive(layer, X[:rows, :length], SEGMENTS[:rows, :length]), atol=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert layer(X[:rows, :length], SEGMENTS[:rows, :length]).shape == (rows, length, H)


def test_forget_gates_start_open():
    layer = layers.LSTM(H)
    layer.build(X.shape)
    np.testing.assert_array_equal(layer.bias, np.repeat([0, 1, 0, 0], H))


def test_a_stack_reads_what_the_layer_below_wrote_in_both_directions():
    parts = [layers.GRU(H), layers.LSTM(3)], [layers.GRU(H, reverse=True), layers.Elman(3, reverse=True)]
    stack = layers.RecurrentStack(*parts, dropout=0.5)
    first, second = stack(X, SEGMENTS)
    assert stack.width == 6
    assert first.shape == (3, 6, 2 * H)
    np.testing.assert_allclose(first, tf.concat([parts[0][0](X, SEGMENTS), parts[1][0](X, SEGMENTS)], -1))
    np.testing.assert_allclose(second[..., 3:], parts[1][1](first, SEGMENTS), atol=1e-6)
    trained = stack(X, SEGMENTS, training=True)
    np.testing.assert_array_equal(trained[0], first)
    assert np.abs(trained[1] - second).max() > 1e-3
    for call in (lambda: stack.empty_memory(3), lambda: stack(X, memory=())):
        with pytest.raises(ValueError, match="bidirectional"):
            call()
    with pytest.raises(ValueError, match="from their ends"):
        parts[1][0](X, memory=parts[0][0].empty_memory(3))


def test_padding_does_not_part_a_segment():
    starts, last = segment_starts(tf.constant([[0, 1, 0, 1, 2, 0]] * 2), tf.constant([0, 1]))
    np.testing.assert_array_equal(starts, [[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(last, [2, 2])
    starts, last = segment_starts(tf.zeros([2, 3], tf.int32), tf.constant([0, 4]))
    assert not np.any(starts)
    np.testing.assert_array_equal(last, [0, 4])


# ------------------------------------------------------------------------------------------ attention


def test_pooling_is_a_weighted_mean_of_each_text():
    layer = drawn(layers.AdditivePooling(3), X.shape)
    inner, bias, score = (variable.numpy() for variable in layer.weights)
    texts = np.array([[1, 2, 0], [1, 7, 1], [2, 3, 1]], np.int32)
    given = layer(X, SEGMENTS, texts).numpy()
    for row, wanted in enumerate(texts):
        for column, text in enumerate(wanted):
            states = X[row][(SEGMENTS[row] == text) & (text > 0)]
            scores = np.exp(np.tanh(states @ inner + bias) @ score)
            expected = (scores * states).sum(axis=0) / scores.sum() if len(states) else np.zeros(D)
            np.testing.assert_allclose(given[row, column], expected, atol=1e-5)
    np.testing.assert_allclose(layer(X, SEGMENTS)[0], given[0, 0], atol=1e-6)
    np.testing.assert_allclose(layer(X, SEGMENTS)[2], given[2, 1], atol=1e-6)
    np.testing.assert_array_equal(layer(X, np.zeros_like(SEGMENTS)), np.zeros([3, D]))
    np.testing.assert_array_equal(layer(X[:, :0], SEGMENTS[:, :0]), np.zeros([3, D]))


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_reads_what_the_last_state_finds_in_its_own_source(kind):
    cell, attention = CELLS[kind](), layers.AdditiveAttention(6)
    layer = drawn(layers.AttentiveRecurrent(cell, attention), X.shape, SOURCE.shape)
    query, key, bias, score = (variable.numpy() for variable in attention.weights)
    given = layer(X, SOURCE, segment_ids=SEGMENTS, source_segment_ids=SOURCE_SEGMENTS).numpy()
    for row, segments in enumerate(SEGMENTS):
        for segment in set(segments) - {0}:
            source = SOURCE[row][SOURCE_SEGMENTS[row] == segment]
            h = c = np.zeros(H)
            for place in np.flatnonzero(segments == segment):
                scores = np.exp(np.tanh(h @ query + source @ key + bias) @ score)
                context = (scores * source).sum(axis=0) / scores.sum() if len(source) else np.zeros(SOURCE.shape[-1])
                h, c = step(cell, np.concatenate([X[row, place], context]), h, c)
                np.testing.assert_allclose(given[row, place], np.concatenate([h, context]), atol=1e-5)
    assert not given[SEGMENTS == 0].any()
    with pytest.raises(ValueError, match="reverse=True"):
        layers.AttentiveRecurrent(CELLS[kind](reverse=True), attention)


def test_without_a_source_there_is_no_context():
    layer = drawn(layers.AttentiveRecurrent(layers.GRU(H), layers.AdditiveAttention()), X.shape, SOURCE.shape)
    given = layer(X, SOURCE[:, :0])
    np.testing.assert_array_equal(given[..., H:], np.zeros([*SEGMENTS.shape, SOURCE.shape[-1]]))
    padding = layer(X, SOURCE, source_segment_ids=np.zeros_like(SOURCE_SEGMENTS))
    np.testing.assert_allclose(padding, given, atol=1e-6)
    assert layer(X[:, :0], SOURCE).shape == (3, 0, H + SOURCE.shape[-1])
