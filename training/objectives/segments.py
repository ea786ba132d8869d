"""What objectives do with the segments of a batch of rows: count in them, draw in them, and lay them out anew.

Shapes: B rows, T places of a row, Q segments of a row at most, K candidates for places.
"""

from __future__ import annotations

import tensorflow as tf


class Segments:
    """Which segment of its row each place belongs to; places are [B,T], what segments have is [B,Q].

    Args:
        ids: [B,T] int32: 1, 2, ... to Q, or 0 for none. A segment's places follow each other, and segments are in order.
        most: Q; default: as many as the batch's rows have, at least one.
    """

    def __init__(self, ids: tf.Tensor, most: tf.Tensor | int | None = None):
        self.ids = ids
        self._known = most if isinstance(most, int) else None
        self.most = tf.maximum(tf.reduce_max(tf.pad(ids, [[0, 1], [0, 0]])), 1) if most is None else most
        self._rows = tf.shape(ids)[0]
        self._flat = tf.reshape(ids + tf.range(self._rows)[:, None] * (self.most + 1), [-1])

    def _reduced(self, how, values: tf.Tensor) -> tf.Tensor:
        of_all = how(tf.reshape(values, [-1]), self._flat, self._rows * (self.most + 1))
        return tf.ensure_shape(tf.reshape(of_all, [self._rows, self.most + 1])[:, 1:], [None, self._known])

    def count(self, values: tf.Tensor) -> tf.Tensor:
        """Returns how many places of each segment are marked, or their numbers' sum: [B,T] bool or int32 -> [B,Q] int32."""
        return self._reduced(tf.math.unsorted_segment_sum, tf.cast(values, tf.int32))

    def most_of(self, values: tf.Tensor) -> tf.Tensor:
        """Returns each segment's highest number: [B,T] -> [B,Q]; the type's least where a segment has no place."""
        return self._reduced(tf.math.unsorted_segment_max, values)

    def least_of(self, values: tf.Tensor) -> tf.Tensor:
        """Returns each segment's lowest number: [B,T] -> [B,Q]; the type's highest where a segment has no place."""
        return self._reduced(tf.math.unsorted_segment_min, values)

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Returns what its segment has for each place, zero for places of none: [B,Q] -> [B,T]."""
        return tf.gather(tf.pad(values, [[0, 0], [1, 0]]), self.ids, batch_dims=1)

    def before(self, marks: tf.Tensor) -> tf.Tensor:
        """Returns how many marked places, or what sum, its segment has before each place: [B,T] bool or int32 -> int32."""
        marks = tf.where(self.ids > 0, tf.cast(marks, tf.int32), 0)
        return tf.cumsum(marks, axis=1, exclusive=True) - self.spread(offsets(self.count(marks)))

    def ranks(self, draws: tf.Tensor, among: tf.Tensor) -> tf.Tensor:
        """Returns each place's rank in its segment by its draw, from 0, among those marked; for others a rank above all.

        Args:
            draws: [B,T] float32 from 0 to below 1. among: [B,T] bool.
        """
        among &= self.ids > 0
        keys = tf.where(among, tf.cast(self.ids, tf.float64) + tf.cast(draws, tf.float64), tf.float64.max)
        rank = tf.argsort(tf.argsort(keys, axis=1, stable=True), axis=1)
        return tf.where(among, rank - self.spread(offsets(self.count(among))), tf.int32.max)


def offsets(counts: tf.Tensor) -> tf.Tensor:
    """Returns the sum of what is before: [B,Q] -> [B,Q]."""
    return tf.cumsum(counts, axis=1, exclusive=True)


def owners(counts: tf.Tensor, length: tf.Tensor | int) -> tf.Tensor:
    """Returns the segments of things in a row, of which segment q has counts[q]: [B,Q] -> [B,length], 0 behind the last."""
    ends = tf.cumsum(counts, axis=1)
    things = tf.broadcast_to(tf.range(length), [tf.shape(counts)[0], length])
    owner = tf.searchsorted(ends, things, side="right") + 1
    return tf.where(owner <= tf.shape(counts)[1], owner, 0)


def random_parts(counts: tf.Tensor, parts: tf.Tensor, length: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """Cuts counts[q] things into parts[q] parts, none of them empty, in one of all ways, each as likely.

    Args:
        counts, parts: [B,Q] int32, no more parts than things, but one where there are none.
        length: things of a row at most, and parts.

    Returns the parts' sizes, row by row one segment's after the other's: [B,length] int32.
    """
    segments = Segments(owners(counts, length), tf.shape(counts)[1])
    things = segments.ids > 0
    first = segments.before(things) == 0
    draws = tf.where(first, -1.0, tf.random.stateless_uniform(tf.shape(segments.ids), seed))
    # A thing that begins a part: the first of its segment, and others at random.
    begins = segments.ranks(draws / 2 + 0.5, things) < segments.spread(parts)
    part = segments.spread(offsets(parts)) + segments.before(begins) + tf.cast(begins, tf.int32) - 1
    return Segments(tf.where(things, part + 1, 0), length).count(things)


def compacted(
    ids: tf.Tensor,
    segment_ids: tf.Tensor,
    *,
    pad_id: int,
    name: str,
    width: int | None = None,
    multiple: int = 1,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns rows of those tokens that have a segment: ids, segment ids and positions [B,S] int32.

    Args:
        ids, segment_ids: [B,K] int32; what has segment 0 is left out.
        name: of the option that gives the width, for errors.
        width: S. Default: as many places as the fullest row of the batch needs, rounded up to a multiple of `multiple`.

    Raises InvalidArgumentError in the graph for rows that the width has no room for.
    """
    kept = segment_ids > 0
    positions = Segments(segment_ids).before(kept)
    counts = tf.reduce_sum(tf.cast(kept, tf.int64), axis=1)
    most = tf.maximum(tf.reduce_max(tf.pad(counts, [[0, 1]])), 1)
    if width is None:
        wide = (most + multiple - 1) // multiple * multiple
    else:
        fits = tf.debugging.assert_less_equal(
            most, tf.constant(width, tf.int64), f"{name}: {width} places are too few for a row of this batch; give more"
        )
        with tf.control_dependencies([fits] if fits is not None else []):
            wide = tf.constant(width, tf.int64)

    def laid_out(values: tf.Tensor, empty: int) -> tf.Tensor:
        ragged = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(values, kept), counts, validate=False)
        dense = ragged.to_tensor(empty, shape=tf.stack([tf.size(counts, tf.int64), wide]))
        return tf.ensure_shape(dense, [ids.shape[0], width])

    return laid_out(ids, pad_id), laid_out(segment_ids, 0), laid_out(positions, 0)
