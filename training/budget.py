"""How long a run is: passes, steps or real tokens, as steps."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import tensorflow as tf

from garden.tasks import Task
from garden.tasks.distributed import real_tokens
from training.config import TrainingConfig

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 3
COUNTED = 16
"""Batches whose real tokens say how many a step has, where no corpus says so."""


@dataclass(frozen=True)
class Length:
    """A run's length: the steps that its schedule plans with, and the most that it takes."""

    planned: int
    most: int


def length_of(training: TrainingConfig, *, per_pass: int | None, tokens_per_step) -> Length:
    """Returns a run's length in steps.

    A run of so many tokens ends at the first step at which it has had them (`callbacks.TokenBudget`), which is about the step
    that is planned: real tokens differ from batch to batch.

    Args:
        per_pass: steps in a pass over the training data; None where that is not known.
        tokens_per_step: called for the real tokens of a step in the mean, where they are wanted.
    """
    if training.tokens is None:
        if training.steps is None and per_pass is None:
            raise ValueError(
                "training: a corpus that is read as the training goes has no known length; give steps or tokens, not epochs"
            )
        steps = training.steps or max(round((training.epochs or DEFAULT_EPOCHS) * per_pass), 1)
        return Length(steps, steps)
    per_step = max(tokens_per_step(), 1.0)
    steps = math.ceil(training.tokens / per_step)
    logger.info("%.0f real tokens are about %d steps of %.0f each", training.tokens, steps, per_step)
    return Length(steps, steps + steps // 10 + 10)


def counted_tokens(model: Task, batches: tf.data.Dataset) -> float:
    """Returns the real tokens of a batch of raw examples, in the mean of the first `COUNTED`."""
    prepared = model.prepared_dataset(batches.take(COUNTED), training=True)
    counts = [int(real_tokens(x)) for x, *_ in prepared]
    return sum(counts) / max(len(counts), 1)
