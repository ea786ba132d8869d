"""What every layer owes Keras: its config makes it again, XLA compiles it, and it serves any dtype policy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden import layers

D = 8
X = np.random.default_rng(0).normal(size=[2, 4, D]).astype(np.float32)
SOURCE = np.random.default_rng(1).normal(size=[2, 3, D]).astype(np.float32)
IDS = np.array([[0, 3, 1, 2], [1, 1, 0, 3]], np.int32)


def attention(**options):
    return layers.MultiHeadAttention(D, 4, dropout=0.2, **options)


# A layer's constructor and the positional inputs of its call.
LAYERS = {
    "attention": (attention, [X]),
    "attention, all options": (
        lambda: attention(key_value_heads=2, head_width=6, bias=False, output_bias=True, initializer="he_normal"),
        [X, SOURCE],
    ),
    "attention, rotary": (lambda: attention(rotary_frequencies=layers.rotary_frequencies(2)), [X]),
    "attention, rotary, head norms": (
        lambda: attention(
            rotary_frequencies=layers.rotary_frequencies(2), rotary_scale=1.2, head_norm_epsilon=1e-4, scale=0.5
        ),
        [X],
    ),
    "feed-forward": (lambda: layers.FeedForward(D, 12, dropout=0.3), [X]),
    "feed-forward, gated": (lambda: layers.FeedForward(D, 12, activation="silu", gated=True, bias=False), [X]),
    "layer norm": (lambda: layers.LayerNorm(1e-3, bias=False), [X]),
    "rms norm": (lambda: layers.RMSNorm(1e-3), [X]),
    "dropout": (lambda: layers.Dropout(0.4, seed=3), [X]),
    "dense": (lambda: layers.Dense(5, bias=False), [X]),
    "projections": (lambda: layers.Projections([3, 1, 2], initializer="he_normal"), [X]),
    "embedding": (lambda: layers.Embedding(4, D, initializer="zeros"), [IDS]),
    "learned positions": (lambda: layers.LearnedPositions(4, D), [IDS]),
    "sinusoidal positions": (lambda: layers.SinusoidalPositions(4, D), [IDS]),
    "encoder block": (
        lambda: layers.EncoderBlock(
            attention(), layers.FeedForward(D, 12), pre_norm=True, norm="rms", norm_epsilon=1e-4, dropout=0.1
        ),
        [X],
    ),
    "decoder block": (
        lambda: layers.DecoderBlock(
            attention(), layers.FeedForward(D, 12), cross_attention=attention(key_value_heads=1), dropout=0.1
        ),
        [X, SOURCE],
    ),
    "elman": (lambda: layers.Elman(6, activation="sigmoid", bias=False), [X]),
    "lstm": (lambda: layers.LSTM(6, reverse=True, initializer="he_normal"), [X]),
    "gru": (lambda: layers.GRU(6), [X, np.array([[1, 1, 2, 2], [0, 1, 1, 0]], np.int32)]),
    "recurrent stack": (
        lambda: layers.RecurrentStack(
            [layers.GRU(6), layers.LSTM(4)], [layers.Elman(6, reverse=True), layers.GRU(4, reverse=True)], dropout=0.2
        ),
        [X],
    ),
    "additive attention": (lambda: layers.AdditiveAttention(5, initializer="he_normal"), [X[:, 0], SOURCE[:, :, :7]]),
    "attentive recurrent": (
        lambda: layers.AttentiveRecurrent(layers.LSTM(6), layers.AdditiveAttention(5)),
        [X, SOURCE],
    ),
    "additive pooling": (lambda: layers.AdditivePooling(5, initializer="he_normal"), [X]),
}


@pytest.fixture(params=LAYERS)
def case(request):
    constructor, inputs = LAYERS[request.param]
    positions = np.tile(np.arange(4), [2, 1])
    options = {"query_positions": positions} if "rotary" in request.param else {}
    return constructor, inputs, options


def test_the_cases_are_all_layers_there_are():
    kinds = {type(constructor()).__name__ for constructor, _ in LAYERS.values()}
    public = {name for name in layers.__all__ if isinstance(getattr(layers, name), type)}
    kinds.add("SavedModelLayer")  # computes what a file says, and has tests of its own
    assert kinds == {name for name in public if issubclass(getattr(layers, name), keras.layers.Layer)}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_config_makes_the_same_layer(case, policy):
    constructor, inputs, options = case
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layer = constructor()
    finally:
        keras.config.set_dtype_policy(before)
    # As Keras saves and opens it: through JSON, by the registered name.
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    given = layer(*inputs, **options)
    again(*inputs, **options)
    assert [variable.shape for variable in again.weights] == [variable.shape for variable in layer.weights]
    again.set_weights(layer.get_weights())
    flat = tf.nest.flatten(given)
    if not isinstance(layer, layers.Dropout):  # which keeps what it gets
        assert all(values.dtype == layer.compute_dtype for values in flat)
    for ours, theirs in zip(flat, tf.nest.flatten(again(*inputs, **options)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_xla_compiles_it_forwards_and_backwards(case):
    constructor, inputs, options = case
    layer = constructor()
    plain = layer(*inputs, **options)

    @tf.function(jit_compile=True)
    def compiled(inputs):
        trained = {"training": True} if "training" in layer._call_signature.parameters else {}
        with tf.GradientTape() as tape, layers.step_seed(1, tf.constant(2)):
            while_training = layer(*inputs, **options, **trained)
        gradients = tape.gradient(while_training, layer.trainable_variables)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # embeddings' are lists of rows
        return (layer(*inputs, **options) if trained else while_training), while_training, gradients

    given, *others = compiled([tf.constant(values) for values in inputs])
    for ours, theirs in zip(tf.nest.flatten(given), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert all(np.isfinite(values).all() for values in tf.nest.flatten(others))


def test_keras_functional_models_take_it(case):
    constructor, inputs, options = case
    symbols = [keras.Input(values.shape[1:], dtype=values.dtype) for values in inputs]
    layer = constructor()
    model = keras.Model(symbols, layer(*symbols, **options))
    expected = layer(*inputs, **options)
    for ours, theirs in zip(tf.nest.flatten(model(inputs)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_projections_are_slices_of_one_product():
    layer = layers.Projections([3, 1, 2])
    layer.build(X.shape)
    layer.bias.assign(np.arange(6))
    whole = X @ layer.kernel.numpy() + np.arange(6)
    for given, part in zip(layer(X), (slice(0, 3), slice(3, 4), slice(4, 6)), strict=True):
        np.testing.assert_allclose(given, whole[..., part], atol=1e-5)
    for only, parts in ((slice(0, 1), [slice(0, 3)]), (slice(1, 3), [slice(3, 4), slice(4, 6)])):
        for given, part in zip(layer(X, only=only), parts, strict=True):
            np.testing.assert_allclose(given, whole[..., part], atol=1e-5)


def test_an_embedding_reads_its_table_both_ways():
    layer = layers.Embedding(4, D)
    given = layer(IDS)
    table = layer.table.numpy()
    np.testing.assert_array_equal(given, table[IDS])
    np.testing.assert_allclose(layer.logits(X), X @ table.T, atol=1e-5)
    assert layer.logits(tf.cast(X, tf.bfloat16)).dtype == tf.bfloat16
    with pytest.raises(tf.errors.InvalidArgumentError):
        layer(np.array([4]))
