"""What the workers of one run tell each other between steps; with one worker, nothing is sent."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf


def several(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether other processes take part."""
    return bool(getattr(strategy.extended, "_in_multi_worker_mode", bool)())


def count(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes take part."""
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices) if several(strategy) else 1


def summed(strategy: tf.distribute.Strategy, value: float) -> float:
    """Returns the sum of all workers' values, each worker's counted once; every worker calls it."""
    if not several(strategy):
        return value
    replicas = len(strategy.extended.worker_devices)
    totals = _adder(strategy)(tf.constant(value, tf.float32))
    return float(strategy.experimental_local_results(totals)[0]) / replicas


@functools.lru_cache(maxsize=1)
def _adder(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the sum over replicas as a graph, which takes less time than one operation after another."""

    def add(value: tf.Tensor) -> tf.Tensor:
        # `identity`: a sum needs values that lie on a replica's device.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    return tf.function(lambda value: strategy.run(add, args=(value,)), autograph=False)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker is here: one that ends early takes the others down."""
    summed(strategy, 1.0)


def any_of(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns whether the flag is set on any worker; every worker calls it."""
    return summed(strategy, float(flag)) > 0


def check_same_step(strategy: tf.distribute.Strategy, step: int, directory: object) -> None:
    """Raises ValueError on every worker unless all of them go on from the same step."""
    workers = summed(strategy, 1.0)
    differs = summed(strategy, float(step)) != workers * step
    if any_of(strategy, differs):
        raise ValueError(
            f"output: the workers do not see the same checkpoints (this one goes on after step {step}); {directory} has to "
            "be a directory that all of them share"
        )
