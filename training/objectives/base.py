"""What every objective is: options, and a pure function from a batch of rows to what a task learns from.

Shapes: B rows, T row length, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import tensorflow as tf

from garden.tasks import Task
from garden.tasks.masking import is_special
from garden.tokenizers import Tokenizer
from training import configuration

ROW_NAMES = ("token_ids", "segment_ids", "positions", "sentence_ids")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of the objectives. A subclass's fields are its options; it says what rows it reads and what it makes of them.

    Called with a batch of rows, a dictionary of `token_ids`, `segment_ids`, `positions` and `sentence_ids` [B,T] int32 (see
    `training.packing`), and a seed [2] int32, it returns (x, y, weights) as a task's `fit` takes them. The same seed makes the
    same of the same rows; nothing else is random. Targets with weight 0 do not count.
    """

    layout: ClassVar[str]
    """What stands in the rows' segments: single, pair or causal."""

    task: ClassVar[str]
    """The task that learns it, by its name in configs."""

    tokenizer: Tokenizer = dataclasses.field(repr=False)

    def __post_init__(self):
        configuration.check(self)

    # Nothing here is Python that a graph must be made of.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, rows: Mapping[str, tf.Tensor], seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], Any, Any]:
        rows = {name: tf.cast(rows[name], tf.int32) for name in ROW_NAMES}
        return self.made(rows, tf.convert_to_tensor(seed, tf.int32))

    def for_task(self, model: Task) -> Objective:
        """Returns the objective as a task's network wants it; ValueError for another task than the one that learns it."""
        if model.name_in_configs != self.task:
            raise ValueError(f'task: this objective is learnt by "{self.task}", got a "{model.name_in_configs}"')
        return self

    def made(self, rows: dict[str, tf.Tensor], seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], Any, Any]:
        """Returns (x, y, weights) of rows, in the graph."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it makes of rows")

    @cached_property
    def _special(self):
        return is_special(self.tokenizer)

    def ordinary(self, rows: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns which places hold a token of a text, neither special nor padding: [B,T] bool."""
        return (rows["segment_ids"] > 0) & ~tf.gather(self._special, rows["token_ids"])

    @property
    def overhead(self) -> int:
        """How many special tokens each segment has."""
        around = sum(len(part.ids) for part in self.tokenizer.template.single if part.source == "special")
        return around + (self.layout == "pair")


def needed(tokenizer: Tokenizer, role: str) -> int:
    """Returns the id of a special token; ValueError where the tokenizer has none."""
    found = getattr(tokenizer, f"{role}_id")
    if found is None:
        raise ValueError(f"the tokenizer has no {role} token, which this objective needs")
    return found


def split_seed(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Returns `count` seeds [2] of one."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, count))
