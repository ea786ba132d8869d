"""Entities: what the classes of neighbouring words say together, in the schemes IO, IOB1, IOB2, IOBES and BILOU.

Shapes: M words in a line, in the order of their texts; C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import tensorflow as tf

OUTSIDE = "O"
"""The class of words that are in no entity."""


class Scheme:
    """How classes' names make entities, as conlleval and seqeval read them.

    Where all classes but "O" begin with a letter of a scheme (`B-PER`, `I-PER`; `B`, `I`, `E`, `S`, `L`, `U`), neighbours with
    one name behind it are one entity, unless a letter says that it begins or ended: an `I-PER` behind an "O" begins one too.
    Classes without letters: neighbours of one class are one entity where there is an "O"; without "O" each word is one.
    """

    def __init__(self, labels: Sequence[str]):
        named = [label for label in labels if label != OUTSIDE]
        parts = [re.fullmatch(r"([BIESLU])[-_](.+)", label, re.DOTALL) for label in named]
        self.has_letters = bool(named) and all(parts)
        self.has_outside = OUTSIDE in labels
        if self.has_letters:
            letters = {label: part[1] for label, part in zip(named, parts, strict=True)}
            types = {label: part[2] for label, part in zip(named, parts, strict=True)}
        else:
            letters = dict.fromkeys(named, "I" if self.has_outside else "S")
            types = {label: label for label in named}
        self.types = list(dict.fromkeys(types.values()))
        self._classes = {(letters[label], types[label]): index for index, label in enumerate(labels) if label in types}
        self._type = tf.constant([self.types.index(types[label]) if label in types else -1 for label in labels])
        self._begins = tf.constant([letters.get(label, "") in ("B", "S", "U") for label in labels])
        self._ends = tf.constant([letters.get(label, "") in ("E", "L", "S", "U") for label in labels])
        self._names = tf.constant(self.types or [""])

    def classes_of(self, label: str) -> tuple[int, int] | None:
        """Returns the classes of an entity's first word and of its others, given its name; None for an unknown name."""
        by_letter = {letter: number for (letter, name), number in self._classes.items() if name == label}
        if not by_letter:
            return None
        first = next(by_letter[letter] for letter in "BISUEL" if letter in by_letter)
        return first, by_letter.get("I", first)

    def group(self, classes_M: tf.Tensor, text_M: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the words that are in entities, by their numbers [K], each one's entity [K], counted from 0, and the
        entities' names.
        """
        type_M = tf.gather(self._type, classes_M)
        before = lambda values, none: tf.concat([tf.fill([1], none), values], axis=0)[: tf.size(classes_M)]
        begins = (
            (type_M != before(type_M, -1))
            | (text_M != before(text_M, tf.constant(-1, text_M.dtype)))
            | tf.gather(self._begins, classes_M)
            | before(tf.gather(self._ends, classes_M), False)
        )
        words = tf.cast(tf.where(type_M >= 0)[:, 0], tf.int32)
        begins = tf.gather(begins, words)
        entity = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        return words, entity, tf.gather(self._names, tf.boolean_mask(tf.gather(type_M, words), begins))
