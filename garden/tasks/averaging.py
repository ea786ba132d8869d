"""Exponential moving averages of weights: often better than the weights themselves while the learning rate is high."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


class Averages:
    """Averages of variables over steps, the newest weighing most: avg_t = sum of decay^(t-i) w_i / sum of decay^(t-i).

    Corrected for their beginning, as Adam's moments are: after one step the average is the weights, and what they were
    before training never counts. Make it in the strategy's scope; each replica averages its own copy, so all are the same.

    Args:
        variables: a model's trainable variables.
        decay: what a step's weights count less than the next one's; 0.999 averages over about a thousand steps.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema: expected a decay between 0 and 1, such as 0.999, got {decay}")
        self.decay = decay
        self._of = [variable.value for variable in variables]
        strategy = tf.distribute.get_strategy()
        self.variables = []
        """The averages, for checkpoints."""
        for variable in self._of:
            with strategy.extended.colocate_vars_with(variable):
                self.variables.append(tf.Variable(tf.identity(variable), trainable=False, name="average"))

    def update(self, steps: tf.Tensor) -> None:
        """Counts the weights after `steps` steps (scalar); for a step function, in its replica context."""
        steps = tf.maximum(tf.cast(steps, tf.float32), 1.0)
        share = (1 - self.decay) / -tf.math.expm1(steps * math.log(self.decay))

        def move(average, variable, share):
            # One pass less than assign_sub(share * difference).
            tf.raw_ops.ResourceApplyGradientDescent(
                var=average.handle, alpha=share, delta=average.read_value() - variable
            )

        def move_all(strategy, share):
            for average, variable in zip(self.variables, self._of, strict=True):
                strategy.extended.update(average, move, args=(variable, share), group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(move_all, tf.distribute.get_strategy(), share)

    def swap(self) -> None:
        """Gives the variables their averages and keeps their own values; a second call undoes the first."""
        for average, variable in zip(self.variables, self._of, strict=True):
            weights = tf.identity(variable)
            variable.assign(tf.identity(average))
            average.assign(weights)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within it the model's weights are the averages."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
