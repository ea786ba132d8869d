"""Texts on their way through a tokenizer's graph: characters, the pieces they are in, and where they come from.

Letters: N characters of all texts, M characters after a step, W pieces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import SCALARS, CodePointTable

# Added tokens are pieces of one private code point, above Unicode's; no step changes them.
FIRST_TOKEN = SCALARS


class Text(NamedTuple):
    """All characters of a batch of texts."""

    points: tf.Tensor  # [N] int32
    pieces: tf.Tensor  # [N] int32, ascending: characters of one piece have one number
    rows: tf.Tensor  # [N] int32, ascending: the text
    spans: tuple[tf.Tensor, ...]  # (starts, ends) [N] int32 in the source, or () where nobody asks


class Table:
    """An int32 for every code point and every added token, 0 unless given."""

    def __init__(self, values: np.ndarray, tokens: int, token_value: int = 0):
        """values: [0x110000]. tokens: how many added tokens there are."""
        self._table = CodePointTable(np.concatenate([values, np.full(tokens, token_value, np.int32)]).astype(np.int32))

    def __call__(self, points_N: tf.Tensor) -> tf.Tensor:
        """[N] int32 -> [N] int32."""
        return self._table(points_N)


def begins(text: Text) -> tf.Tensor:
    """Whether each character is the first of its piece, [N] bool."""
    changed = tf.not_equal(text.pieces[1:], text.pieces[:-1])
    return tf.concat([tf.ones_like(text.pieces[:1], tf.bool), changed], axis=0)


def bounds(begins_N: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The first character of each piece [W], one past the last [W], and each character's piece by rank [N], int32."""
    first_W = tf.cast(tf.where(begins_N)[:, 0], tf.int32)
    stop_W = tf.concat([first_W[1:], tf.shape(begins_N)], axis=0)[: tf.size(first_W)]
    return first_W, stop_W, tf.cumsum(tf.cast(begins_N, tf.int32)) - 1


def take(text: Text, source_M: tf.Tensor) -> Text:
    """Characters by their places, in ascending order: some left out, some repeated."""
    points, pieces, rows = (tf.gather(values, source_M) for values in text[:3])
    return Text(points, pieces, rows, tuple(tf.gather(values, source_M) for values in text.spans))


def keep(text: Text, kept_N: tf.Tensor) -> Text:
    """The characters that are to be kept."""
    return take(text, tf.where(kept_N)[:, 0])


def split(text: Text, begins_N: tf.Tensor) -> Text:
    """Begin a new piece at each of the places too."""
    return text._replace(pieces=tf.cumsum(tf.cast(begins_N | begins(text), tf.int32)))


def insert(text: Text, at_W: tf.Tensor, points: np.ndarray) -> Text:
    """Put a string before each of the places, in the same piece and from the same place in the source."""
    if not len(points):
        return text
    count_N = tf.tensor_scatter_nd_add(
        tf.ones_like(text.points), at_W[:, None], tf.fill(tf.shape(at_W), tf.constant(len(points), tf.int32))
    )
    wider = take(text, repeat(count_N))
    first_W = tf.gather(tf.cumsum(count_N, exclusive=True), at_W)
    places = first_W[:, None] + tf.range(len(points))
    values = tf.broadcast_to(tf.constant(points, tf.int32), tf.shape(places))
    return wider._replace(
        points=tf.tensor_scatter_nd_update(wider.points, tf.reshape(places, [-1, 1]), tf.reshape(values, [-1]))
    )


def repeat(count_N: tf.Tensor) -> tf.Tensor:
    """Each index as many times as its count says: [N] -> [M] int32."""
    ends = tf.cumsum(count_N)
    total = tf.reduce_sum(count_N)
    marks = tf.math.bincount(ends, minlength=total, maxlength=total)  # how many indices end before each place
    return tf.cumsum(marks)


def realign(text: Text, changed: Text, consumed_M: tf.Tensor) -> Text:
    """Give changed characters their spans by the reference's count: a character that replaces c > 0 characters of the
    text before the step stands where the next of these stood, and an inserted one where the last of them stood.

    changed: its pieces are the text's. consumed_M: c of each character.
    """
    if not text.spans:
        return changed._replace(spans=())
    before_M = tf.cumsum(consumed_M, exclusive=True)
    first_W, _, rank_M = bounds(begins(changed))
    old_W = tf.searchsorted(text.pieces, tf.gather(changed.pieces, first_W), side="left")
    at_M = before_M + tf.gather(old_W - tf.gather(before_M, first_W), rank_M)
    at_M = tf.clip_by_value(at_M - tf.cast(tf.equal(consumed_M, 0), tf.int32), 0, tf.size(text.points) - 1)
    return changed._replace(spans=tuple(tf.gather(values, at_M) for values in text.spans))
