"""An n-gram model with interpolated, modified Kneser-Ney smoothing (Chen and Goodman, 1998): what a decoder has to beat.

It is made of token ids, so that both models read the same tokens. Counting is sorting: an n-gram's number is its place among
the sorted pairs of (number of its first n-1 tokens, last token), and looking one up is a binary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length, sorted."""

    keys: np.ndarray
    """Of each: number of its first n-1 tokens * vocabulary size + last token."""

    discounted: np.ndarray
    """Of each: its count less its discount."""

    totals: np.ndarray
    """Of each context: the sum of the counts of the n-grams that begin with it."""

    left_over: np.ndarray
    """Of each context: what the discounts leave to shorter n-grams."""


class KneserNey:
    """Probabilities of tokens after up to `order` - 1 others of the same document.

        model = KneserNey(documents, vocabulary_size=8192)
        model.log2(document)   # [L]: of each token, after those before it

    Args:
        documents: token ids, one sequence a document. A document's beginning is a context too.
        vocabulary_size: ids are smaller than it; a token never seen has a share of what the discounts leave.
        order: the n in n-gram.
    """

    def __init__(self, documents: Sequence[Sequence[int]], *, vocabulary_size: int, order: int = 5):
        self.vocabulary_size, self.order = vocabulary_size + 1, order
        tokens, places = self._joined(documents)
        self._orders: list[_Order] = []
        numbers = [np.zeros_like(tokens)]  # of the 0-gram, the 1-gram, ... that end at each place
        for length in range(1, order + 1):
            keys = self._keys(numbers[-1], tokens)
            whole = places >= length - 1
            found, inverse = np.unique(keys[whole], return_inverse=True)
            number = np.full(len(tokens), -1)
            number[whole] = inverse
            numbers.append(number)
            self._orders.append(_Order(found, np.bincount(inverse), np.empty(0), np.empty(0)))
        self._orders = [self._smoothed(numbers, places, length) for length in range(1, order + 1)]

    def log2(self, document: Sequence[int]) -> np.ndarray:
        """Returns the base-2 logarithm of each token's probability [L]."""
        return self.log2_of_all([document])

    def log2_of_all(self, documents: Sequence[Sequence[int]]) -> np.ndarray:
        """Returns the same of many documents, one after another [total length]."""
        tokens, places = self._joined(documents)
        probability = np.full(len(tokens), 1 / (self.vocabulary_size - 1))
        number = np.zeros_like(tokens)
        for length, order in enumerate(self._orders, start=1):
            context = np.zeros_like(tokens) if length == 1 else np.concatenate([[-1], number[:-1]])
            keys = np.where(context >= 0, context * self.vocabulary_size + tokens, -1)
            place = np.minimum(np.searchsorted(order.keys, keys), len(order.keys) - 1)
            seen = (order.keys[place] == keys) & (places >= length - 1)
            known = (context >= 0) & (places >= length - 1)
            total = np.where(known, order.totals[context], 0)
            known &= total > 0
            own = np.where(seen, order.discounted[place], 0.0)
            mixed = (own + order.left_over[context] * probability) / np.maximum(total, 1)
            probability = np.where(known, mixed, probability)
            number = np.where(seen, place, -1)
        return np.log2(probability[places > 0])

    def _joined(self, documents) -> tuple[np.ndarray, np.ndarray]:
        """Returns all tokens with a beginning before each document, and each one's place in its document (beginning: 0)."""
        begin = self.vocabulary_size - 1
        lengths = np.asarray([len(document) + 1 for document in documents])
        tokens = np.concatenate([np.concatenate([[begin], document]) for document in documents]).astype(np.int64)
        return tokens, np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    def _keys(self, shorter: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Returns each place's n-gram as one number, from the (n-1)-grams that end before it (of 1-grams: the token)."""
        if not self._orders:
            return tokens
        return np.concatenate([[-1], shorter[:-1]]) * self.vocabulary_size + tokens

    def _smoothed(self, numbers: list[np.ndarray], places: np.ndarray, length: int) -> _Order:
        order = self._orders[length - 1]
        counts = order.discounted
        if length < self.order:
            # Of shorter n-grams it counts how many different tokens stand before them; before a document's first stands none.
            _, first = np.unique(numbers[length + 1], return_index=True)
            first = first[numbers[length + 1][first] >= 0]
            before = np.bincount(numbers[length][first], minlength=len(counts))
            begins = np.zeros(len(counts), bool)
            begins[numbers[length][places == length - 1]] = True
            counts = np.where(begins, counts, before)
        if length == 1:
            counts = np.where(order.keys == self.vocabulary_size - 1, 0, counts)  # a beginning is never predicted
        often = [np.sum(counts == times) for times in (1, 2, 3, 4)]
        share = often[0] / max(often[0] + 2 * often[1], 1)
        discounts = np.asarray(
            [0.0] + [n - (n + 1) * share * often[n] / max(often[n - 1], 1) for n in (1, 2, 3)], np.float64
        )
        discounts = np.clip(discounts, 0, [0, 1, 2, 3])
        discount = discounts[np.minimum(counts, 3)]
        contexts = order.keys // self.vocabulary_size if length > 1 else np.zeros(len(counts), np.int64)
        size = len(self._orders[length - 2].keys) if length > 1 else 1
        return _Order(
            order.keys,
            counts - discount,
            np.bincount(contexts, weights=counts, minlength=size),
            np.bincount(contexts, weights=discount, minlength=size),
        )
