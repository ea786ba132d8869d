"""Schedules against plain twins in Python, at every step of short and long runs."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.schedules import SCHEDULES, schedule


def plain(name, step, *, steps, warmup, floor=0.0, decay=0.2, shape="linear", ramp=True):
    """The share of the peak at a step, which counts from 0."""
    rising = max(warmup if warmup > 1 else round(steps * warmup), 1)
    if step < rising - 1 and (ramp or name != "inverse_sqrt"):
        return (step + 1) / rising
    if name == "constant":
        return 1.0
    if name == "inverse_sqrt":
        return math.sqrt(rising / max(step + 1, rising))
    if name == "wsd":
        falling = max(decay if decay > 1 else round(steps * decay), 1)
        left = min(max((steps - step) / (falling + 1), 0.0), 1.0)
        fallen = left if shape == "linear" else 1 - math.sqrt(1 - left)
        return floor + (1 - floor) * fallen
    progress = min((step - rising + 1) / (steps - rising + 1), 1.0)
    if name == "linear":
        return 1 - progress
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


@pytest.mark.parametrize("steps", [10, 1_000])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 7])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}),
        ("linear", {}),
        ("cosine", {}),
        ("cosine", {"floor": 0.1}),
        ("inverse_sqrt", {}),
        ("inverse_sqrt", {"ramp": False}),
        ("wsd", {}),
        ("wsd", {"decay": 3, "floor": 0.25}),
        ("wsd", {"decay": 0.3, "shape": "sqrt"}),
    ],
    ids=str,
)
def test_schedules_are_their_plain_twins(name, options, warmup, steps):
    made = schedule(name, 0.5, steps, warmup=warmup, begin=3, **options)
    done = np.arange(steps + 5)
    rates = np.array([float(made(tf.constant(3 + step))) for step in done[:: max(steps // 50, 1)]])
    expected = [0.5 * plain(name, step, steps=steps, warmup=warmup, **options) for step in done[:: max(steps // 50, 1)]]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)
    assert float(made(3 + steps - 1)) > 0, "no step is wasted"
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is SCHEDULES[name]
    assert float(again(3 + steps // 2)) == float(made(3 + steps // 2))


def test_a_longer_run_continues_a_stable_one():
    short, long = (schedule("wsd", 1.0, steps, warmup=10, decay=0.2) for steps in (100, 1_000))
    assert [float(short(step)) for step in range(80)] == [float(long(step)) for step in range(80)]


def test_without_an_end():
    for name in ("inverse_sqrt", "constant"):
        assert float(schedule(name, 2.0, warmup=100)(99)) == 2.0
    assert float(schedule("inverse_sqrt", 2.0, warmup=100)(399)) == 1.0


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("steps", 1.0, 10), {}, 'expected one of linear, cosine, inverse_sqrt, wsd, constant, got "steps"'),
        (
            ("cosine", 1.0, 10),
            {"warmup": 1.5},
            "warmup: expected a share from 0 to 1, or a whole number of steps, got 1.5",
        ),
        (("cosine", 1.0, 10), {"warmup": -1}, "warmup: .* got -1"),
        (("cosine", 1.0), {}, "steps: CosineSchedule with warmup 0.1 needs the number of steps, got None"),
        (("constant", 1.0), {}, "steps: ConstantSchedule with warmup 0.1 needs"),
        (("cosine", 1.0, 10), {"floor": 2}, "floor: expected a share of the peak from 0 to 1, got 2"),
        (("wsd", 1.0, 10), {"decay": 0}, "decay: .* got 0"),
        (("wsd", 1.0, 10), {"shape": "round"}, 'shape: expected linear or sqrt, got "round"'),
    ],
    ids=str,
)
def test_bad_schedules_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments, **options)


def test_options_of_another_schedule_are_refused():
    with pytest.raises(TypeError, match=r'schedule "constant": .*floor'):
        schedule("constant", 1.0, 10, floor=0.1)
