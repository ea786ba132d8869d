"""What a run of `fit` owes: the same losses packed and padded, the same run from the same seed, every precision, callbacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden import TextClassifier, read_examples
from garden.tasks.optimization import AdamW, LinearSchedule

NAMES = ["negative", "positive"]


@pytest.fixture(scope="module")
def data(tiny_data):
    """Thirty-two labelled texts of different lengths."""
    return read_examples(tiny_data["train"])[:32]


class Losses(keras.callbacks.Callback):
    """Keeps the mean loss up to each step."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(logs["loss"])


def trained(directory, data, optimizer, *, eager=True, model=None, **options):
    """Returns a model after two epochs of three steps, and its losses."""
    model = model or TextClassifier.from_pretrained(directory, labels=NAMES, **options)
    model.compile(optimizer, run_eagerly=eager)
    losses = Losses()
    model.fit(data, batch_size=12, epochs=2, verbose=0, callbacks=[losses])
    return model, losses.values


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(lambda: keras.optimizers.SGD(0.3, momentum=0.9), id="sgd", marks=pytest.mark.slow),
        pytest.param(lambda: AdamW(1e-3, epsilon=1e-3), id="adamw"),
    ],
)
def test_packed_and_padded_runs_are_the_same(still_bert, data, optimizer):
    packed, losses = trained(still_bert, data, optimizer(), batching="packed")
    padded, expected = trained(still_bert, data, optimizer(), batching="padded")
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3), "it learns something"
    for ours, theirs in zip(packed.weights, padded.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)


@pytest.fixture(scope="module")
def seeded(tiny_bert, data):
    return trained(tiny_bert, data, AdamW(1e-2), eager=False, seed=5)


def test_one_seed_is_one_run_to_the_bit(seeded, tiny_bert, data):
    first, losses = seeded
    second, again = trained(tiny_bert, data, AdamW(1e-2), eager=False, seed=5)
    assert losses == again
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    _, other = trained(tiny_bert, data, AdamW(1e-2), seed=6)
    assert losses[0] != other[0]


def test_eager_steps_are_those_of_a_graph(seeded, tiny_bert, data):
    _, losses = trained(tiny_bert, data, AdamW(1e-2), seed=5)
    np.testing.assert_allclose(losses, seeded[1], atol=1e-5)


@pytest.fixture(scope="module")
def run(tiny_bert, tiny_data, tmp_path_factory):
    """A run with the default optimiser, a validation file and callbacks."""
    directory = tmp_path_factory.mktemp("run")
    model = TextClassifier.from_pretrained(tiny_bert, labels=NAMES)
    model.compile(learning_rate=1e-2)
    callbacks = [
        keras.callbacks.ModelCheckpoint(
            directory / "best.weights.h5", monitor="val_loss", save_best_only=True, save_weights_only=True
        ),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=5, min_delta=10.0),
        keras.callbacks.TensorBoard(directory / "logs", update_freq=1),
    ]
    history = model.fit(
        tiny_data["train"],
        batch_size=16,
        epochs=8,
        validation_data=tiny_data["test"],
        validation_batch_size=64,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history, directory


def test_history_has_losses_metrics_and_speed(run):
    _, history, _ = run
    names = {"loss", "accuracy", "real_tokens_per_second"}
    assert set(history.history) == names | {f"val_{name}" for name in names}
    assert all(value > 0 for value in history.history["real_tokens_per_second"])


def test_early_stopping_ends_the_run(run):
    assert run[1].epoch == [0, 1, 2, 3, 4, 5]


def test_the_best_weights_are_kept(run, tiny_bert, tiny_data):
    _, history, directory = run
    losses = history.history["val_loss"]
    again = TextClassifier.from_pretrained(tiny_bert, labels=NAMES)
    again.load_weights(directory / "best.weights.h5")
    again.compile(run_eagerly=True)
    loss = again.evaluate(tiny_data["test"], batch_size=64, verbose=0)[0]
    assert loss == pytest.approx(min(losses), abs=1e-5)


def test_whole_models_are_kept_as_directories(run, tmp_path):
    with pytest.raises(NotImplementedError, match=r"TextClassifier: keep it with save_pretrained\(directory\)"):
        run[0].save(tmp_path / "model.keras")


def test_tensorboard_sees_steps_and_epochs(run):
    files = sorted((run[2] / "logs").rglob("events*"))
    tags = {
        value.tag
        for file in files
        for record in tf.data.TFRecordDataset(str(file))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }
    assert {"batch_loss", "epoch_loss", "epoch_accuracy"} <= tags


def test_it_learns(run, tiny_data):
    model, history, _ = run
    assert history.history["val_accuracy"][-1] > 0.9
    answers = model.predict_text(["the film was great", "it was an awful film"])
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_a_second_fit_goes_on(run, tiny_data):
    """Steps are counted on, the schedule and the order are new, and the optimiser keeps what it knows."""
    model, *_ = run
    done = int(model.optimizer.iterations)
    assert done == 36
    first = model.optimizer._learning_rate.get_config()
    assert first == {"peak": 1e-2, "steps": 48, "warmup": 0.1, "begin": 0}
    momentum = [variable.numpy() for variable in model.optimizer._momentums]
    model.run_eagerly = True
    weights = model.get_weights()
    model.fit(read_examples(tiny_data["train"])[:8], batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == done + 1
    assert model.optimizer._learning_rate.get_config() == {"peak": 1e-2, "steps": 1, "warmup": 0.1, "begin": done}
    assert any(np.any(before != after) for before, after in zip(weights, model.get_weights(), strict=True))
    # After one step a momentum that had begun at zero would be a tenth of the last gradient.
    after = np.concatenate([variable.numpy().ravel() for variable in model.optimizer._momentums])
    before = np.concatenate([values.ravel() for values in momentum])
    assert np.corrcoef(before, after)[0, 1] > 0.5


def test_a_second_fit_sees_another_order(single_step_orders):
    first, second = single_step_orders
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.fixture
def single_step_orders(still_bert, data):
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    model.compile()
    orders = []
    for done in (0, 3):
        model.optimizer.iterations.assign(done)
        (batch,) = model.raw_dataset(data, shuffle=True, batch_size=len(data))
        orders.append(batch["text"].numpy().tolist())
    return orders


@pytest.fixture(scope="module")
def float32_losses(still_bert, data):
    return trained(still_bert, data, "auto")[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_trains(still_bert, data, float32_losses, precision):
    model, losses = trained(still_bert, data, "auto", dtype=precision)
    assert np.isfinite(losses).all()
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")
    assert int(model.optimizer.iterations) == 6, "no step was lost to an overflow"
    np.testing.assert_allclose(losses, float32_losses, atol=0.05)


def test_stock_optimizers_losses_and_metrics(still_bert, data):
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    rate = LinearSchedule(0.05, steps=6)
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy", keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")],
        run_eagerly=True,
    )
    history = model.fit(data, batch_size=12, verbose=0).history
    assert history["entropy"] == pytest.approx(history["loss"], abs=1e-5)
    assert set(history) == {"loss", "accuracy", "entropy", "real_tokens_per_second"}
    with pytest.raises(ValueError, match="learning_rate goes with the default optimizer"):
        model.compile("adam", learning_rate=1e-3)


def test_validation_split_takes_the_end(still_bert, data):
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    x, y, weights, held = model._split(data, None, np.arange(32), 0.25)
    assert x.texts == data.texts[:24]
    assert y is None
    assert held[0].labels == data.labels[24:]
    assert weights.tolist() + held[2].tolist() == list(range(32))
    with pytest.raises(ValueError, match="expected a share between 0 and 1, got 2"):
        model.fit(data, validation_split=2)
    with pytest.raises(ValueError, match="split a dataset with take and skip"):
        model.fit(tf.data.Dataset.from_tensors((["a"], [1])), validation_split=0.5)


@pytest.mark.slow
def test_several_steps_in_one_call_are_those_steps(still_bert, data):
    plain, losses = trained(still_bert, data, keras.optimizers.SGD(0.1))
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    model.compile(keras.optimizers.SGD(0.1), steps_per_execution=3)
    history = model.fit(data, batch_size=12, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["loss"], [losses[2], losses[5]], atol=1e-5)
    for ours, theirs in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_end_of_data_of_unknown_length_is_no_step(still_bert, data):
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    model.compile(learning_rate=1e-2)
    pairs = tf.data.Dataset.from_tensor_slices((data.texts, data.labels)).filter(lambda text, label: True)
    model.fit(pairs.batch(16), epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 6
    assert model.optimizer._learning_rate.steps is None, "without a length there is no schedule"


def test_a_step_on_one_batch(still_bert, data):
    model = TextClassifier.from_pretrained(still_bert, labels=NAMES)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    ((x, y, weights),) = model.prepared_dataset(model.raw_dataset(data))
    before = model.test_on_batch(x, y, weights, return_dict=True)
    model.train_on_batch(x, y, weights)
    after = model.test_on_batch(x, y, weights, return_dict=True)
    assert after["loss"] < before["loss"]
