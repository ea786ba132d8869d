"""Special tokens around one text or two: the post-processor's template, and truncation to a length.

Letters: B batch, T tokens of a result, A and B (in names of lengths) the first and second text, K parts of a template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import tensorflow as tf

TRUNCATIONS = ("longest_first", "only_first", "only_second")


class Pieces(NamedTuple):
    """Tokens of a batch of texts, without special tokens: flat values and where each text's tokens lie."""

    ids: tf.Tensor  # [sum T] int32
    splits: tf.Tensor  # [B+1] int64
    starts: tf.Tensor | None = None  # [sum T] int32, character spans in the text, only when asked for
    ends: tf.Tensor | None = None


class Encoding(NamedTuple):
    """Tokens with their origins, each a RaggedTensor [B,(T)].

    Spans are those of `tokenizers`, with one exception: where combining marks that survive accent stripping (Balinese
    or musical ones, say) change places with others in canonical order, a span may be off by a few marks within its run.
    """

    token_ids: tf.RaggedTensor  # int32
    type_ids: tf.RaggedTensor  # int32
    starts: tf.RaggedTensor  # int32: first character (code point) of the token in its own source text
    ends: tf.RaggedTensor  # int32: one past its last character; special tokens of the template have 0, 0
    special: tf.RaggedTensor  # bool: added by the template


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a template: one of the two texts, or special tokens."""

    source: Literal["first", "second", "special"]
    type_id: int = 0
    name: str = ""  # of the special token
    ids: tuple[int, ...] = ()  # of the special token; usually one


@dataclass(frozen=True)
class Template:
    """What a single text and a pair of texts become, in order."""

    single: tuple[Part, ...] = (Part(source="first"),)
    pair: tuple[Part, ...] = (Part(source="first"), Part(source="second", type_id=1))

    @classmethod
    def bert(cls, start: tuple[str, int], end: tuple[str, int]) -> Template:
        """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text and its end of type 1."""
        cls_part, sep, sep_1 = (
            Part(source="special", type_id=kind, name=name, ids=(token_id,))
            for kind, (name, token_id) in ((0, start), (0, end), (1, end))
        )
        single = (cls_part, Part(source="first"), sep)
        return cls(single, (*single, Part(source="second", type_id=1), sep_1))

    def parts(self, pair: bool, add_special_tokens: bool) -> tuple[Part, ...]:
        """The parts for one text or two, with or without the special tokens."""
        parts = self.pair if pair else self.single
        return tuple(part for part in parts if add_special_tokens or part.source != "special")


def apply_template(
    parts: tuple[Part, ...], pieces: Pieces, pair: bool, max_length: tf.Tensor, truncation: str
) -> Encoding:
    """Cut the texts to fit, and join them with the special tokens.

    pieces: of B texts, or if `pair` of B first texts and then B second texts. max_length: scalar int64 that counts
    special tokens, at least their number. In the graph, raises InvalidArgumentError when the one text that may be cut
    is too short to make the pair fit. Returns an Encoding that has nothing but token_ids for pieces without spans.
    """
    special_ids = [token_id for part in parts for token_id in part.ids]
    begins, lengths = pieces.splits[:-1], pieces.splits[1:] - pieces.splits[:-1]
    (begin_A, begin_B), (length_A, length_B) = (tf.split(x, 2) if pair else (x, None) for x in (begins, lengths))
    length_A, length_B = _truncate(length_A, length_B, max_length - len(special_ids), truncation)

    # Every part is a range of one pool of values: the template's own ids, then the texts' tokens.
    starts, limits, used = [], [], 0
    for part in parts:
        if part.source == "special":
            starts.append(tf.fill(tf.shape(length_A), tf.constant(used, tf.int64)))
            used += len(part.ids)
            limits.append(tf.fill(tf.shape(length_A), tf.constant(used, tf.int64)))
        else:
            begin, length = (begin_A, length_A) if part.source == "first" else (begin_B, length_B)
            starts.append(begin + len(special_ids))
            limits.append(starts[-1] + length)
    splits, pool_T = tf.raw_ops.RaggedRange(
        starts=tf.reshape(tf.stack(starts, axis=1), [-1]),
        limits=tf.reshape(tf.stack(limits, axis=1), [-1]),
        deltas=tf.constant(1, tf.int64),
        Tsplits=tf.int64,
    )
    row_splits = splits[:: len(parts)]

    def ragged(values):
        return tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)

    def pick(own, values):
        return ragged(tf.gather(tf.concat([tf.constant(own, tf.int32), values], axis=0), pool_T))

    token_ids = pick(special_ids, pieces.ids)
    if pieces.starts is None:
        return Encoding(token_ids, None, None, None, None)
    nothing = [0] * len(special_ids)
    part_T = tf.searchsorted(splits, tf.range(tf.size(pool_T, tf.int64)), side="right") - 1
    types_K = tf.constant([part.type_id for part in parts], tf.int32)
    return Encoding(
        token_ids=token_ids,
        type_ids=ragged(tf.gather(types_K, tf.math.floormod(part_T, len(parts)))),
        starts=pick(nothing, pieces.starts),
        ends=pick(nothing, pieces.ends),
        special=ragged(pool_T < len(special_ids)),
    )


def _truncate(length_A, length_B, room, truncation):
    """The lengths to keep of the texts, [B] int64, so that their sum is at most `room`."""
    if length_B is None:
        return tf.minimum(length_A, room), None
    excess = tf.maximum(length_A + length_B - room, 0)
    if truncation == "longest_first":
        # The shorter text is cut only when half the room is not enough for it; the odd token goes to the longer one.
        shorter = tf.minimum(length_A, length_B)
        keep_shorter = tf.where(excess > 0, tf.minimum(shorter, room // 2), shorter)
        keep_longer = tf.where(excess > 0, room - keep_shorter, tf.maximum(length_A, length_B))
        first_longer = length_A > length_B
        keep_A = tf.where(first_longer, keep_longer, keep_shorter)
        return keep_A, tf.where(first_longer, keep_shorter, keep_longer)
    cut, other = (length_A, length_B) if truncation == "only_first" else (length_B, length_A)
    long_enough = assert_that(
        tf.reduce_all((excess == 0) | (cut > excess) | (room == 0)),
        f"truncation {truncation}: the text to cut is too short for the pair to fit max_length; "
        "use a larger max_length or longest_first",
    )
    with tf.control_dependencies([long_enough]):
        cut = tf.where(room == 0, tf.zeros_like(cut), cut - excess)
    other = tf.where(room == 0, tf.zeros_like(other), other)  # the reference then drops both
    return (cut, other) if truncation == "only_first" else (other, cut)


def assert_that(condition: tf.Tensor, message: str) -> tf.Operation:
    """An operation that raises InvalidArgumentError with the message unless the condition holds.

    The bare operation: `tf.debugging` puts it into a conditional, of which TensorFlow then warns whenever a graph loads.
    """
    return tf.raw_ops.Assert(condition=condition, data=[tf.constant(message)])
