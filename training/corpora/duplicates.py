"""Documents that were there before: the same text, or nearly the same, found with bounded memory whatever the corpus's size.

Workers make fingerprints in parallel (`minhash.Fingerprints`, a pure function); one process feeds them in corpus order to
`Duplicates`, which keeps them, and an index of them (`buckets`), on disk. Two documents share a bucket if a band of their
signatures is equal (locality-sensitive hashing, Indyk and Motwani 1998). A document is a near duplicate if it agrees, over the
whole signature, with the first document of one of its buckets. That depends on the documents and their order alone: not on
batches, on processes, or on whether that first document was kept, so that a cluster may also find it by grouping keys.

Letters: N documents, F places of a fingerprint, K keys (buckets) of a document.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.corpora.buckets import MOST_HELD, Buckets
from training.corpora.minhash import HASH, NOTHING, Fingerprints, MinHash, bands, mixed, similarity

_BATCH = 4096  # documents that are looked up at a time
_NONE = np.uint64(0)  # no key
_VERDICT = np.dtype([("first", "<i8"), ("exact", "?")])


@dataclass(frozen=True)
class Verdicts:
    """What was found of N documents: `first` int64 [N], the number of an earlier document that is the same or nearly so, -1
    where there is none; `exact` bool [N], whether the text is the same."""

    first: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def duplicate(self) -> np.ndarray:
        """Whether each document is to be dropped, bool [N]."""
        return self.first >= 0

    @property
    def counts(self) -> Counter[str]:
        """Duplicates of either kind, as `CleaningReport.counts` names them."""
        exact = int(self.exact.sum())
        return Counter(
            {"dropped exact_duplicates": exact, "dropped near_duplicates": int(self.duplicate.sum()) - exact}
        )


class Duplicates:
    """Judges documents in corpus order; what was judged is on disk, and stays judged when the process is killed.

    Args:
        directory: for fingerprints and the index, about 860 bytes a document with the default settings; made if there is none.
        near: estimated Jaccard similarity from which on documents count as the same; None: exact duplicates only.
        minhash: how near ones are found.
        most_held: keys of the index in memory, 16 bytes each.

    Raises ValueError where the directory holds an index of other settings.

        >>> duplicates = Duplicates(scratch, near=0.8)
        >>> duplicates.judge(duplicates.fingerprints(["one text", "another", "One  text"])).duplicate.tolist()
        [False, False, True]
    """

    def __init__(
        self,
        directory: str | Path,
        near: float | None = None,
        minhash: MinHash | None = None,
        *,
        most_held: int = MOST_HELD,
    ):
        self.near = near
        self.minhash = None if near is None else minhash or MinHash()
        self.fingerprints = Fingerprints(self.minhash)
        settings = {"near": near, "minhash": None if near is None else vars(self.minhash)}
        self._buckets = Buckets(directory, settings, most_held=most_held)
        self._size = 4 * self.fingerprints.width
        paths = [Path(directory) / name for name in ("fingerprints.bin", "verdicts.bin")]
        self._files = [open(path, "a+b", buffering=0) for path in paths]  # noqa: SIM115 (closed by `close`)
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._judged = min(sizes[0] // self._size, sizes[1] // _VERDICT.itemsize)
        # What a killed process had begun to write.
        self._files[0].truncate(self._judged * self._size)
        self._files[1].truncate(self._judged * _VERDICT.itemsize)
        for begin in range(self._buckets.documents, self._judged, _BATCH):
            numbers = np.arange(begin, min(begin + _BATCH, self._judged))
            self._look_up(self._read(numbers), numbers)

    def __len__(self) -> int:
        """The number of documents that have been judged: the next one's number."""
        return self._judged

    def judge(self, fingerprints: np.ndarray, start: int | None = None) -> Verdicts:
        """Judges the next documents by their fingerprints, uint32 [N,F].

        Args:
            start: the number of the first of them; default: the next. Those that were judged before get the same verdicts
                again, so that a build that goes on after a kill may begin anywhere before `len(self)`.

        Raises ValueError for documents that are not those that were judged under their numbers, or that leave some out.
        """
        start = self._judged if start is None else start
        if not 0 <= start <= self._judged:
            raise ValueError(f"document {start}: the next one is {self._judged}; feed documents in corpus order")
        known = min(self._judged - start, len(fingerprints))
        parts = []
        for begin in range(0, known, _BATCH):
            numbers = np.arange(start + begin, start + min(begin + _BATCH, known))
            differ = (self._read(numbers) != fingerprints[begin : begin + len(numbers)]).any(axis=1)
            if differ.any():
                raise ValueError(
                    f"document {numbers[differ.argmax()]} is not the one that was judged before: sources or cleaning have "
                    f"changed; remove {self._buckets.directory}"
                )
            parts.append(self._verdicts(numbers))
        for begin in range(known, len(fingerprints), _BATCH):
            parts.append(self._judge(np.ascontiguousarray(fingerprints[begin : begin + _BATCH], np.uint32)))
        found = np.concatenate([np.zeros(0, _VERDICT), *parts])
        return Verdicts(found["first"], found["exact"])

    def verdicts(self, begin: int, end: int) -> Verdicts:
        """Returns the verdicts on documents [begin, end), which have been judged."""
        found = self._verdicts(np.arange(begin, min(end, self._judged)))
        return Verdicts(found["first"], found["exact"])

    def save(self) -> None:
        """Writes the index, so that opening it again takes no time; verdicts are on disk anyway."""
        self._buckets.save(self._judged)

    def close(self) -> None:
        """Saves and closes the files."""
        self.save()
        for file in self._files:
            file.close()

    def __enter__(self) -> Duplicates:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _judge(self, fingerprints: np.ndarray) -> np.ndarray:
        numbers = np.arange(self._judged, self._judged + len(fingerprints))
        firsts_NK = self._look_up(fingerprints, numbers)
        verdicts = np.zeros(len(numbers), _VERDICT)
        verdicts["first"] = -1
        rows, columns = np.nonzero((firsts_NK >= 0) & (firsts_NK < numbers[:, None]))
        if len(rows):
            # A pair of documents often shares several buckets; pairs come sorted by the later and then the earlier document.
            pairs = np.unique(np.stack([rows, firsts_NK[rows, columns]], axis=1), axis=0)
            rows, firsts = pairs.T
            theirs = self._earlier(firsts, fingerprints)
            exact = (fingerprints[rows, :HASH] == theirs[:, :HASH]).all(axis=1)
            near = (
                np.zeros(len(rows), bool) if self.near is None else similarity(fingerprints[rows], theirs) >= self.near
            )
            # What comes last stands: the earliest of each kind, and a same text before a similar one.
            for which in (near, exact):
                verdicts["first"][rows[which][::-1]] = firsts[which][::-1]
            verdicts["exact"][rows[exact]] = True
        self._files[0].write(fingerprints)
        self._files[1].write(verdicts)
        self._judged += len(numbers)
        if self._buckets.is_full():
            self.save()
        return verdicts

    def _look_up(self, fingerprints: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Returns the first document in each document's buckets, int64 [N,K], -1 for no bucket; adds them to the index."""
        keys_NK = bucket_keys(fingerprints, self.near, self.minhash)
        firsts_NK = np.full(keys_NK.shape, -1, np.int64)
        some = keys_NK != _NONE
        numbers_NK = np.broadcast_to(numbers[:, None], keys_NK.shape)
        firsts_NK[some] = self._buckets.first(keys_NK[some], numbers_NK[some])
        return firsts_NK

    def _earlier(self, numbers: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Returns the fingerprints of documents judged before or now, [*,F]."""
        unique, inverse = np.unique(numbers, return_inverse=True)
        old = unique[unique < self._judged]
        return np.concatenate([self._read(old), current[unique[len(old) :] - self._judged]])[inverse]

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns fingerprints of documents that have been judged; their numbers are sorted."""
        return self._records(self._files[0], numbers, np.dtype((np.uint32, (self.fingerprints.width,))))

    def _verdicts(self, numbers: np.ndarray) -> np.ndarray:
        return self._records(self._files[1], numbers, _VERDICT)

    @staticmethod
    def _records(file, numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
        parts = [np.zeros(0, dtype)]
        for some in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(some):
                data = os.pread(file.fileno(), len(some) * dtype.itemsize, int(some[0]) * dtype.itemsize)
                parts.append(np.frombuffer(data, dtype))
        return np.concatenate(parts)


def bucket_keys(fingerprints: np.ndarray, near: float | None, minhash: MinHash | None) -> np.ndarray:
    """Returns the keys of the buckets of fingerprints [N,F], uint64 [N,K]: of the text, and of each band; 0 for none.

    Documents with a key in common are compared: see `similarity`.
    """
    halves = fingerprints[:, :HASH].astype(np.uint64)
    keys = [mixed(halves[:, 0] << np.uint64(32) | halves[:, 1])]
    if near is not None:
        number, rows = bands(near, minhash.permutations, minhash.recall)
        signatures = fingerprints[:, HASH:]
        empty = (signatures == NOTHING).all(axis=1)
        for band in range(number):
            hashes = np.full(len(fingerprints), band + 1, np.uint64)
            for column in range(band * rows, (band + 1) * rows):
                hashes = mixed(hashes + signatures[:, column])
            keys.append(np.where(empty, _NONE, np.maximum(hashes, np.uint64(1))))
    return np.stack(keys, axis=1)
