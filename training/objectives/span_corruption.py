"""T5's span corruption: spans of a text become sentinels, and the target says what stood there (Raffel et al., 2020).

Shapes: B rows, T places of a row, Q segments of a row at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import tensorflow as tf

from training.configuration import key
from training.objectives.base import needed, split_seed
from training.objectives.segments import Segments, random_parts
from training.objectives.source_and_target import SourceAndTarget, segment_ends


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(SourceAndTarget):
    """`Thank you <extra_id_0> me to your party <extra_id_1> week .` -> `<extra_id_0> for inviting <extra_id_1> last </s>`.

    In each segment round(rate * tokens) tokens are lost, at least one and not all, in round(lost / mean_span) spans: the
    lost ones and the others are cut into as many parts, in one of all ways, and take turns (T5's
    `random_spans_noise_mask`). So a span never follows another, and a segment begins with a token that stays. Sentinels
    count from <extra_id_0> in each segment; there are no more spans than sentinels. A segment of a single token loses
    nothing: its target is the end token.
    """

    rate: float = key("share of a text's tokens that are lost", 0.15, above=0, below=1)
    mean_span: float = key("mean length of a span", 3.0, least=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.sentinels:
            raise ValueError(
                "the tokenizer has no sentinels; train one with the special tokens <extra_id_0>, <extra_id_1>, ..."
            )
        if self.end_id is None:
            needed(self.tokenizer, "eos")

    @cached_property
    def sentinels(self) -> list[int]:
        """Ids of <extra_id_0>, <extra_id_1>, ... as far as there are any."""
        ids = {token: number for number, token in enumerate(self.tokenizer.vocabulary)}
        found: list[int] = []
        while f"<extra_id_{len(found)}>" in ids:
            found.append(ids[f"<extra_id_{len(found)}>"])
        return found

    @property
    def start_id(self) -> int:
        return self.tokenizer.pad_id or 0

    def made(self, rows, seed):
        ids, segment_ids = rows["token_ids"], rows["segment_ids"]
        lost = self.lost(rows, seed)
        begins = lost & ~tf.pad(lost, [[0, 0], [1, 0]])[:, :-1]
        segments = Segments(segment_ids)
        sentinels = tf.gather(self.sentinels, tf.minimum(segments.before(begins), len(self.sentinels) - 1))
        source = tf.where(begins, sentinels, ids), tf.where(lost & ~begins, 0, segment_ids)
        # Each place may write a sentinel, its token, and the end of its segment.
        written = tf.stack([begins, lost, segment_ends(segment_ids)], axis=-1)
        tokens = tf.stack([sentinels, ids, tf.fill(tf.shape(ids), self.end_id)], axis=-1)
        shape = [tf.shape(ids)[0], 3 * tf.shape(ids)[1]]
        target = tf.reshape(tokens, shape), tf.reshape(tf.where(written, segment_ids[:, :, None], 0), shape)
        return self.both(source, target)

    def lost(self, rows: dict[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
        """Returns which places are lost: [B,T] bool."""
        for_kept, for_lost = split_seed(seed, 2)
        segments, text = Segments(rows["segment_ids"]), rows["sentence_ids"] > 0
        length = tf.shape(text)[1]
        counts = segments.count(text)
        lost = tf.minimum(tf.maximum(rounded(counts, self.rate), 1), tf.maximum(counts - 1, 0))
        spans = tf.minimum(rounded(lost, 1 / self.mean_span), tf.minimum(counts - lost, len(self.sentinels)))
        spans = tf.maximum(spans, 1)
        kept_parts = random_parts(counts - lost, spans, length, for_kept)
        lost_parts = random_parts(lost, spans, length, for_lost)
        # Parts take turns: a token is lost where an odd number of parts end before it.
        ends = tf.cumsum(
            tf.reshape(tf.stack([kept_parts, lost_parts], axis=-1), [tf.shape(text)[0], 2 * length]), axis=1
        )
        number = tf.cumsum(tf.cast(text, tf.int32), axis=1, exclusive=True)
        return text & (tf.searchsorted(ends, number, side="right") % 2 == 1)


def rounded(counts: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns counts times a factor, rounded, int32."""
    return tf.cast(tf.round(tf.cast(counts, tf.float64) * factor), tf.int32)
