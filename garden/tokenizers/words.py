"""What passes between a pipeline's steps and its model: words as symbols, and the pieces that a model makes of them.

Letters: N symbols, W words, P pieces.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import tensorflow as tf


class Words(NamedTuple):
    """Words, one after the other. Symbols are code points, or bytes (0 to 255) in a byte-level pipeline."""

    symbols: tf.Tensor  # [N] int32
    splits: tf.Tensor  # [W+1] int64: where each word begins, and N


class WordPieces(NamedTuple):
    """The pieces of words, in order."""

    ids: tf.Tensor  # [P] int32
    splits: tf.Tensor  # [W+1] int64: the index of each word's first piece, and P
    starts: tf.Tensor  # [P] int32: the first symbol that a piece stands for, counted from the first word's first
    ends: tf.Tensor  # [P] int32: one past the last; pieces of one character's bytes all stand for that character


class WordModel(Protocol):
    """Splits words into pieces of a vocabulary; each word by itself, and in time near linear in its length.

    The words of a call should be distinct: a caller looks each up once and gathers the pieces back.
    """

    def __call__(self, words: Words) -> WordPieces:
        """The pieces of all words."""
        ...
