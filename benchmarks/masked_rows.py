"""What pre-training is measured on: full rows of a tokenised corpus with masks, the same for every side. NumPy only.

Texts stand one behind the other in their special tokens and are cut into rows, as Hugging Face's example does ("grouped
texts"): no place is padding. Shapes: R rows, T places of a row, P masked places of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the predicted tokens; the rest stay (Devlin et al., 2019)


@dataclass(frozen=True)
class MaskedRows:
    """Token ids, numbers of segments and positions inside them [R,T]; masked places and what stood there [R,P]; all int32."""

    token_ids: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    mask_positions: np.ndarray
    mask_ids: np.ndarray

    def save(self, path: str | Path) -> None:
        """Writes an .npz file."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> MaskedRows:
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**dict(arrays))

    def batches(self, rows: int) -> Iterator[MaskedRows]:
        """Yields batches of `rows` rows without end."""
        count = len(self.token_ids) // rows
        while True:
            for index in range(count):
                yield MaskedRows(
                    **{name: value[index * rows : (index + 1) * rows] for name, value in vars(self).items()}
                )


def masked_places(length: int, rate: float) -> int:
    """Returns P, how many places of each row are predicted."""
    return math.ceil(rate * length)


def grouped(
    texts: Sequence[Sequence[int]],
    *,
    rows: int,
    length: int,
    rate: float,
    mask_id: int,
    special_ids: Sequence[int],
    vocabulary_size: int,
    seed: int,
) -> MaskedRows:
    """Returns `rows` rows of tokenised texts, special tokens included, with masks; starts over where texts are too few."""
    draw = np.random.default_rng(seed)
    sizes = np.array([len(text) for text in texts])
    ids = np.concatenate([np.asarray(text, np.int32) for text in texts])
    numbers = np.repeat(np.arange(len(texts)), sizes)
    places = np.arange(rows * length) % len(ids)
    token_ids, numbers = ids[places].reshape(rows, length), numbers[places].reshape(rows, length)
    starts = np.diff(numbers, axis=1, prepend=numbers[:, :1] - 1) != 0
    segment_ids = np.cumsum(starts, axis=1, dtype=np.int32)
    index = np.broadcast_to(np.arange(length, dtype=np.int32), token_ids.shape)
    positions = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    # The places with the highest random numbers; special tokens rank below all others.
    ranks = np.where(np.isin(token_ids, special_ids), -1.0, draw.random(token_ids.shape))
    chosen = np.sort(np.argsort(-ranks, axis=1)[:, : masked_places(length, rate)], axis=1).astype(np.int32)
    originals = np.take_along_axis(token_ids, chosen, axis=1)
    fate = draw.random(chosen.shape)
    randoms = draw.integers(0, vocabulary_size, chosen.shape, np.int32)
    hidden = np.where(
        fate < MASK_SHARE, mask_id, np.where(fate < MASK_SHARE + RANDOM_SHARE, randoms, originals)
    ).astype(np.int32)
    token_ids = token_ids.copy()
    np.put_along_axis(token_ids, chosen, hidden, axis=1)
    return MaskedRows(token_ids, segment_ids, positions.astype(np.int32), chosen, originals)
