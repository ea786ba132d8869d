"""BART's denoising: a text is damaged and has to be written as it was (Lewis et al., 2020).

Shapes: B rows, T places of a row, Q segments of a row at most, W items of a row's sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from training.configuration import key
from training.objectives.base import needed, split_seed
from training.objectives.segments import Segments, owners
from training.objectives.source_and_target import SourceAndTarget, segment_ends
from training.objectives.span_corruption import rounded


@dataclass(frozen=True, kw_only=True)
class Denoising(SourceAndTarget):
    """The whole text from a damaged one; the defaults are those of the published models.

    In this order, in each segment: its sentences are shuffled; its text is rotated to begin with any of its tokens; spans
    become one mask each (infilling), with lengths of a Poisson distribution, and those of length 0 put a mask between
    tokens; of what is left tokens are deleted, and others masked. Special tokens at a segment's ends stay where they are.

    Infilling hides ceil(infilling_rate * tokens) tokens: the last span is shortened to that, as in the released code. Spans do
    not overlap; all arrangements of spans and other tokens are as likely.
    """

    infilling_rate: float = key("share of a text's tokens that spans hide", 0.3, least=0, below=1)
    mean_span: float = key("mean length of a span", 3.0, above=0)
    shuffled_share: float = key("share of the texts whose sentences are shuffled", 1.0, least=0, most=1)
    rotated_share: float = key("share of the texts that are rotated", 0.0, least=0, most=1)
    deletion_rate: float = key("share of a text's tokens that are deleted", 0.0, least=0, below=1)
    mask_rate: float = key("share of a text's tokens that are masked one by one", 0.0, least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        needed(self.tokenizer, "mask")
        if self.end_id is None:
            needed(self.tokenizer, "eos")

    @property
    def start_id(self) -> int:
        return self.end_id

    def made(self, rows, seed):
        seeds = split_seed(seed, 4)
        ids, segment_ids = rows["token_ids"], rows["segment_ids"]
        target = ids, segment_ids
        if self.adds_end:
            ends = tf.stack([segment_ids, tf.where(segment_ends(segment_ids), segment_ids, 0)], axis=-1)
            tokens = tf.stack([ids, tf.fill(tf.shape(ids), self.end_id)], axis=-1)
            shape = [tf.shape(ids)[0], 2 * tf.shape(ids)[1]]
            target = tf.reshape(tokens, shape), tf.reshape(ends, shape)
        # From here on padding is behind everything, and the text of a segment between its special tokens.
        segments, text = Segments(segment_ids), rows["sentence_ids"] > 0
        if self.shuffled_share:
            ids = moved(ids, segments, text, self._shuffled(rows, segments, seeds[0]))
        if self.rotated_share:
            ids = moved(ids, segments, text, self._rotated(segments, text, seeds[1]))
        tokens, owner, is_text = self._filled(ids, segments, text, seeds[2])
        return self.both(self._thinned(tokens, owner, is_text, segments.count(text), seeds[3]), target)

    def _shuffled(self, rows: dict[str, tf.Tensor], segments: Segments, seed: tf.Tensor) -> tf.Tensor:
        """Returns keys [B,T] from 0 to below 1 in whose order a segment's text is to stand; equal ones as they stood."""
        for_texts, for_sentences = split_seed(seed, 2)
        sentence = rows["sentence_ids"]
        shape = tf.shape(sentence)
        chosen = tf.random.stateless_uniform([shape[0], segments.most], for_texts) < self.shuffled_share
        # A draw of each sentence is the draw of the place where it starts.
        starts = (sentence != tf.pad(sentence, [[0, 0], [1, 0]])[:, :-1]) | (rows["positions"] == 0)
        number = tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1
        draws = tf.gather(tf.random.stateless_uniform(shape, for_sentences), tf.maximum(number, 0), batch_dims=1)
        return tf.where(segments.spread(tf.cast(chosen, tf.int32)) > 0, draws, 0.0)

    def _rotated(self, segments: Segments, text: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns keys as `_shuffled`."""
        for_texts, for_places = split_seed(seed, 2)
        counts = segments.count(text)
        chosen = tf.random.stateless_uniform(tf.shape(counts), for_texts) < self.rotated_share
        draws = tf.random.stateless_uniform(tf.shape(counts), for_places)
        first = tf.where(chosen, tf.cast(draws * tf.cast(counts, tf.float32), tf.int32), 0)
        counts, first = (segments.spread(values) for values in (counts, first))
        place = tf.math.floormod(segments.before(text) - first, tf.maximum(counts, 1))
        return tf.cast(place, tf.float32) / tf.cast(tf.maximum(counts, 1), tf.float32)

    def _filled(
        self, ids: tf.Tensor, segments: Segments, text: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns what sources consist of, [B,W] each: tokens, segments, and whether a token is one of the text that stayed."""
        if not self.infilling_rate:
            return ids, segments.ids, text
        for_lengths, for_places = split_seed(seed, 2)
        counts, places = segments.count(text), segments.count(segments.ids > 0)
        # In double precision 0.3 * 10 may be above 3.
        hidden = tf.cast(tf.math.ceil(tf.cast(counts, tf.float64) * self.infilling_rate - 1e-6), tf.int32)
        # Lengths are drawn one after the other, each at a place of the text, until enough is hidden; the last one is cut.
        drawn = tf.random.stateless_poisson(tf.shape(ids), for_lengths, self.mean_span, tf.int32)
        drawn = tf.where(text, drawn, 0)
        left = tf.where(text, segments.spread(hidden) - segments.before(drawn), 0)
        last = text & (segments.before(text) == segments.spread(counts) - 1)
        lengths = tf.where(last, tf.maximum(left, 0), tf.clip_by_value(drawn, 0, tf.maximum(left, 0)))
        spans = segments.count(left > 0)
        # A row's items: special tokens, tokens that stay, and spans.
        items = places - hidden + spans
        width = tf.reduce_max(tf.pad(tf.reduce_sum(items, axis=1), [[0, 1]]))
        of_items = Segments(owners(items, width), segments.most)
        real = of_items.ids > 0
        number = of_items.before(real)
        first = segments.count(~text & (segments.ids > 0) & (segments.before(text) == 0))
        first, among = of_items.spread(first), of_items.spread(counts - hidden + spans)
        inside = real & (number >= first) & (number < first + among)
        draws = tf.random.stateless_uniform(tf.shape(number), for_places)
        is_span = of_items.ranks(draws, inside) < of_items.spread(spans)
        slot = of_items.spread(offset_of_text(segments, text)) + of_items.before(is_span)
        length = tf.gather(tf.pad(lengths, [[0, 0], [0, 1]]), tf.minimum(slot, tf.shape(ids)[1]), batch_dims=1)
        taken = tf.where(real, tf.where(is_span, length, 1), 0)
        place = tf.minimum(tf.cumsum(taken, axis=1, exclusive=True), tf.shape(ids)[1] - 1)
        tokens = tf.where(is_span, self.tokenizer.mask_id, tf.gather(ids, place, batch_dims=1))
        return tokens, of_items.ids, inside & ~is_span

    def _thinned(
        self, tokens: tf.Tensor, owner: tf.Tensor, is_text: tf.Tensor, counts: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns tokens and segments [B,W] without those that are deleted, and with masks for those that are masked."""
        if not (self.deletion_rate or self.mask_rate):
            return tokens, owner
        items = Segments(owner, tf.shape(counts)[1])
        # Something stays of every text.
        deleted = tf.minimum(rounded(counts, self.deletion_rate), tf.maximum(items.count(owner > 0) - 1, 0))
        rank = items.ranks(tf.random.stateless_uniform(tf.shape(tokens), seed), is_text)
        masked = deleted + rounded(counts, self.mask_rate)
        tokens = tf.where(rank < items.spread(masked), self.tokenizer.mask_id, tokens)
        return tokens, tf.where(rank < items.spread(deleted), 0, owner)


def moved(ids: tf.Tensor, segments: Segments, text: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Returns tokens [B,T] with each segment's text in the order of its keys [B,T], equal ones as they stood."""
    # What is no text keeps its place: before its segment's text, or behind.
    place = tf.where(text, 1.0 + keys, tf.where(segments.before(text) > 0, 2.0, 0.0)) / 4.0
    order = tf.cast(segments.ids, tf.float64) + tf.cast(place, tf.float64)
    order = tf.where(segments.ids > 0, order, tf.float64.max)
    return tf.gather(ids, tf.argsort(order, axis=1, stable=True), batch_dims=1)


def offset_of_text(segments: Segments, text: tf.Tensor) -> tf.Tensor:
    """Returns the place where each segment's text begins: [B,Q] int32."""
    length = tf.shape(text)[1]
    return tf.minimum(segments.least_of(tf.where(text, tf.range(length), length)), length)
