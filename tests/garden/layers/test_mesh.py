"""Layers in shards are their plain twins: weights, answers, gradients, places. One device stands for several."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.layers import DecoderBlock, Embedding, FeedForward, KeyValueCache, MultiHeadAttention, attention_bias
from garden.layers.mesh import Cut, Mesh, in_stages, on, piece_bounds, whole

HERE = "/device:CPU:0"
MESH = Mesh.of([HERE] * 4, model=2, stage=2)
LAYERS = {
    "attention": lambda: MultiHeadAttention(16, 4, name="part"),
    "shared keys": lambda: MultiHeadAttention(16, 8, key_value_heads=4, head_width=4, bias=False, name="part"),
    "head norms": lambda: MultiHeadAttention(16, 4, head_norm_epsilon=1e-6, name="part"),
    "feed-forward": lambda: FeedForward(16, 24, name="part"),
    "gated": lambda: FeedForward(16, 24, gated=True, bias=False, activation="silu", name="part"),
}


def twins(make, shape=(None, None, 16), mesh=MESH):
    """Returns a layer and the same one on a mesh, and asserts that they begin alike and leave the same random state."""
    made, following = [], []
    for scope in (Mesh.of([HERE]).scope(), mesh.scope()):
        with scope:
            keras.utils.set_random_seed(3)
            layer = make()
            layer.build(shape)
            following.append(random.random())
            made.append(layer)
    plain, spread = made
    assert following[0] == following[1]
    assert [weight.path for weight in whole(spread.weights)] == [weight.path for weight in plain.weights]
    for one, other in zip(plain.weights, whole(spread.weights), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), one.path
    return plain, spread


@pytest.mark.parametrize(("kind", "count"), [*((kind, 2) for kind in LAYERS), ("shared keys", 4)])
def test_shards_are_one_layer(kind, count):
    plain, spread = twins(LAYERS[kind], mesh=Mesh.of([HERE] * 4, model=count))
    draw = np.random.default_rng(0)
    x = tf.constant(draw.normal(size=(2, 5, 16)), tf.float32)
    bias = {"bias": attention_bias(tf.constant([[1, 1, 1, 2, 2]] * 2))} if "query_key_value" in vars(plain) else {}
    answers, gradients = [], []
    for layer in (plain, spread):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.function(layer, autograph=False)(x, **bias)
            loss = tf.reduce_sum(y * tf.range(16.0))
        answers.append(y)
        slopes = tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])
        gradients.append(slopes)
    np.testing.assert_allclose(*answers, atol=2e-5)
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], atol=2e-3, rtol=1e-4)
    # The gradients' pieces, joined as their weights are.
    variables = [tf.Variable(gradient) for gradient in gradients[1][1:]]
    joined = whole(variables, like=spread.trainable_weights)
    for one, other in zip(gradients[0][1:], joined, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_tables_in_shards(count):
    plain, spread = twins(lambda: Embedding(200, 8, name="part"), mesh=Mesh.of([HERE] * 3, model=count))
    ids = tf.constant([[0, 66, 67], [199, 100, 99]])
    np.testing.assert_array_equal(plain(ids), spread(ids))
    x, bias = tf.random.normal([2, 3, 8]), tf.range(200.0)
    np.testing.assert_allclose(plain.logits(x, bias), spread.logits(x, bias), atol=1e-5)
    assert not np.any(spread(tf.constant([200, -1])))
    assert sum(weight.shape[0] for weight in spread.weights) == 200


def test_shards_in_bfloat16():
    plain, spread = twins(lambda: FeedForward(16, 24, dtype="mixed_bfloat16", name="part"))
    x = tf.random.normal([2, 3, 16])
    assert spread(x).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(plain(x), tf.float32), tf.cast(spread(x), tf.float32), atol=0.05)


def test_small_tables_stay_whole():
    assert not twins(lambda: Embedding(2, 8, name="part"))[1].shards


def test_a_cache_a_read_source_and_a_bias_of_each_head():
    plain, spread = twins(lambda: MultiHeadAttention(16, 4, name="part"))
    x, source = tf.random.normal([2, 3, 16]), tf.random.normal([2, 6, 16])
    by_head = tf.random.normal([1, 4, 3, 6])
    np.testing.assert_allclose(
        plain(x, plain.read(source), bias=by_head), spread(x, spread.read(source), bias=by_head), atol=1e-5
    )
    cache = KeyValueCache.empty(2, 5, 4, 4)
    (one, kept), (other, same) = plain(x, cache=cache), spread(x, cache=cache)
    np.testing.assert_allclose(one, other, atol=1e-5)
    for a, b in zip(kept, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_without_a_mesh_nothing_is_added():
    def operations(scope_of: Mesh | None) -> list[str]:
        keras.utils.set_random_seed(0)
        layer = DecoderBlock(
            MultiHeadAttention(16, 4), FeedForward(16, 32), cross_attention=MultiHeadAttention(16, 4), norm_epsilon=1e-6
        )
        layer.build((None, None, 16))
        if scope_of:
            layer.stage = scope_of
        x = tf.TensorSpec([2, 5, 16])
        return [
            op.type for op in tf.function(layer, autograph=False).get_concrete_function(x, x).graph.get_operations()
        ]

    assert operations(None).count("MatMul") == 7
    assert operations(None).count("AddN") == 0
    # A function with a gradient of its own is an IdentityN: GELU is one, and a block on a stage another.
    assert operations(None).count("IdentityN") == 1
    assert operations(Mesh.of([HERE])).count("IdentityN") == 2


def test_a_gradient_is_computed_where_its_answer_was():
    elsewhere = "/device:CPU:7"  # a graph may name what is not here
    weight = tf.Variable(tf.ones([4, 4]))

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            y = on(elsewhere, lambda x: tf.tanh(x @ weight), x)
        return tape.gradient(y, weight)

    operations = step.get_concrete_function(tf.TensorSpec([2, 4])).graph.get_operations()
    placed = {operation.type: operation.device for operation in operations}
    assert placed["Tanh"] == placed["TanhGrad"] == placed["MatMul"] == elsewhere


def test_blocks_are_divided_among_stages():
    class Block:
        stage = None

    blocks = [Block() for _ in range(5)]
    with Mesh.of(["a", "b", "c", "d"], model=2, stage=2).scope():
        in_stages(blocks)
        with pytest.raises(ValueError, match="mesh: 2 stages for a network of 1 blocks"):
            in_stages(blocks[:1])
    assert [block.stage.first for block in blocks] == ["a", "a", "a", "c", "c"]


def test_a_mesh_that_heads_or_columns_do_not_divide():
    with Mesh.of([HERE] * 3, model=3).scope():
        with pytest.raises(ValueError, match="mesh: model: 3 devices do not divide the 4 heads of attention"):
            MultiHeadAttention(16, 4, name="attention").build((None, None, 16))
        with pytest.raises(ValueError, match="do not divide the 2 key/value heads"):
            MultiHeadAttention(12, 6, key_value_heads=2).build((None, None, 12))
        with pytest.raises(ValueError, match="do not divide the 32 columns of inner"):
            FeedForward(16, 32, name="inner").build((None, None, 16))


def test_pieces_and_wholes():
    kernel = np.arange(2 * 12).reshape(2, 12)
    cut = Cut(-1, (8, 2, 2))
    pieces = [cut.piece(kernel, index, 2) for index in range(2)]
    assert pieces[1][0].tolist() == [4, 5, 6, 7, 9, 11]
    assert np.array_equal(cut.joined(pieces), kernel)
    assert piece_bounds(5, 2) == [0, 2, 5]


def test_a_whole_is_read_and_written_as_a_variable():
    _, spread = twins(LAYERS["gated"])
    kernel = whole(spread.weights)[0]
    assert (kernel.name, kernel.shape) == ("kernel", (16, 48))
    values = np.random.default_rng(0).normal(size=kernel.shape).astype(np.float32)
    kernel.assign(values)
    assert np.array_equal(tf.convert_to_tensor(kernel.value), values)
    assert np.array_equal(spread.shards[0].inner.kernel.numpy(), np.concatenate([values[:, :12], values[:, 24:36]], 1))
    with pytest.raises(ValueError, match=r"part/inner/kernel: expected an array of shape \[16, 48\], got \[2\]"):
        kernel.assign(np.zeros(2))
