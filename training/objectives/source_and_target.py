"""What objectives of encoder-decoders share: a damaged text is read, and what was lost is written.

Shapes: B rows, T places of a row, S and U places of a row of sources and of targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import tensorflow as tf

from garden.models.encoder_decoder import shift_right
from training.configuration import key
from training.objectives.base import Objective, needed
from training.objectives.segments import compacted

MULTIPLE = 8
"""Rows are as wide as the fullest one of a batch, rounded up to a multiple of it, so that a run meets few different shapes."""


@dataclass(frozen=True, kw_only=True)
class SourceAndTarget(Objective):
    """Base of objectives that make a source and a target of each segment; those of row b, segment q belong together.

    x: `token_ids`, `segment_ids`, `positions` [B,S], and what the decoder reads: `target_ids`, `target_segment_ids`,
    `target_positions` [B,U]; y: the targets [B,U] int32; weights [B,U] float32: 0 in padding. S and U are as many as the
    fullest row of the batch needs, in eights, or `source_length` and `target_length`, which are checked in the graph.
    """

    layout = "single"
    task = "seq2seq-lm"

    source_length: int | None = key("places of a row of sources; default: as many as a batch needs", None, least=1)
    target_length: int | None = key("places of a row of targets; default: as many as a batch needs", None, least=1)
    shifted: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = dataclasses.field(default=None, repr=False)
    """What the decoder reads in order to write targets: a backbone's `shifted` (see `for_task`). Default: behind `start_id`."""

    def for_task(self, model):
        """Returns the objective with targets shifted as the task's backbone wants them."""
        return dataclasses.replace(super().for_task(model), shifted=model.backbone.shifted)

    @property
    def start_id(self) -> int:
        """The token that the decoder begins with where no backbone says another."""
        raise NotImplementedError(f"{type(self).__name__} has to say what a target begins with")

    @cached_property
    def end_id(self) -> int:
        """The token that ends a target: the tokenizer's eos or sep."""
        return self.tokenizer.sep_id if self.tokenizer.eos_id is None else needed(self.tokenizer, "eos")

    @property
    def adds_end(self) -> bool:
        """Whether segments have no special token at their end."""
        return self.tokenizer.template.single[-1].source != "special"

    def both(self, source: tuple[tf.Tensor, tf.Tensor], target: tuple[tf.Tensor, tf.Tensor]) -> tuple:
        """Returns (x, y, weights) of tokens and their segments, [B,K] each; what has segment 0 is left out."""
        layout = {"pad_id": self.tokenizer.pad_id or 0, "multiple": MULTIPLE}
        names = ("token_ids", "segment_ids", "positions")
        x = dict(zip(names, compacted(*source, name="source_length", width=self.source_length, **layout), strict=True))
        targets, segment_ids, positions = compacted(*target, name="target_length", width=self.target_length, **layout)
        shifted = self.shifted or (lambda ids, segment_ids: shift_right(ids, segment_ids, self.start_id))
        x |= {
            "target_ids": shifted(targets, segment_ids),
            "target_segment_ids": segment_ids,
            "target_positions": positions,
        }
        return x, targets, tf.cast(segment_ids > 0, tf.float32)


def segment_ends(segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns each segment's last place: [B,T] -> [B,T] bool."""
    after = tf.pad(segment_ids, [[0, 0], [0, 1]])[:, 1:]
    return (segment_ids > 0) & (segment_ids != after)
