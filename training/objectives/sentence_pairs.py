"""Two parts of a text and whether they belong together, learnt beside masked tokens.

Next sentence (Devlin et al., 2019): is the second part the first one's continuation? Sentence order (Lan et al., 2020): which
of the two comes first? Shapes: B rows, T places of a row, Q segments of a row at most, P predicted places of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from training.configuration import key
from training.objectives.base import split_seed
from training.objectives.masked_lm import Masking
from training.objectives.segments import Segments
from training.objectives.texts import text_places, texts_of

TRIES = 8
"""Texts that are looked at for a second part of the right length; the first may be the part's own."""


@dataclass(frozen=True, kw_only=True)
class SentencePairs(Masking):
    """Base: each segment is split in two, and one of the two special tokens at its end moves between them.

    The split is at a sentence's start, any but the first, drawn anew whenever the row is seen; in a text of one sentence at the
    start of a word, in its middle half where there is one; or else at any token.

    x: `token_ids`, `segment_ids`, `positions`, `type_ids` [B,T], `mask_positions` [B,P], `text_positions` [B,Q], where segments
    begin; y: (mask_ids [B,P], labels [B,Q]) int32; weights: (mask_weights [B,P], [B,Q]) float32. A text of one token cannot be
    split: its label has weight 0.
    """

    layout = "pair"
    task = "masked-lm-with-pairs"

    most_segments: int | None = key(
        "segments of a row at most, checked; default: as many as a batch has", None, least=1
    )

    def made(self, rows, seed):
        for_pairs, for_masks = split_seed(seed, 2)
        segments = texts_of(rows["segment_ids"], self.most_segments)
        ids, type_ids, labels, judged = self.paired(rows, segments, for_pairs)
        hidden = self.masked({**rows, "token_ids": ids}, for_masks)
        x = {
            "token_ids": hidden["token_ids"],
            "segment_ids": rows["segment_ids"],
            "positions": rows["positions"],
            "type_ids": type_ids,
            "mask_positions": hidden["mask_positions"],
            "text_positions": text_places(segments)[0],
        }
        return x, (hidden["mask_ids"], labels), (hidden["mask_weights"], tf.cast(judged, tf.float32))

    def paired(
        self, rows: Mapping[str, tf.Tensor], segments: Segments, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns token ids and type ids [B,T], labels [B,Q] int32 and whether they count [B,Q] bool."""
        for_split, for_labels, for_donors = split_seed(seed, 3)
        ids, text = rows["token_ids"], rows["sentence_ids"] > 0
        shape = tf.shape(ids)
        places = tf.broadcast_to(tf.range(shape[1]), shape)
        rank = self._split_ranks(rows, segments, text)
        # The best split's place: of equal ranks, one at random.
        draws = tf.where(rank > 0, tf.cast(rank, tf.float32) + tf.random.stateless_uniform(shape, for_split), 0.0)
        best = (rank > 0) & (draws == segments.spread(segments.most_of(draws)))
        split = segments.least_of(tf.where(best, places, shape[1]))
        judged = split < shape[1]
        begin = tf.where(judged, segments.least_of(tf.where(text, places, shape[1])), 0)
        end = tf.where(judged, segments.most_of(tf.where(text, places, -1)) + 1, 0)
        split = tf.where(judged, split, 0)

        changed = judged & (tf.random.stateless_uniform(tf.shape(judged), for_labels) < 0.5)
        row_begins = tf.range(shape[0])[:, None] * shape[1]
        parts = tf.stack([begin, split, split, end], axis=-1) + row_begins[:, :, None]
        first, second, changed = self._parts(rows, segments, parts, changed, rank, for_donors)

        # What each place of a split segment now holds: a place of the flat batch.
        length = first[1] - first[0]
        inside = segments.spread(tf.cast(judged, tf.int32)) > 0
        within = places - segments.spread(begin)
        gap = segments.spread(length)
        size = segments.spread(end - begin)
        here = row_begins + places
        source = tf.where(
            within < gap,
            segments.spread(first[0]) + within,
            tf.where(within <= size, segments.spread(second[0]) + within - gap - 1, here - 1),
        )
        source = tf.where(inside & (within >= 0), source, here)
        separator = inside & (within == gap)
        flat = tf.reshape(ids, [-1])
        moved = tf.gather(flat, tf.where(separator, 0, source))
        last = tf.gather(flat, tf.maximum(segments.spread(text_places(segments)[1]) + row_begins, 0))
        type_ids = tf.where(inside & (within > gap), self.second_type, 0)
        return tf.where(separator, last, moved), type_ids, tf.cast(changed, tf.int32), judged

    @property
    def second_type(self) -> int:
        """The type of a pair's second text, as the tokenizer's template says."""
        return next((part.type_id for part in self.tokenizer.template.pair if part.source == "second"), 1)

    def _split_ranks(self, rows: Mapping[str, tf.Tensor], segments: Segments, text: tf.Tensor) -> tf.Tensor:
        """Returns how well each place would do as the second part's first [B,T] int32; 0 for those that cannot."""
        sentence = rows["sentence_ids"]
        before = tf.pad(sentence, [[0, 0], [1, 0]])[:, :-1]
        number, count = segments.before(text), segments.spread(segments.count(text))
        possible = text & (number > 0)
        word = tf.gather(self._begins_word, rows["token_ids"])
        middle = (4 * number >= count) & (4 * number <= 3 * count)
        rank = tf.where(word, tf.where(middle, MIDDLE_WORD, WORD), TOKEN)
        return tf.where(possible, tf.where(sentence != before, SENTENCE, rank), 0)

    def _parts(self, rows, segments, parts, changed, rank, seed):
        """Returns the begins and ends of first and second parts, [B,Q] places of the flat batch each, and labels [B,Q] bool.

        Args:
            parts: [B,Q,4]: begin and end of each segment's two parts.
            changed: [B,Q] bool, those that are to get label 1. rank: [B,T], see `_split_ranks`.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what pairs it makes")


TOKEN, WORD, MIDDLE_WORD, SENTENCE = 1, 2, 3, 4
"""Places to split at, the better the higher."""


@dataclass(frozen=True, kw_only=True)
class NextSentence(SentencePairs):
    """Label 0: the second part is the first one's continuation; 1, for half of the segments: it comes from another segment.

    Another second part is as long as the one that it replaces, so that rows stay full. It begins where its text could have
    been split (at a sentence's start where the segment was split at one, else at a word's), and among all such places of
    the batch at one whose text goes on for as many tokens, or for as few more as there are: those are left out. A segment
    whose second part is longer than all others of the batch, the only segment of a batch for one, keeps its own and label
    0.
    """

    def _parts(self, rows, segments, parts, changed, rank, seed):
        first, (begin, end) = (parts[..., 0], parts[..., 1]), (parts[..., 2], parts[..., 3])
        text = rows["sentence_ids"] > 0
        wide = tf.shape(rank)[1] + 1
        # A candidate's key says what kind of place it is, and how many tokens of its text it and those behind it are.
        left = segments.spread(segments.count(text)) - segments.before(text)
        keys = tf.reshape(tf.where(rank > 0, kinds(rank) * wide + left, tf.int32.max), [-1])
        # Of equal keys any may be the first.
        order = tf.argsort(tf.random.stateless_uniform(tf.shape(keys), seed))
        order = tf.gather(order, tf.argsort(tf.gather(keys, order), stable=True))
        keys = tf.gather(keys, order)
        numbers = tf.range(tf.shape(rank)[0])[:, None] * (segments.most + 1)
        owners = tf.gather(tf.reshape(segments.ids + numbers, [-1]), order)

        length = end - begin
        kind = kinds(tf.gather(tf.reshape(rank, [-1]), begin))
        wanted = tf.reshape(kind * wide + length, [-1])
        own = tf.reshape(tf.range(1, segments.most + 1) + numbers, [-1])
        above = tf.reshape((kind + 1) * wide, [-1])
        donor = tf.fill(tf.shape(wanted), -1)
        for further in range(TRIES):
            at = tf.searchsorted(keys, wanted) + further
            inside = tf.minimum(at, tf.size(keys) - 1)
            fits = (at == inside) & (tf.gather(keys, inside) < above) & (tf.gather(owners, inside) != own)
            donor = tf.where((donor < 0) & fits, tf.gather(order, inside), donor)
        donor = tf.reshape(donor, tf.shape(begin))
        changed &= donor >= 0
        begin = tf.where(changed, donor, begin)
        return first, (begin, begin + length), changed


def kinds(rank: tf.Tensor) -> tf.Tensor:
    """Returns 2 for a sentence's start, 1 for a word's, 0 for other tokens."""
    return tf.where(rank == SENTENCE, 2, tf.where(rank > TOKEN, 1, 0))


@dataclass(frozen=True, kw_only=True)
class SentenceOrder(SentencePairs):
    """Label 0: the parts stand in their order; 1, for half of the segments: they are swapped."""

    def _parts(self, rows, segments, parts, changed, rank, seed):
        first, second = (parts[..., 0], parts[..., 1]), (parts[..., 2], parts[..., 3])
        swapped = lambda ours, theirs: tuple(tf.where(changed, b, a) for a, b in zip(ours, theirs, strict=True))
        return swapped(first, second), swapped(second, first), changed
