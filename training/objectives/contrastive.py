"""Contrast without labels: a text is closer to itself under another dropout than to others (SimCSE, Gao et al., 2021).

Shapes: B rows, T places of a row, Q texts of a row at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from training.configuration import key
from training.objectives.base import Objective
from training.objectives.texts import text_places, texts_of


@dataclass(frozen=True, kw_only=True)
class Contrast(Objective):
    """Each row twice, one behind the other; a text of the first is to find its twin among the texts of all second ones.

    x: `token_ids`, `segment_ids`, `positions` [2B,T]; `text_positions`, `text_ends`, `text_index` [2B,Q]: where each text
    begins and ends, and its number in the batch, -1 for none; y: groups [2B,Q] int32, the same number for twins, -1 for
    none; weights [2B,Q] float32: 1 for the first of twins. A step so computes twice the batch's rows. Labelled pairs are
    learnt by the task alone, `TextEmbedder.fit(pairs)`.
    """

    layout = "single"
    task = "text-embedding"

    most_segments: int | None = key("texts of a row at most, checked; default: as many as a batch has", None, least=1)

    def made(self, rows, seed):
        segments = texts_of(rows["segment_ids"], self.most_segments)
        begins, ends, present = text_places(segments)
        number = tf.cumsum(tf.cast(tf.reshape(present, [-1]), tf.int32), exclusive=True)
        groups = tf.where(present, tf.reshape(number, tf.shape(present)), -1)
        first = tf.tile([True, False], [tf.shape(begins)[0]])[:, None]
        twice = lambda values: tf.repeat(values, 2, axis=0)
        x = {name: twice(rows[name]) for name in ("token_ids", "segment_ids", "positions")}
        x |= {"text_positions": twice(begins), "text_ends": twice(ends)}
        groups = twice(groups)
        x["text_index"] = tf.where(groups < 0, -1, 2 * groups + tf.cast(~first, tf.int32))
        return x, groups, tf.cast(first & (groups >= 0), tf.float32)
