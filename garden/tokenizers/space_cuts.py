"""Texts cut before spaces, so that what many texts have in common goes through a pipeline once.

It is right where a pipeline makes of the chunks what it makes of the whole text, each step says where: its method
`unsafe_before_space(after)` tells after which characters a text must stay whole, given what the next step tells.

Letters: B texts, S parts between spaces, U distinct parts, C chunks, E parts of chunks of their own, R rows, N characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.text import Table


class Chunks(NamedTuple):
    """Distinct chunks as rows of characters, and the texts as chunks."""

    points: tf.Tensor  # [N] int32
    lengths: tf.Tensor  # [R] int64: characters of each row
    first: tf.Tensor  # [R] bool: whether the row may begin a text; others begin with a space
    which: tf.Tensor  # [C] int64: the row of each chunk
    splits: tf.Tensor  # [B+1] int64: the chunks of each text


def unsafe_before_space(steps: Sequence) -> np.ndarray | None:
    """After which characters a text must not be cut before a space, [0x110000] bool; None: it must not be cut at all."""
    unsafe: np.ndarray | None = None  # no step cuts
    for step in reversed(steps):
        rule = getattr(step, "unsafe_before_space", None)
        unsafe = rule(unsafe) if rule is not None else None
    return unsafe


class SpaceCutter:
    """Cuts texts before every space but those after the given characters. [0x110000] bool"""

    def __init__(self, unsafe: np.ndarray):
        self._unsafe = Table(unsafe, 0) if unsafe.any() else None

    def __call__(self, texts_B: tf.Tensor) -> Chunks:
        """The chunks of all texts."""
        parts = tf.raw_ops.StringSplit(input=texts_B, delimiter=" ", skip_empty=False)
        text_S, first_S = parts.indices[:, 0], tf.equal(parts.indices[:, 1], 0)
        distinct_U, which_S = tf.unique(parts.values, out_idx=tf.int64)
        decoded = tf.raw_ops.UnicodeDecode(
            input=tf.strings.join([" ", distinct_U]), input_encoding="UTF-8", errors="replace", Tsplits=tf.int64
        )  # invalid bytes become U+FFFD
        points, splits = decoded.char_values, decoded.row_splits
        # A chunk that begins a text, which has no space before it, and one of several parts are rows of their own.
        if self._unsafe is None:  # every part is a chunk
            text_C, which_C = text_S, which_S
            own = at_E = tf.where(first_S)[:, 0]
        else:
            joins_U = self._unsafe(tf.gather(points, splits[1:] - 1)) > 0
            after_S = tf.concat([[False], tf.gather(joins_U, which_S)[:-1]], axis=0)[: tf.size(which_S)]
            begin_C = tf.where(first_S | ~after_S)[:, 0]
            stop_C = tf.concat([begin_C[1:], tf.shape(which_S, tf.int64)], axis=0)[: tf.size(begin_C)]
            text_C, which_C = tf.gather(text_S, begin_C), tf.gather(which_S, begin_C)
            own = tf.where(tf.gather(first_S, begin_C) | (stop_C - begin_C > 1))[:, 0]
            part_splits, at_E = _ranges(tf.gather(begin_C, own), tf.gather(stop_C, own))
        which_E, first_E = tf.gather(which_S, at_E), tf.gather(first_S, at_E)
        ends, spread = _ranges(tf.gather(splits, which_E) + tf.cast(first_E, tf.int64), tf.gather(splits, which_E + 1))
        if self._unsafe is not None:
            ends, first_E = tf.gather(ends, part_splits), tf.gather(first_E, part_splits[:-1])
        rows = tf.size(distinct_U, tf.int64) + tf.range(tf.size(own, tf.int64))
        return Chunks(
            points=tf.concat([points, tf.gather(points, spread)], axis=0),
            lengths=tf.concat([splits[1:] - splits[:-1], ends[1:] - ends[:-1]], axis=0),
            first=tf.concat([tf.zeros_like(distinct_U, tf.bool), first_E], axis=0),
            which=tf.tensor_scatter_nd_update(which_C, own[:, None], rows),
            splits=tf.searchsorted(text_C, tf.range(tf.size(texts_B, tf.int64) + 1), out_type=tf.int64),
        )


def _ranges(starts: tf.Tensor, limits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """All numbers from each start to its limit, and where each range begins."""
    return tf.raw_ops.RaggedRange(starts=starts, limits=limits, deltas=tf.constant(1, tf.int64), Tsplits=tf.int64)
