"""How tasks are trained unless the user says otherwise: AdamW, a linear schedule, clipping after aggregation."""

import contextlib
import math
from types import MethodType
from typing import Any

import keras
import tensorflow as tf

from garden.layers.mesh import homes, slot_of


@keras.saving.register_keras_serializable("garden")
class LinearSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `peak` over the first `warmup` share of `steps`, then falls linearly to zero.

    Steps count from `begin`, so that a second `fit` has a schedule of its own. Without `steps` (a dataset of unknown
    length) the rate stays at `peak`.
    """

    def __init__(self, peak: float, *, steps: int | None = None, warmup: float = 0.1, begin: int = 0):
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup: expected a share of the steps from 0 to 1, got {warmup}")
        self.peak, self.steps, self.warmup, self.begin = peak, steps, warmup, begin

    def __call__(self, step):
        if not self.steps:
            return tf.constant(self.peak, tf.float32)
        # The first step is 1: no step is spent on a learning rate of zero.
        done = tf.cast(step - self.begin, tf.float32)
        rising = max(round(self.steps * self.warmup), 1)
        up = (done + 1) / rising
        down = (self.steps - done) / max(self.steps - rising + 1, 1)
        return self.peak * tf.clip_by_value(tf.minimum(up, down), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "begin": self.begin}


class Optimizer(keras.optimizers.Optimizer):
    """Base of Garden's optimisers: what they decay, and that they clip what all replicas' gradients add up to.

    Variables of rank 0 and 1, which are norms and biases, are not decayed. `update_step` does all that happens to a variable,
    its decay too: Keras takes three passes over all variables for that.

    Args:
        skip_not_finite: whether a step whose gradient has an infinite or undefined norm changes nothing, and is counted in
            `skipped`, a scalar variable that is None otherwise.
    """

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay: float,
        global_clipnorm: float | None = 1.0,
        skip_not_finite: bool = False,
        name: str,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm, name=name, **kwargs
        )
        self.skip_not_finite, self.skipped = skip_not_finite, None
        clip_after_aggregation(self)

    def build(self, variables):
        super().build(variables)
        self._homes = homes(variables)
        if self.skip_not_finite:
            self.skipped = self.add_variable(
                (), initializer="zeros", dtype="int64", aggregation="only_first_replica", name="skipped"
            )

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        update_step = self._update_of_finite if self.skip_not_finite else self.update_step
        for gradient, variable in grads_and_vars:
            distribution.extended.update(
                variable,
                lambda variable, gradient, rate: update_step(gradient, variable, rate),
                args=(gradient, learning_rate),
                group=False,
            )

    def _update_of_finite(self, gradient, variable, learning_rate) -> None:
        def update():
            self.update_step(gradient, variable, learning_rate)
            return tf.constant(True)

        # A gradient that is not finite somewhere has become so everywhere.
        tf.cond(tf.math.is_finite(tf.reshape(gradient, [-1])[0]), update, lambda: tf.constant(False))

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        slot = super().add_variable_from_reference(reference_variable, name=name, initializer=initializer)
        return slot_of(reference_variable, slot)

    def beside(self, variable) -> contextlib.AbstractContextManager[None]:
        """Within it operations are on a variable's device, where variables are on several; else where they would be anyway."""
        return self._homes[self._get_variable_index(variable)]() if self._homes else contextlib.nullcontext()

    def _use_weight_decay(self, variable) -> bool:
        return len(variable.shape) > 1 and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables) -> None:
        """Nothing: `update_step` decays."""

    def decay(self, variable, learning_rate) -> None:
        """Shrinks a variable, if it is one that decays, by the rate times `weight_decay` (Loshchilov and Hutter, 2019)."""
        if self.weight_decay and self._use_weight_decay(variable):
            variable.assign(variable * (1 - tf.cast(learning_rate, variable.dtype) * self.weight_decay))


@keras.saving.register_keras_serializable("garden")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), one fused operation a variable.

    The same update as `torch.optim.AdamW` (epsilon is added to the bias-corrected root). Variables of rank 0 and 1,
    which are norms and biases, are not decayed. `global_clipnorm` limits the norm of the whole aggregated gradient.
    """

    def __init__(
        self,
        learning_rate=5e-5,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        global_clipnorm: float | None = 1.0,
        name: str = "adamw",
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient, variable, learning_rate):
        """One variable's update."""
        with self.beside(variable):
            self.decay(variable, learning_rate)
            self.adam(gradient, variable, learning_rate)

    def adam(self, gradient, variable, learning_rate) -> None:
        """Adam's part of an update; `tf.raw_ops.ResourceApplyAdam` reads and writes each number once."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        beta_2_power = tf.pow(tf.constant(self.beta_2, variable.dtype), step)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, variable.dtype), step),
            beta2_power=beta_2_power,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            # The operation adds epsilon before the bias correction, the paper after it.
            epsilon=self.epsilon * tf.sqrt(1 - beta_2_power),
            grad=tf.cast(gradient, variable.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


def clip_after_aggregation(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes a Keras optimiser clip what all replicas' gradients add up to; by itself it clips each replica's own.

    Gradients that are lists of rows (of embeddings) are made dense first: their norm is wrong while a row occurs twice.
    Losses are scaled to the global batch (`distributed.DistributedModel`), so a plain sum aggregates.
    """
    clip = optimizer._clip_gradients
    aggregate = optimizer._all_reduce_sum_gradients

    def aggregate_and_clip(self, grads_and_vars):
        dense = [(None if grad is None else tf.convert_to_tensor(grad), variable) for grad, variable in grads_and_vars]
        grads, variables = zip(*aggregate(dense), strict=True)
        limit, places = optimizer.global_clipnorm, homes(variables)
        if places and limit and not getattr(optimizer, "skip_not_finite", False):
            return list(zip(_clipped_apart(grads, places, limit), variables, strict=True))
        present = iter(_clipped([grad for grad in grads if grad is not None]))
        return [(None if grad is None else next(present), var) for grad, var in zip(grads, variables, strict=True)]

    def _clipped(grads):
        limit, skip = optimizer.global_clipnorm, getattr(optimizer, "skip_not_finite", False)
        if not limit and not skip:
            return clip(grads)
        norm = tf.sqrt(2 * tf.add_n([tf.cast(tf.nn.l2_loss(grad), tf.float32) for grad in grads]))

        def scaled():
            scale = limit / norm
            return [grad * tf.cast(scale, grad.dtype) for grad in grads]

        def as_they_are():
            return [tf.identity(grad) for grad in grads]

        if skip:
            finite = tf.math.is_finite(norm)
            optimizer.skipped.assign_add(tf.cast(~finite, tf.int64))
            grads = tf.cond(
                finite,
                as_they_are,
                lambda: [tf.fill(tf.shape(grad), grad.dtype.as_numpy_dtype(math.nan)) for grad in grads],
            )
        # Most of the cost of clipping is writing gradients that need none.
        return tf.cond(norm > limit, scaled, as_they_are) if limit else clip(grads)

    def _clipped_apart(grads, places, limit):
        # Each gradient is scaled where it lies: a condition would take all of them to one device.
        squares, scaled = [], []
        for grad, place in zip(grads, places, strict=True):
            if grad is not None:
                with place():
                    squares.append(tf.cast(tf.nn.l2_loss(grad), tf.float32))
        norm = tf.sqrt(2 * tf.add_n(squares))
        scale = tf.where(norm > limit, limit / norm, 1.0)
        for grad, place in zip(grads, places, strict=True):
            with place():
                scaled.append(None if grad is None else grad * tf.cast(scale, grad.dtype))
        return scaled

    optimizer._all_reduce_sum_gradients = MethodType(aggregate_and_clip, optimizer)
    optimizer._clip_gradients = lambda grads: grads
