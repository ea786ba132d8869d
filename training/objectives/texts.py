"""Where the texts of rows stand, for objectives that have a target for each text.

Shapes: B rows, T places of a row, Q texts of a row at most.
"""

from __future__ import annotations

import tensorflow as tf

from training.objectives.segments import Segments


def texts_of(segment_ids: tf.Tensor, most: int | None) -> Segments:
    """Returns the segments of rows [B,T]: Q as given, checked in the graph, or as many as the batch has."""
    if most is None:
        return Segments(segment_ids)
    check = tf.debugging.assert_less_equal(
        tf.reduce_max(tf.pad(segment_ids, [[0, 1], [0, 0]])),
        most,
        f"most_segments: a row of this batch has more texts than {most}; give more, or leave it out",
    )
    with tf.control_dependencies([check] if check is not None else []):
        return Segments(tf.identity(segment_ids), most)


def text_places(segments: Segments) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each text's first and last place [B,Q] int32, and whether there is one [B,Q] bool; places of none are 0."""
    places = tf.broadcast_to(tf.range(tf.shape(segments.ids)[1]), tf.shape(segments.ids))
    present = segments.count(segments.ids > 0) > 0
    begins, ends = segments.least_of(places), segments.most_of(places)
    return tf.where(present, begins, 0), tf.where(present, ends, 0), present
