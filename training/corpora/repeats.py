"""Runs of sentences that were there before, such as notices and menus that many pages share: all but the first are left out.

C4 does so with runs of three (Raffel et al. 2020, section 2.2: "we discarded all but one of any three-sentence span occurring
more than once"). Workers hash the runs (`Runs`, a pure function); one process feeds the hashes in corpus order to `Repeats`,
which keeps the first place of each on disk. Letters: N documents, M runs of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.corpora.buckets import MOST_HELD, Buckets
from training.corpora.documents import without_empty_lines
from training.corpora.duplicates import bucket_keys
from training.corpora.minhash import Fingerprints, mixed
from training.corpora.sentences import sentences


class Runs:
    """Hashes the runs of so many sentences that texts have; case and white space make no difference."""

    def __init__(self, length: int):
        self.length = length
        self._fingerprints = Fingerprints()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many runs each text has, int64 [N], and the hashes of all, uint64 [M]: one for each sentence that has
        enough others behind it."""
        parts = [sentences(text) for text in texts]
        lengths = np.array([len(each) for each in parts], np.int64)
        counts = np.maximum(lengths - self.length + 1, 0)
        keys = bucket_keys(self._fingerprints([part for each in parts for part in each]), None, None)[:, 0]
        hashes = np.full(max(len(keys) - self.length + 1, 0), self.length, np.uint64)
        for offset in range(self.length):
            hashes = mixed(hashes + keys[offset : offset + len(hashes)])
        # Not those that would go on in the next text.
        within = np.arange(len(keys)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return counts, hashes[(within < np.repeat(counts, lengths))[: len(hashes)]]

    def without(self, text: str, repeated: np.ndarray) -> str:
        """Returns a text without the sentences of its runs that are repeated, bool [runs of the text]."""
        if not repeated.any():
            return text
        parts = sentences(text)
        gone = np.zeros(len(parts), bool)
        for offset in range(self.length):
            gone[offset : offset + len(repeated)] |= repeated
        return without_empty_lines("".join(part for part, left_out in zip(parts, gone, strict=True) if not left_out))


class Repeats:
    """Tells which runs were there before, in corpus order; the index is on disk, 16 bytes for each that is new.

    A process that goes on after another was killed feeds all runs again, and is told the same.

    Args:
        directory: for the index; made if there is none.
        length: sentences of a run.
        most_held: keys of the index in memory, 16 bytes each.

        >>> runs, repeats = Runs(1), Repeats(scratch, 1)
        >>> repeats.judge(runs(["One. Two. One."])[1], 0).tolist()
        [False, False, True]
    """

    def __init__(self, directory: str | Path, length: int, *, most_held: int = MOST_HELD):
        self._buckets = Buckets(directory, {"sentences": length}, most_held=most_held)
        self._fed = self._buckets.documents

    def judge(self, hashes: np.ndarray, start: int) -> np.ndarray:
        """Returns which runs were there before, bool [M].

        Args:
            hashes: of the next runs, uint64 [M].
            start: the number of the first of them, counted from 0.
        """
        numbers = np.arange(start, start + len(hashes))
        if not len(hashes):
            return np.zeros(0, bool)
        repeated = self._buckets.first(hashes, numbers) < numbers
        self._fed = max(self._fed, start + len(hashes))
        if self._buckets.is_full():
            self.close()
        return repeated

    def close(self) -> None:
        """Writes the index."""
        self._buckets.save(self._fed)
