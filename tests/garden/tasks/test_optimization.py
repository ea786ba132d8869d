"""AdamW against its paper in numpy, the schedule against its corners, and clipping of what was aggregated."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.tasks.optimization import AdamW, LinearSchedule, clip_after_aggregation

SHAPES = {"kernel": (4, 3), "bias": (3,), "scalar": (), "table": (6, 2), "cube": (2, 2, 2)}


def variables():
    draw = np.random.default_rng(0)
    return [keras.Variable(draw.normal(size=shape), dtype="float32", name=name) for name, shape in SHAPES.items()]


def gradients(step, scale=1.0):
    draw = np.random.default_rng(step + 1)
    return [np.asarray(scale * draw.normal(size=shape), np.float32) for shape in SHAPES.values()]


def numpy_adamw(values, steps, *, rate, decay, clip=None, beta_1=0.9, beta_2=0.999, epsilon=1e-8, scale=1.0):
    """Algorithm 2 of Loshchilov and Hutter, 2019, in double precision; epsilon as PyTorch adds it."""
    values = [np.array(value, np.float64) for value in values]
    first = [np.zeros_like(value) for value in values]
    second = [np.zeros_like(value) for value in values]
    for step in range(steps):
        grads = [gradient.astype(np.float64) for gradient in gradients(step, scale)]
        norm = np.sqrt(sum((gradient**2).sum() for gradient in grads))
        if clip and norm > clip:
            grads = [gradient * clip / norm for gradient in grads]
        lr = rate(step) if callable(rate) else rate
        for i, gradient in enumerate(grads):
            if values[i].ndim > 1:
                values[i] = values[i] * (1 - lr * decay)
            first[i] = beta_1 * first[i] + (1 - beta_1) * gradient
            second[i] = beta_2 * second[i] + (1 - beta_2) * gradient**2
            mean, variance = first[i] / (1 - beta_1 ** (step + 1)), second[i] / (1 - beta_2 ** (step + 1))
            values[i] = values[i] - lr * mean / (np.sqrt(variance) + epsilon)
    return values


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.01, "decay": 0.0},
        {"rate": 0.01, "decay": 0.3},
        {"rate": 0.01, "decay": 0.1, "clip": 0.5},
        {"rate": 0.01, "decay": 0.1, "clip": 1e6},
        {"rate": 0.02, "decay": 0.1, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.1},
        # Gradients as small as epsilon: where it is added decides.
        {"rate": 0.01, "decay": 0.0, "epsilon": 1e-3, "scale": 1e-3},
        {"rate": LinearSchedule(0.1, steps=8, warmup=0.25), "decay": 0.1},
    ],
    ids=["plain", "decay", "clipped", "clipped far off", "other constants", "small gradients", "schedule"],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_adamw_is_the_papers(options, compiled):
    trained = variables()
    hyper = {name: value for name, value in options.items() if name in ("beta_1", "beta_2", "epsilon")}
    optimizer = AdamW(options["rate"], weight_decay=options["decay"], global_clipnorm=options.get("clip"), **hyper)
    optimizer.build(trained)
    expected = numpy_adamw(variables(), 6, **options)
    apply = tf.function(optimizer.apply) if compiled else optimizer.apply
    for step in range(6):
        apply([tf.constant(gradient) for gradient in gradients(step, options.get("scale", 1.0))])
    assert int(optimizer.iterations) == 6
    for variable, value in zip(trained, expected, strict=True):
        np.testing.assert_allclose(variable, value, atol=2e-6, rtol=2e-5, err_msg=variable.name)


def test_adamw_opens_from_its_config():
    schedule = LinearSchedule(1e-3, steps=10, warmup=0.2, begin=3)
    optimizer = AdamW(schedule, weight_decay=0.2, beta_1=0.8, beta_2=0.9, epsilon=1e-6, global_clipnorm=None)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == optimizer.get_config()
    assert again._learning_rate.get_config() == {"peak": 1e-3, "steps": 10, "warmup": 0.2, "begin": 3}


def test_adamw_leaves_out_what_it_is_told_to():
    kernel = keras.Variable(np.ones([2, 2]), dtype="float32", name="kernel")
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    optimizer.build([kernel])
    optimizer.apply([tf.zeros([2, 2])])
    np.testing.assert_array_equal(kernel, np.ones([2, 2]))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_schedule_rises_to_its_peak_and_falls_to_almost_zero(steps, warmup):
    schedule = LinearSchedule(2.0, steps=steps, warmup=warmup, begin=7)
    rates = np.array([schedule(tf.constant(7 + step)) for step in range(steps)])
    rising = max(round(steps * warmup), 1)
    assert rates.max() == pytest.approx(2.0)
    assert rates.argmax() == rising - 1
    assert (rates > 0).all(), "no step is wasted"
    np.testing.assert_allclose(rates[:rising], 2 * np.arange(1, rising + 1) / rising, rtol=1e-6)
    falling = steps - rising + 1
    np.testing.assert_allclose(rates[rising - 1 :], 2 * np.arange(falling, 0, -1) / falling, rtol=1e-6)
    assert schedule(7 + steps) == 0 == schedule(7 + 10 * steps)


def test_schedule_of_unknown_length_is_constant():
    assert [float(LinearSchedule(0.5)(tf.constant(step))) for step in (0, 9)] == [0.5, 0.5]


def test_schedule_refuses_a_warmup_that_is_no_share():
    with pytest.raises(ValueError, match="warmup: expected a share of the steps from 0 to 1, got 100"):
        LinearSchedule(0.1, warmup=100)


def sgd(**clipping):
    optimizer = keras.optimizers.SGD(1.0, **clipping)
    clip_after_aggregation(optimizer)
    return optimizer


@pytest.mark.parametrize(
    ("clipping", "expected"),
    [
        ({}, [[3.0, 4.0], [0.0, 12.0]]),
        ({"global_clipnorm": 6.5}, [[1.5, 2.0], [0.0, 6.0]]),
        ({"global_clipnorm": 20.0}, [[3.0, 4.0], [0.0, 12.0]]),
        ({"clipnorm": 2.5}, [[1.5, 2.0], [0.0, 2.5]]),
        ({"clipvalue": 3.5}, [[3.0, 3.5], [0.0, 3.5]]),
    ],
    ids=str,
)
def test_stock_optimizers_clip(clipping, expected):
    weights = [keras.Variable(np.zeros(2), dtype="float32") for _ in range(2)]
    optimizer = sgd(**clipping)
    optimizer.build(weights)
    optimizer.apply([tf.constant([3.0, 4.0]), tf.constant([0.0, 12.0])])
    np.testing.assert_allclose([-weight.numpy() for weight in weights], expected, rtol=1e-6)


def test_rows_that_occur_twice_are_added_before_the_norm_is_taken():
    table = keras.Variable(np.zeros([3, 1]), dtype="float32")
    optimizer = sgd(global_clipnorm=5.0)
    optimizer.build([table])
    rows = tf.IndexedSlices(tf.constant([[3.0], [5.0], [6.0]]), tf.constant([0, 2, 0]), tf.constant([3, 1]))
    optimizer.apply([rows])  # 9 and 5: a norm of 10.3; row by row it would be 8.4
    np.testing.assert_allclose(-table.numpy()[:, 0], np.array([9, 0, 5]) * 5 / np.sqrt(106), rtol=1e-6)


def test_clipping_of_no_gradient_at_all_keeps_zeros():
    weight = keras.Variable(np.ones(2), dtype="float32")
    optimizer = AdamW(0.1, weight_decay=0.0)
    optimizer.build([weight])
    optimizer.apply([tf.zeros(2)])
    np.testing.assert_array_equal(weight, np.ones(2))
