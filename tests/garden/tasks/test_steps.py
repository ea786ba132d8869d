"""Steps in parts, with recomputed blocks and averaged weights: the same numbers as plain steps, and averages as defined."""

import numpy as np
import pytest
import tensorflow as tf

from garden import MaskedLM, TextClassifier, read_examples
from garden.layers.dropout import Dropout, step_seed
from garden.tasks.averaging import Averages
from garden.tasks.optimization import AdamW

ADAM = {"epsilon": 1e-3, "global_clipnorm": 0.3}


def rows(count, length=16, seed=0):
    """Prepared rows of ids for a masked LM: half of each row's places are padding of another length."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(5, length + 1, count)
    segment_ids = (np.arange(length) < lengths[:, None]).astype(np.int32)
    token_ids = draw.integers(5, 27, (count, length)).astype(np.int32) * segment_ids
    mask_positions = np.tile(np.arange(1, 4, dtype=np.int32), (count, 1))
    weights = (draw.random((count, 3)) < 0.6).astype(np.float32)
    x = {"token_ids": token_ids, "segment_ids": segment_ids, "mask_positions": mask_positions}
    return x, draw.integers(5, 27, (count, 3)).astype(np.int32), weights


def trained(checkpoint, *, batches=(7, 7), dtype="float32", **options):
    """Trains a masked LM on batches of so many rows; returns its weights and metrics."""
    model = MaskedLM.from_pretrained(checkpoint, dtype=dtype, seed=3)
    model.compile(AdamW(1e-2, **ADAM), **options)
    for index, count in enumerate(batches):
        results = model.train_on_batch(*rows(count, seed=index), return_dict=True)
    return model, {name: value for name, value in results.items() if "per_second" not in name}


def assert_same(given, expected, *, loss=1e-5, **tolerance):
    for name in expected[1]:
        np.testing.assert_allclose(given[1][name], expected[1][name], rtol=loss, err_msg=name)
    for a, b in zip(given[0].weights, expected[0].weights, strict=True):
        np.testing.assert_allclose(a, b, err_msg=a.path, **(tolerance or {"atol": 2e-6}))


@pytest.fixture(scope="module")
def plain(still_bert):
    return trained(still_bert)


@pytest.mark.parametrize("parts", [3, 9])
def test_a_batch_in_parts_is_the_whole_batch(plain, still_bert, parts):
    assert_same(trained(still_bert, accumulate=parts), plain)


def test_parts_of_raw_texts(still_bert, tiny_data):
    examples = read_examples(tiny_data["train"])[:21]
    ends = []
    for parts in (1, 3):
        model = TextClassifier.from_pretrained(still_bert, labels=["negative", "positive"])
        model.compile(AdamW(1e-2, **ADAM), accumulate=parts)
        weights = np.linspace(0.5, 2.0, len(examples))
        history = model.fit(examples, sample_weight=weights, batch_size=8, verbose=0, shuffle=False).history
        ends.append((model, {name: values[-1] for name, values in history.items() if "per_second" not in name}))
    assert_same(ends[1], ends[0])


def test_parts_draw_masks_of_their_own():
    masks = []
    for part in (None, tf.constant(0), tf.constant(1)):
        with step_seed(1, tf.constant(5), part):
            masks.append(Dropout(0.5)(tf.ones([64]), training=True).numpy().tobytes())
    assert len(set(masks)) == 3


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"run_eagerly": True}], ids=str)
def test_recomputed_blocks_draw_the_same_masks(tiny_bert, options):
    """With dropout: other masks in the second computation would give other gradients."""
    assert_same(trained(tiny_bert, recompute=True, **options), trained(tiny_bert, **options), rtol=0, atol=1e-6)


def test_recomputation_in_half_precision(tiny_bert):
    # TensorFlow fuses a product with what follows where nobody else needs it, and rounds once less.
    options = {"dtype": "mixed_bfloat16"}
    assert_same(trained(tiny_bert, recompute=True, **options), trained(tiny_bert, **options), loss=1e-3, atol=1e-3)


def test_averages_are_the_weighted_means_of_weights(still_bert):
    decay, seen = 0.7, []
    model = MaskedLM.from_pretrained(still_bert)
    model.compile(AdamW(1e-2), ema=decay)
    for step in range(4):
        model.train_on_batch(*rows(4, seed=step))
        seen.append([variable.numpy() for variable in model.trainable_variables])
        shares = decay ** np.arange(step, -1, -1)
        expected = [np.average(values, axis=0, weights=shares) for values in zip(*seen, strict=True)]
        for average, value in zip(model.averages.variables, expected, strict=True):
            np.testing.assert_allclose(average, value, atol=1e-6)
    with model.averages.used():
        for variable, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(variable, value, atol=1e-6)
    for variable, value in zip(model.trainable_variables, seen[-1], strict=True):
        np.testing.assert_array_equal(variable, value)


def test_averages_of_many_steps_stay_exact():
    variable = tf.Variable(1.0)

    class Holder:
        value = variable

    averages = Averages([Holder], 0.9999)
    for steps in (1, 1_000, 10_000_000):
        averages.update(tf.constant(steps))
        np.testing.assert_allclose(averages.variables[0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("decay", [0, 1, -0.1])
def test_decays_that_are_none_are_refused(decay):
    with pytest.raises(ValueError, match="ema: expected a decay between 0 and 1"):
        Averages([], decay)


def test_no_parts_are_refused(still_bert):
    model = MaskedLM.from_pretrained(still_bert)
    with pytest.raises(ValueError, match="accumulate: expected a number of parts of at least 1, got 0"):
        model.compile(accumulate=0)


def test_batches_that_cannot_be_divided_are_refused(still_bert, monkeypatch):
    monkeypatch.setattr(MaskedLM, "divisible", False)
    model = MaskedLM.from_pretrained(still_bert)
    with pytest.raises(ValueError, match="accumulate: a MaskedLM tells each text from all others of its batch"):
        model.compile(accumulate=2)
