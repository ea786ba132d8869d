"""Masked language modelling: hidden tokens, words or spans from what stands round them.

Devlin et al. (2019): tokens, and in the code released with it whole words; Joshi et al. (2020, SpanBERT): spans.
Shapes: B rows, T row length, P predicted places of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf

from garden.tasks.masking import begins_word, hide, numbered, predicted_places
from training.configuration import key
from training.objectives.base import Objective, needed, split_seed

UNITS = ("token", "word", "span")
SPAN_CHANCE, LONGEST_SPAN = 0.2, 10
"""SpanBERT's lengths in words: geometric, with a chance of 0.2 to end after each word, and none above 10; 3.8 in the mean."""


@dataclass(frozen=True, kw_only=True)
class Masking(Objective):
    """Base of the objectives that hide tokens and have them predicted, anew whenever a row is seen."""

    layout = "single"
    task = "masked-lm"

    mask_rate: float = key("share of a row's tokens that are predicted", 0.15, above=0, below=1)
    mask_share: float = key("share of these that become the mask", 0.8, least=0, most=1)
    random_share: float = key("share of these that become a random token; the rest stay", 0.1, least=0, most=1)
    unit: str = key("what is hidden together", "token", choices=UNITS)

    def __post_init__(self):
        super().__post_init__()
        needed(self.tokenizer, "mask")
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share, random_share: expected at most 1 together, got {self.mask_share:g} and {self.random_share:g}"
            )

    def masked(self, rows: Mapping[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what `garden.tasks.masking.hide` does, for rows."""
        for_groups, for_places, for_fates = split_seed(seed, 3)
        ordinary = self.ordinary(rows)
        groups = self._groups(rows, ordinary, for_groups)
        positions, counted = predicted_places(
            ordinary,
            for_places,
            rate=self.mask_rate,
            overhead=self.overhead,
            groups=groups,
            whole=self.unit == "word",
        )
        return hide(
            rows["token_ids"],
            positions,
            counted,
            for_fates,
            mask_id=self.tokenizer.mask_id,
            vocabulary_size=self.tokenizer.vocabulary_size,
            shares=(self.mask_share, self.random_share),
            groups=groups if self.unit == "span" else None,
        )

    @cached_property
    def _begins_word(self) -> np.ndarray:
        return begins_word(self.tokenizer)

    def _groups(self, rows: Mapping[str, tf.Tensor], ordinary: tf.Tensor, seed: tf.Tensor) -> tf.Tensor | None:
        """Returns numbers [B,T] of what is hidden together; None for single tokens."""
        if self.unit == "token":
            return None
        words = word_starts(rows, ordinary, self._begins_word)
        if self.unit == "word":
            return numbered(words)
        return numbered(span_starts(barriers(rows, ordinary), words, seed))


@dataclass(frozen=True, kw_only=True)
class MaskedLanguage(Masking):
    """Masked tokens, whole words or spans of words.

    x: `token_ids`, `segment_ids`, `positions` [B,T] and `mask_positions` [B,P]; y: the tokens that stood there [B,P] int32;
    weights [B,P] float32. round(mask_rate * tokens) are predicted in each row, special tokens never; P is as many as a full
    row has. Whole words are chosen in random order while they fit, as in BERT's code, so a row may have a token less. Spans
    of words have the lengths of SpanBERT's; the last is cut off where enough is hidden, and each as a whole is masked,
    random or kept.
    """

    def made(self, rows, seed):
        hidden = self.masked(rows, seed)
        x = {
            "token_ids": hidden["token_ids"],
            "segment_ids": rows["segment_ids"],
            "positions": rows["positions"],
            "mask_positions": hidden["mask_positions"],
        }
        return x, hidden["mask_ids"], hidden["mask_weights"]


def word_starts(rows: Mapping[str, tf.Tensor], ordinary: tf.Tensor, begins: np.ndarray) -> tf.Tensor:
    """Returns where words start [B,T] bool. What is no token of a text counts as a word of its own.

    Args:
        begins: [V] bool, see `garden.tasks.masking.begins_word`.
    """
    return barriers(rows, ordinary) | tf.gather(begins, rows["token_ids"])


def barriers(rows: Mapping[str, tf.Tensor], ordinary: tf.Tensor) -> tf.Tensor:
    """Returns the places [B,T] bool that belong to nothing before them: special tokens, those behind one, new segments."""
    before = tf.pad(ordinary, [[0, 0], [1, 0]])[:, :-1]
    return ~ordinary | ~before | (rows["positions"] == 0)


def span_starts(stops: tf.Tensor, words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns where spans of words start [B,T] bool: from each stop on the words are cut, a random number of them at a time.

    Args:
        stops: [B,T] bool, places that no span goes over. words: [B,T] bool, where words start, at each stop one.
    """
    shape = tf.shape(words)
    length = shape[1]
    chances = SPAN_CHANCE * (1 - SPAN_CHANCE) ** np.arange(LONGEST_SPAN)
    upto = tf.constant(np.cumsum(chances / chances.sum())[:-1], tf.float32)
    drawn = tf.searchsorted(upto, tf.reshape(tf.random.stateless_uniform(shape, seed), [-1]), side="right")
    word = numbered(words)
    # Where the span ends that would begin here: at a word's start, or (`length`) at the next stop.
    ends = tf.searchsorted(word, word + 1 + tf.reshape(drawn, shape))
    block = tf.pad(numbered(stops), [[0, 0], [0, 1]], constant_values=-1)
    ends = tf.where(tf.gather(block, ends, batch_dims=1) == block[:, :-1], ends, length)
    ends = tf.pad(ends, [[0, 0], [0, 1]], constant_values=length)
    starts = tf.pad(tf.cast(stops, tf.int32), [[0, 0], [0, 1]])
    rows = tf.broadcast_to(tf.range(shape[0])[:, None], tf.shape(ends))

    # Which starts are reached from a stop in 1, 2, 4, ... spans.
    def doubled(reach: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        starts = tf.tensor_scatter_nd_max(starts, tf.stack([rows, ends], axis=-1), starts)
        return 2 * reach, starts, tf.gather(ends, ends, batch_dims=1)

    _, starts, _ = tf.while_loop(lambda reach, *_: reach < 2 * length, doubled, (tf.constant(1), starts, ends))
    return starts[:, :-1] > 0
