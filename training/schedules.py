"""Learning rates as functions of the step: a warm-up, then constant, or falling in one of four ways.

Each starts with `warmup`, a share of the steps (up to 1) or a number of steps (above 1), in which the rate rises linearly
to its peak; no step is spent on a rate of zero. Steps count from `begin`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from garden.tasks.optimization import LinearSchedule


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Base of the schedules: `peak` times the smaller of the warm-up's share and of what `share` says.

    Args:
        peak: the highest rate.
        steps: in all; None where nothing depends on it.
        warmup: share of the steps, or steps.
        begin: steps done before.
    """

    bounded = True
    """Whether the fall depends on how many steps there are."""

    def __init__(self, peak: float, *, steps: int | None = None, warmup: float = 0.1, begin: int = 0):
        if warmup < 0 or (warmup > 1 and warmup != int(warmup)):
            raise ValueError(f"warmup: expected a share from 0 to 1, or a whole number of steps, got {warmup}")
        if not steps and (self.bounded or 0 < warmup <= 1):
            raise ValueError(
                f"steps: {type(self).__name__} with warmup {warmup:g} needs the number of steps, got {steps}"
            )
        self.peak, self.steps, self.warmup, self.begin = peak, steps, warmup, begin
        self.rising = _count(warmup, steps)

    def share(self, done: tf.Tensor) -> tf.Tensor:
        """Returns the share of the peak after `done` steps (float32), were there no warm-up."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it falls")

    def __call__(self, step) -> tf.Tensor:
        done = tf.cast(step - self.begin, tf.float32)
        return self.peak * tf.minimum((done + 1) / self.rising, self.share(done))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "begin": self.begin}


@keras.saving.register_keras_serializable("garden")
class ConstantSchedule(WarmupSchedule):
    """Rises to `peak` and stays there."""

    bounded = False

    def share(self, done):
        return tf.ones_like(done)


@keras.saving.register_keras_serializable("garden")
class InverseSquareRootSchedule(WarmupSchedule):
    """Falls with the root of the steps: peak * sqrt(warmup / step), for runs without a planned end (Vaswani et al., 2017).

    Args:
        ramp: whether the rate rises in the warm-up; False holds the peak there, as T5 did (Raffel et al., 2020).
        others: see `WarmupSchedule`.
    """

    bounded = False

    def __init__(self, peak: float, *, ramp: bool = True, **kwargs):
        super().__init__(peak, **kwargs)
        self.ramp = ramp

    def share(self, done):
        return tf.sqrt(self.rising / tf.maximum(done + 1, self.rising))

    def __call__(self, step):
        if self.ramp:
            return super().__call__(step)
        return self.peak * self.share(tf.cast(step - self.begin, tf.float32))

    def get_config(self):
        return {**super().get_config(), "ramp": self.ramp}


@keras.saving.register_keras_serializable("garden")
class CosineSchedule(WarmupSchedule):
    """Falls along half a cosine (Loshchilov and Hutter, 2017) to `floor` times the peak, and stays there."""

    def __init__(self, peak: float, *, floor: float = 0.0, **kwargs):
        super().__init__(peak, **kwargs)
        self.floor = _floor(floor)

    def share(self, done):
        falling = max(self.steps - self.rising + 1, 1)
        progress = tf.clip_by_value((done - self.rising + 1) / falling, 0.0, 1.0)
        return self.floor + (1 - self.floor) * (1 + tf.cos(math.pi * progress)) / 2

    def get_config(self):
        return {**super().get_config(), "floor": self.floor}


@keras.saving.register_keras_serializable("garden")
class StableDecaySchedule(WarmupSchedule):
    """Warm-up, stable, decay (Hu et al., 2024): stays at the peak and falls to `floor` times it over the last steps.

    A run can be continued from before its fall, with more steps, as if it had been planned so.

    Args:
        decay: share of the steps, or steps, of the fall.
        shape: "linear", or "sqrt": 1 - sqrt(progress), which falls steeply at first (Haegele et al., 2024).
        others: see `WarmupSchedule`.
    """

    def __init__(self, peak: float, *, decay: float = 0.2, shape: str = "linear", floor: float = 0.0, **kwargs):
        super().__init__(peak, **kwargs)
        if shape not in ("linear", "sqrt"):
            raise ValueError(f'shape: expected linear or sqrt, got "{shape}"')
        if decay <= 0 or (decay > 1 and decay != int(decay)):
            raise ValueError(f"decay: expected a share above 0, up to 1, or a whole number of steps, got {decay}")
        self.decay, self.shape, self.floor = decay, shape, _floor(floor)
        self.falling = _count(decay, self.steps)

    def share(self, done):
        left = tf.clip_by_value((self.steps - done) / (self.falling + 1), 0.0, 1.0)
        left = left if self.shape == "linear" else 1 - tf.sqrt(1 - left)
        return self.floor + (1 - self.floor) * left

    def get_config(self):
        return {**super().get_config(), "decay": self.decay, "shape": self.shape, "floor": self.floor}


SCHEDULES: dict[str, type[keras.optimizers.schedules.LearningRateSchedule]] = {
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
    "inverse_sqrt": InverseSquareRootSchedule,
    "wsd": StableDecaySchedule,
    "constant": ConstantSchedule,
}
"""Schedules by their name in run configs."""


def schedule(
    name: str, peak: float, steps: int | None = None, *, warmup: float = 0.1, **options: Any
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a schedule by name.

    Args:
        name: one of `SCHEDULES`.
        peak: the highest rate.
        steps: in all; "inverse_sqrt" and "constant" do without where `warmup` is none or counts steps.
        warmup: share of the steps (up to 1), or a number of steps (above 1).
        options: the schedule's own: `floor` (cosine, wsd: share of the peak that it ends at), `decay` and `shape` (wsd),
            `ramp` (inverse_sqrt), `begin` (all).

    Raises ValueError in one line for an unknown name and values out of range, TypeError for options of another schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f'schedule: expected one of {", ".join(SCHEDULES)}, got "{name}"')
    if name == "linear" and steps and warmup > 1:
        warmup = min(warmup / steps, 1.0)
    try:
        return SCHEDULES[name](peak, steps=steps, warmup=warmup, **options)
    except TypeError as error:
        raise TypeError(f'schedule "{name}": {str(error).partition("() ")[2] or error}') from None


def _count(amount: float, steps: int | None) -> int:
    """Returns a share of the steps, or a number of them, as a number of at least 1."""
    return max(round(amount * (steps or 0)) if amount <= 1 else int(amount), 1)


def _floor(floor: float) -> float:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor: expected a share of the peak from 0 to 1, got {floor}")
    return floor
