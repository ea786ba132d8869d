"""A SavedModel as a layer: computes what it computes, trains what it lets train, and goes wherever Keras layers go."""

import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden import SavedModelLayer

GOLDEN = Path(__file__).parents[2] / "golden" / "tensorflow"
X = np.random.default_rng(0).normal(size=[8, 3]).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32)


class Reusable(tf.Module):
    """A SavedModel after TensorFlow Hub's conventions: a linear layer, a frozen offset, and noise while training."""

    def __init__(self, penalty=0.1):
        super().__init__()
        self.kernel = tf.Variable(tf.ones([3, 1]), name="linear/kernel")
        self.offset = tf.Variable(2.0, trainable=False, name="offset")
        self.calls = tf.Variable(0, trainable=False, dtype=tf.int64, name="calls")
        self.note = tf.Variable("a string", trainable=False, name="note")
        self.regularization_losses = [tf.function(lambda: penalty * tf.reduce_sum(self.kernel**2), input_signature=[])]

    @tf.function
    def __call__(self, x, training=False):
        if training:
            self.calls.assign_add(1)
        return {"linear": x @ self.kernel + self.offset, "trained": tf.fill([tf.shape(x)[0]], training)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([], tf.int32)])
    def scaled(self, x, times):
        return {"scaled": x @ self.kernel * tf.cast(times, tf.float32)}


class Lengths(tf.Module):
    """Strings to numbers through a table, and a keyword; neither variables nor conventions."""

    def __init__(self):
        super().__init__()
        entries = tf.lookup.KeyValueTensorInitializer(["short", "long"], tf.constant([1, 2], tf.int64))
        self.table = tf.lookup.StaticHashTable(entries, default_value=0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, text):
        return {"kind": self.table.lookup(text)}


@pytest.fixture(scope="module")
def reusable(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "reusable"
    module = Reusable()
    for training in (True, False):
        module.__call__.get_concrete_function(tf.TensorSpec([None, 3]), training=training)
    tf.saved_model.save(module, str(directory), signatures={"scaled": module.scaled})
    return directory


@pytest.fixture(scope="module")
def lengths(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "lengths"
    module = Lengths()
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
    return directory


def model_of(layer, inputs=None):
    inputs = keras.Input([3]) if inputs is None else inputs
    return keras.Model(inputs, layer(inputs))


# ---- Calls -----------------------------------------------------------------------------------------------------------


def test_it_computes_what_the_saved_model_computes(reusable):
    layer = SavedModelLayer(reusable)
    outputs = layer(X)
    np.testing.assert_allclose(outputs["linear"], X.sum(axis=1, keepdims=True) + 2, rtol=1e-6)
    assert not outputs["trained"].numpy().any()
    np.testing.assert_array_equal(SavedModelLayer(reusable, output="linear")(X), outputs["linear"])
    assert layer.built
    assert sorted(tuple(v.shape) for v in layer.weights) == [(), (), (3, 1)]
    assert layer.trainable_weights == []


def test_strings_go_in_plainly(lengths):
    layer = SavedModelLayer(lengths, output="kind")
    expected = [1, 0, 2]
    for texts in (["short", "?", "long"], np.array(["short", "?", "long"]), tf.constant(["short", "?", "long"])):
        np.testing.assert_array_equal(layer(texts), expected)
    np.testing.assert_array_equal(layer({"text": ["short", "?", "long"]}), expected)
    model = model_of(layer, keras.Input([], dtype="string"))
    assert model.output.shape == (None,)
    np.testing.assert_array_equal(model.predict(tf.constant(["long"]), verbose=0), [2])


def test_signatures_take_their_inputs_by_name_and_type(reusable):
    layer = SavedModelLayer(reusable, signature="scaled", output="scaled")
    given = layer({"x": X.astype(np.float64), "times": tf.constant(3, tf.int64)})
    np.testing.assert_allclose(given, X.sum(axis=1, keepdims=True) * 3, rtol=1e-5)
    with pytest.raises(ValueError, match="expected inputs times, x, got x"):
        layer({"x": X})
    with pytest.raises(ValueError, match="expected a dictionary of times, x"):
        layer(X)


def test_arguments_are_passed_on(tmp_path):
    class Powers(tf.Module):
        @tf.function
        def __call__(self, x, power=2.0):
            return x**power

    module = Powers()
    module.__call__.get_concrete_function(tf.TensorSpec([None]), power=tf.TensorSpec([]))
    tf.saved_model.save(module, str(tmp_path / "powers"))
    layer = SavedModelLayer(tmp_path / "powers", arguments={"power": 3.0})
    np.testing.assert_allclose(layer(np.array([2.0], np.float32)), [8])
    assert SavedModelLayer.from_config(layer.get_config()).arguments == {"power": 3.0}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float16"])
def test_policies_leave_its_types_alone(reusable, policy):
    layer = SavedModelLayer(reusable, output="linear", dtype=policy, trainable=True)
    assert layer.trainable_weights[0].dtype == "float32"
    given = layer(tf.cast(X, tf.bfloat16))
    assert given.dtype == tf.float32
    np.testing.assert_allclose(given, X.sum(axis=1, keepdims=True) + 2, atol=0.05)


# ---- Training --------------------------------------------------------------------------------------------------------


def test_training_changes_what_the_saved_model_lets_train(reusable):
    layer = SavedModelLayer(reusable, output="linear", trainable=True)
    assert [tuple(v.shape) for v in layer.trainable_weights] == [(3, 1)]
    assert len(layer.non_trainable_weights) == 2  # strings are no Keras variables
    model = model_of(layer)
    model.compile(keras.optimizers.Adam(0.3), "mse")
    history = model.fit(X, Y, epochs=20, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert layer.saved_model.offset.numpy() == 2
    np.testing.assert_array_equal(layer.trainable_weights[0].numpy(), layer.saved_model.kernel.numpy())
    assert layer.saved_model.calls.numpy() == 20  # called with training=True, and not by predict
    model.predict(X, verbose=0)
    assert layer.saved_model.calls.numpy() == 20


def test_a_step_is_that_of_the_formula(reusable):
    layer = SavedModelLayer(reusable, output="linear", trainable=True)
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, Y, batch_size=8, verbose=0)
    kernel = np.ones([3, 1])
    gradient = 2 * X.T @ (X @ kernel + 2 - Y) / len(X) + 0.2 * kernel  # of the penalty too
    np.testing.assert_allclose(layer.trainable_weights[0].numpy(), kernel - 0.1 * gradient, rtol=1e-5)


def test_frozen_layers_neither_change_nor_add_losses(reusable):
    layer = SavedModelLayer(reusable, output="linear")
    model = keras.Sequential([keras.Input([3]), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(layer.saved_model.kernel.numpy(), np.ones([3, 1]))
    assert layer.saved_model.calls.numpy() == 0
    assert model.losses == []
    layer.trainable = True
    assert len(layer.trainable_weights) == 1
    layer(X, training=True)
    np.testing.assert_allclose(layer.losses, [0.3], rtol=1e-6)


def test_what_cannot_be_trained_is_refused(reusable, lengths):
    with pytest.raises(ValueError, match="signatures cannot be trained"):
        SavedModelLayer(reusable, signature="scaled", trainable=True)
    with pytest.raises(ValueError, match="signatures cannot be trained"):
        SavedModelLayer(lengths, trainable=True)
    layer = SavedModelLayer(reusable, signature="scaled", output="scaled")
    layer.trainable = True
    with pytest.raises(ValueError, match="signatures cannot be trained"):
        layer({"x": X, "times": tf.constant(1)})


REPLICAS = """
import sys
import keras, numpy as np, tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
from garden import SavedModelLayer
x = np.random.default_rng(0).normal(size=[8, 3]).astype(np.float32)

def trained(strategy):
    with strategy.scope():
        layer = SavedModelLayer(sys.argv[1], output="linear", trainable=True)
        inputs = keras.Input([3])
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(x, x[:, :1], batch_size=8, shuffle=False, epochs=3, verbose=0).history["loss"]
    return np.array(losses), layer.trainable_weights[0].numpy()

one, two = (trained(strategy) for strategy in (
    tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])))
for ours, theirs in zip(one, two):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
assert abs(one[1] - 1).max() > 0.1
"""


def test_replicas_train_it_as_one_device_does(tmp_path):
    class Linear(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.ones([3, 1]), name="kernel")

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            return {"linear": x @ self.kernel}

    tf.saved_model.save(Linear(), str(tmp_path / "linear"))
    command = [sys.executable, "-c", REPLICAS, str(tmp_path / "linear")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# ---- Saving ----------------------------------------------------------------------------------------------------------


def test_a_config_makes_the_same_layer(reusable):
    layer = SavedModelLayer(reusable, output="linear", trainable=True, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert again.source == str(reusable)
    np.testing.assert_array_equal(again(X), layer(X))


def test_keras_files_keep_its_weights_and_its_place(reusable, tmp_path):
    layer = SavedModelLayer(reusable, output="linear", trainable=True)
    model = model_of(layer)
    layer.trainable_weights[0].assign([[3.0], [4.0], [5.0]])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-6)
    np.testing.assert_array_equal(keras.models.clone_model(model)(X), SavedModelLayer(reusable, output="linear")(X))


def test_exports_hold_all_of_it(reusable, lengths, tmp_path):
    text = keras.Input([], dtype="string")
    kind = SavedModelLayer(lengths, output="kind")(text)
    numbers = keras.ops.stack([keras.ops.cast(kind, "float32")] * 3, axis=1)
    model = keras.Model(text, SavedModelLayer(reusable, output="linear")(numbers))
    expected = model(tf.constant(["short", "long"])).numpy()
    np.testing.assert_allclose(expected, [[5], [8]])
    model.export(tmp_path / "export", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(exported.serve(tf.constant(["short", "long"])), expected)
    layer = SavedModelLayer(tmp_path / "export")  # what was exported is a SavedModel again
    (output,) = layer(["short", "long"]).values()
    np.testing.assert_allclose(output, expected)


# ---- TensorFlow Hub's models -----------------------------------------------------------------------------------------


def test_a_published_preprocessing_and_encoder_make_one_model(tmp_path):
    with tarfile.open(GOLDEN / "saved_models.tar.xz") as archive:
        archive.extractall(tmp_path)
    preprocessing = SavedModelLayer(tmp_path / "preprocessing")  # which needs the operations of tensorflow-text
    encoder = SavedModelLayer(tmp_path / "hub", output="pooled_output", trainable=True)
    assert len(encoder.trainable_weights) == 23
    text = keras.Input([], dtype="string")
    model = keras.Model(text, keras.layers.Dense(2)(encoder(preprocessing(text))))
    before = encoder.trainable_weights[5].numpy()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tf.constant(["the film.", "a b c"]), np.array([0, 1]), verbose=0)
    assert np.abs(encoder.trainable_weights[5].numpy() - before).max() > 0


# ---- Errors ----------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(reusable, lengths, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        SavedModelLayer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no saved_model.pb"):
        SavedModelLayer(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"not a protocol buffer")
    with pytest.raises(ValueError, match="cannot be loaded"):
        SavedModelLayer(tmp_path)
    with pytest.raises(ValueError, match='no signature "other"; it has: scaled'):
        SavedModelLayer(reusable, signature="other")
    with pytest.raises(ValueError, match='no output "other"; it has: linear, trained'):
        SavedModelLayer(reusable, output="other")(X)
