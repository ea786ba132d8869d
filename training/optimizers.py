"""Optimisers by name: AdamW, LAMB, Adafactor and Muon.

All leave norms and biases undecayed, limit the norm of the gradient that all replicas add up to, and do all that happens to
a variable in one update. Shapes: D inputs, E outputs of a kernel.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import tensorflow as tf

from garden.tasks.optimization import AdamW, Optimizer


@keras.saving.register_keras_serializable("garden")
class Lamb(AdamW):
    """Adam's step, as long as a share of the variable that it changes: for large batches (You et al., 2020).

    Variables of rank 0 and 1, which are norms and biases, take Adam's plain step, as in the reference implementation.
    """

    def __init__(self, learning_rate=1e-3, *, epsilon: float = 1e-6, name: str = "lamb", **kwargs):
        super().__init__(learning_rate, epsilon=epsilon, name=name, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        if len(variable.shape) < 2:
            super().update_step(gradient, variable, learning_rate)
            return
        before = variable.read_value()
        # The fused operation writes what Adam would subtract at a rate of 1; the difference is exact to rounding.
        self.adam(gradient, variable, 1.0)
        update = before - variable.read_value()
        if self.weight_decay and self._use_weight_decay(variable):
            update += self.weight_decay * before
        size, change = _norm(before), _norm(update)
        trust = tf.where((size > 0) & (change > 0), size / change, 1.0)
        variable.assign(before - tf.cast(learning_rate * trust, variable.dtype) * update)


@keras.saving.register_keras_serializable("garden")
class Adafactor(Optimizer):
    """Second moments as the product of a row and a column: almost no memory (Shazeer and Stern, 2018).

    No momentum. With its defaults `learning_rate` is relative: a step changes a variable by that share of its root mean
    square, so that T5's rate of 0.01 is not too high.

    Args:
        learning_rate: rate or schedule.
        relative_step: whether it is at most 1 / sqrt(step), as in the paper, which then needs no other schedule.
        scale_parameter: whether it is multiplied by each variable's root mean square, at least `least_scale`.
        clip_threshold: the largest root mean square of an update, before the rate.
        decay_exponent: second moments at step t forget by 1 - t^-exponent.
        epsilon: added to squared gradients.
        others: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate=1e-2,
        *,
        weight_decay: float = 0.0,
        relative_step: bool = False,
        scale_parameter: bool = True,
        least_scale: float = 1e-3,
        clip_threshold: float = 1.0,
        decay_exponent: float = 0.8,
        epsilon: float = 1e-30,
        global_clipnorm: float | None = None,
        name: str = "adafactor",
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm, name=name, **kwargs)
        self.relative_step, self.scale_parameter, self.least_scale = relative_step, scale_parameter, least_scale
        self.clip_threshold, self.decay_exponent, self.epsilon = clip_threshold, decay_exponent, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._moments = [
            [
                self.add_variable(shape=shape, dtype=variable.dtype, name=f"{variable.name}_{name}")
                for name, shape in _moment_shapes(tuple(variable.shape)).items()
            ]
            for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        kind = variable.dtype
        gradient, rate = tf.cast(gradient, kind), tf.cast(learning_rate, kind)
        step = tf.cast(self.iterations + 1, kind)
        update = gradient * self._scales(gradient, variable, 1 - tf.pow(step, -self.decay_exponent))
        own_rate = tf.minimum(rate, tf.math.rsqrt(step)) if self.relative_step else rate
        if self.scale_parameter:
            own_rate *= tf.maximum(_root_mean_square(variable), self.least_scale)
        own_rate /= tf.maximum(_root_mean_square(update) / self.clip_threshold, 1.0)
        self.decay(variable, rate)
        variable.assign_sub(own_rate * update)

    def _scales(self, gradient: tf.Tensor, variable, kept: tf.Tensor) -> tf.Tensor:
        """Returns 1 / sqrt(second moments), after this gradient is counted among them."""
        squares = tf.square(gradient) + self.epsilon
        moments = self._moments[self._get_variable_index(variable)]
        axes = [None] if len(moments) == 1 else [-1, -2]
        means = [squares if axis is None else tf.reduce_mean(squares, axis) for axis in axes]
        now = [kept * moment.value + (1 - kept) * mean for moment, mean in zip(moments, means, strict=True)]
        for moment, value in zip(moments, now, strict=True):
            moment.value.assign(value)
        if len(now) == 1:
            return tf.math.rsqrt(now[0])
        row, column = now
        row /= tf.reduce_mean(row, axis=-1, keepdims=True)
        # The root of a product, without ever making the product.
        return tf.math.rsqrt(row)[..., None] * tf.math.rsqrt(column)[..., None, :]

    def get_config(self) -> dict[str, Any]:
        names = (
            "relative_step",
            "scale_parameter",
            "least_scale",
            "clip_threshold",
            "decay_exponent",
            "epsilon",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al.: not the fastest to converge, but soon near enough to 1 for any singular value."""


@keras.saving.register_keras_serializable("garden")
class Muon(AdamW):
    """Momentum whose singular values are all made about 1, for hidden kernels; AdamW for all else (Jordan et al., 2024).

    Which are hidden: kernels of `garden.layers.Projections` and `Dense`, in blocks and between them. They have an attribute
    `parts`, the widths of the matrices that stand side by side in them (queries, keys and values; gates and what they
    multiply), and each part is made orthogonal by itself. Embeddings, kernels of layers below one with "head" in its name,
    kernels of one output, norms, biases and the variables of other layers are AdamW's.

    Args:
        learning_rate: rate or schedule, of both: with `adjust` "match_rms_adamw" a kernel changes as much as AdamW would
            change it (Liu et al., 2025), so that AdamW's rates and decays serve. "original": as Jordan et al., whose rates are
            about 0.02.
        momentum, nesterov: the kernels'.
        newton_schulz_steps: iterations.
        newton_schulz_dtype: number format of the iterations; "bfloat16", as in the reference, is faster where processors
            have it.
        others: see `AdamW`, whose betas and epsilon are the other variables'.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        adjust: str = "match_rms_adamw",
        newton_schulz_steps: int = 5,
        newton_schulz_dtype: str = "float32",
        name: str = "muon",
        **kwargs,
    ):
        if adjust not in ("match_rms_adamw", "original"):
            raise ValueError(f'adjust: expected match_rms_adamw or original, got "{adjust}"')
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.momentum, self.nesterov, self.adjust = momentum, nesterov, adjust
        self.newton_schulz_steps, self.newton_schulz_dtype = newton_schulz_steps, newton_schulz_dtype

    def build(self, variables):
        if self.built:
            return
        Optimizer.build(self, variables)
        self._parts = [_hidden_parts(variable) for variable in variables]
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        others = [variable for variable, parts in zip(variables, self._parts, strict=True) if not parts]
        velocities = iter(self.add_optimizer_variables(others, "velocity"))
        self._velocities = [None if parts else next(velocities) for parts in self._parts]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        parts = self._parts[index]
        if not parts:
            super().update_step(gradient, variable, learning_rate)
            return
        gradient, rate = tf.cast(gradient, variable.dtype), tf.cast(learning_rate, variable.dtype)
        average = self._momentums[index].value
        now = average + (1 - self.momentum) * (gradient - average)
        average.assign(now)
        if self.nesterov:
            now = gradient + self.momentum * (now - gradient)
        updates = [self._update(part) for part in tf.split(now, parts, axis=1)]
        self.decay(variable, rate)
        variable.assign_sub(rate * (tf.concat(updates, axis=1) if len(updates) > 1 else updates[0]))

    def _update(self, matrix_DE: tf.Tensor) -> tf.Tensor:
        inputs, outputs = matrix_DE.shape
        update = orthogonalised(matrix_DE, steps=self.newton_schulz_steps, dtype=self.newton_schulz_dtype)
        if self.adjust == "original":
            return update * math.sqrt(max(1, outputs / inputs))
        return update * (0.2 * math.sqrt(max(outputs, inputs)))

    def get_config(self) -> dict[str, Any]:
        names = ("momentum", "nesterov", "adjust", "newton_schulz_steps", "newton_schulz_dtype")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def orthogonalised(matrix_DE: tf.Tensor, *, steps: int = 5, dtype: str = "float32") -> tf.Tensor:
    """Returns U V^T of a matrix U S V^T, roughly: singular values between 0.7 and 1.2, by `steps` of Newton and Schulz."""
    a, b, c = NEWTON_SCHULZ
    x = tf.cast(matrix_DE, tf.float32)
    x = tf.cast(x / tf.maximum(_norm(x), 1e-7), dtype)
    # The smaller of the two squares; a transposed matrix gives the transposed answer.
    tall = matrix_DE.shape[0] > matrix_DE.shape[1]
    for _ in range(steps):
        square = tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)
        polynomial = b * square + c * tf.matmul(square, square)
        x = a * x + (tf.matmul(x, polynomial) if tall else tf.matmul(polynomial, x))
    return tf.cast(x, matrix_DE.dtype)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": AdamW, "lamb": Lamb, "adafactor": Adafactor, "muon": Muon}
"""Optimisers by their name in run configs."""


def optimizer(name: str, schedule, **options: Any) -> Optimizer:
    """Makes an optimiser by name.

    Args:
        name: one of `OPTIMIZERS`.
        schedule: a learning rate, or a schedule of it.
        options: the class's own, such as `weight_decay`, `global_clipnorm` and `beta_2`.

    Raises ValueError for an unknown name, TypeError for options that the optimiser does not have; each says what there is.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f'optimizer: expected one of {", ".join(OPTIMIZERS)}, got "{name}"')
    known = _options(OPTIMIZERS[name])
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f'optimizer "{name}" has no option {unknown[0]}; options: {", ".join(known)}')
    return OPTIMIZERS[name](schedule, **options)


def _options(kind: type) -> list[str]:
    """Returns the keyword options of a class and of those of Garden's that it adds to."""
    classes = [base for base in kind.__mro__ if issubclass(base, Optimizer)]
    names = [
        parameter.name
        for base in classes
        for parameter in inspect.signature(base.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    return list(dict.fromkeys(names))


def _hidden_parts(variable) -> tuple[int, ...] | None:
    """Returns the widths of the matrices that a hidden kernel consists of; None for any other variable."""
    parts = getattr(variable, "parts", None)
    if parts is None or len(variable.shape) != 2 or min(*parts, variable.shape[0]) < 2:
        return None
    return None if any("head" in layer for layer in variable.path.split("/")) else tuple(parts)


def _moment_shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if len(shape) < 2:
        return {"moment": shape}
    return {"row_moment": shape[:-1], "column_moment": (*shape[:-2], shape[-1])}


def _norm(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(2 * tf.nn.l2_loss(x))


def _root_mean_square(x) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    return tf.sqrt(2 * tf.nn.l2_loss(x) / x.shape.num_elements())
