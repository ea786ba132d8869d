"""Dropout that draws half as many random bits, and whose masks are a function of a seed and the step.

Under `step_seed`, which training steps open, the mask of the n-th dropout call is a pure function of the seed, the step and n:
two runs with one seed are the same run, a resumed run continues with the masks it would have had, and there is no
random state to save. Outside of it (a layer used by hand, a stock Keras model) a Keras SeedGenerator counts.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

_step: ContextVar["_StepSeed | None"] = ContextVar("garden_dropout_step", default=None)


class _StepSeed:
    """Hands each dropout call of one traced step a seed of its own."""

    def __init__(self, seed: tf.Tensor, calls: int = 0):
        self.seed = seed
        self.calls = calls

    def next(self) -> tf.Tensor:
        self.calls += 1
        return tf.random.experimental.stateless_fold_in(self.seed, self.calls)


@contextlib.contextmanager
def step_seed(seed: int | tf.Tensor, step: tf.Tensor, part: tf.Tensor | None = None) -> Iterator[None]:
    """Within it, every `Dropout` derives its masks from `seed`, `step` (scalars) and the replica it runs on.

    A step that is computed in several parts gives each its number.
    """
    fold = tf.random.experimental.stateless_fold_in
    replica = tf.distribute.get_replica_context()
    replica_id = replica.replica_id_in_sync_group if replica else 0
    base = fold(tf.stack([tf.cast(seed, tf.int32), tf.cast(replica_id, tf.int32)]), tf.cast(step, tf.int32))
    with _opened(_StepSeed(base if part is None else fold(base, part))):
        yield


@contextlib.contextmanager
def _opened(masks: _StepSeed) -> Iterator[None]:
    token = _step.set(masks)
    try:
        yield
    finally:
        _step.reset(token)


def step_masks() -> _StepSeed | None:
    """Returns the masks that follow within `step_seed`, for `replayed_masks`; None outside of it."""
    masks = _step.get()
    return masks and _StepSeed(masks.seed, masks.calls)


@contextlib.contextmanager
def replayed_masks(masks: _StepSeed, *, after: Sequence[tf.Tensor]) -> Iterator[None]:
    """Within it, every `Dropout` draws the masks that it drew from `step_masks` on, when the tensors `after` are there."""
    with tf.control_dependencies(after):
        seed = tf.identity(masks.seed)
    with _opened(_StepSeed(seed, masks.calls)):
        yield


def next_seed() -> tf.Tensor | None:
    """Returns a seed [2] that nothing else in this step gets, for other draws than dropout's; None outside of `step_seed`."""
    masks = _step.get()
    return masks and masks.next()


def keep_mask(shape: tf.Tensor, seed: tf.Tensor, rate: float) -> tf.Tensor:
    """A boolean tensor of `shape`, true with probability 1 - rate to within 1/65,536.

    Sixteen random bits decide an element where `tf.nn.dropout` spends thirty-two on a float: drawing them is most of
    dropout's cost on a CPU.
    """
    size = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
    halves = tf.reshape(tf.bitcast(words, tf.int16), [-1])[:size]
    threshold = min(round(rate * 65_536), 65_535) - 32_768
    return tf.reshape(halves >= tf.constant(threshold, tf.int16), shape)


@keras.saving.register_keras_serializable("garden")
class Dropout(keras.layers.Layer):
    """Zeroes each element with probability `rate` while training and scales the rest by 1 / (1 - rate).

    Any shape in, the same shape out. Source: Srivastava et al., 2014.
    """

    def __init__(self, rate: float, *, seed: int | None = None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate: expected 0 <= rate < 1, got {rate}")
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not self.rate:
            return x
        mask = tf.cast(keep_mask(tf.shape(x), self._next_seed(), self.rate), x.dtype)
        return x * (mask * tf.constant(1 / (1 - self.rate), x.dtype))

    def drawn(self) -> dict[str, Any]:
        """Returns the `seed` and `rate` of the next mask, for `clusters` that drop by themselves; nothing without dropout."""
        return {"seed": self._next_seed(), "rate": self.rate} if self.rate else {}

    def _next_seed(self) -> tf.Tensor:
        step = _step.get()
        return step.next() if step else tf.bitcast(tf.cast(self.seed_generator.next(), tf.uint32), tf.int32)

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
