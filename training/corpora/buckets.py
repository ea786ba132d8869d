"""An index on disk from 64-bit keys to the number of the first document that had each: sorted runs, merged as they grow.

New keys gather in memory, up to `MOST_HELD`, and are then written as a sorted run; runs of like sizes are merged, so that there
are few (a log-structured merge tree, O'Neil et al. 1996). Of a run only every 256th key is in memory; a look-up reads the pages
that may hold a key. index.json says which runs count: a run that was being written when the process died does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

MOST_HELD = 1 << 22  # keys in memory, 16 bytes each
_PAGE = 256  # entries, 16 bytes each: one disk block
_BLOCK = 1 << 18  # entries that are read at a time when runs are merged
_GAP = 4  # pages that are rather read than skipped
_INDEX = "index.json"


class Buckets:
    """The index in a directory, made if there is none, otherwise as it was when `save` was last called.

    Args:
        settings: what the keys depend on, as JSON holds it; ValueError where the directory's are others.
        most_held: keys that gather in memory.
    """

    def __init__(self, directory: str | Path, settings: dict, *, most_held: int = MOST_HELD):
        self.directory, self.settings, self.most_held = Path(directory), settings, most_held
        self.directory.mkdir(parents=True, exist_ok=True)
        self.documents, self._made, names = 0, 0, []
        index = self.directory / _INDEX
        if index.exists():
            saved = json.loads(index.read_text(encoding="utf-8"))
            if saved["settings"] != settings:
                raise ValueError(
                    f"{directory}: an index of duplicates with other settings ({saved['settings']}, not {settings}); "
                    "remove it or give another directory"
                )
            self.documents, self._made, names = saved["documents"], saved["made"], saved["runs"]
        for path in self.directory.glob("*.run"):
            if path.name not in names:
                path.unlink()
        self._runs = [_Run(self.directory / name) for name in names]
        self._held: list[
            np.ndarray
        ] = []  # sorted entries [*,2], keys and numbers; each array at most half of the one before

    def first(self, keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Returns the number of the first document that had each key, int64 [M], and adds the keys that are new.

        Args:
            keys: uint64 [M].
            numbers: of the documents that have them, int64 [M], never lower than those before.
        """
        unique, places, inverse = np.unique(keys, return_index=True, return_inverse=True)
        firsts = np.full(len(unique), -1, np.int64)
        for look_up in (*(_finder(held) for held in self._held), *(run.find for run in self._runs)):
            missing = np.flatnonzero(firsts < 0)
            firsts[missing] = look_up(unique[missing])
        new = firsts < 0
        firsts[new] = numbers[places[new]]
        if new.any():
            self._hold(np.stack([unique[new], firsts[new].view(np.uint64)], axis=1))
        return firsts[inverse]

    def is_full(self) -> bool:
        """Returns whether it is time to `save`."""
        return sum(map(len, self._held)) >= self.most_held

    def save(self, documents: int) -> None:
        """Writes what is in memory, all keys of that many documents, so that an index that is opened later has it."""
        self.documents = documents
        if self._held:
            while len(self._held) > 1:
                self._merge_held()
            self._runs.append(self._written(iter(self._held)))
            self._held = []
        old = []
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            pair = self._runs[-2:]
            self._runs[-2:] = [self._written(_merged(*pair))]
            old += pair
        saved = {
            "settings": self.settings,
            "documents": documents,
            "made": self._made,
            "runs": [run.path.name for run in self._runs],
        }
        aside = self.directory / f"{_INDEX}.writing"
        aside.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.directory / _INDEX)
        for run in old:
            run.remove()

    def _hold(self, entries: np.ndarray) -> None:
        self._held.append(entries)
        while len(self._held) > 1 and len(self._held[-2]) < 2 * len(self._held[-1]):
            self._merge_held()

    def _merge_held(self) -> None:
        self._held[-2:] = [_sorted(np.concatenate(self._held[-2:]))]

    def _written(self, blocks: Iterator[np.ndarray]) -> _Run:
        self._made += 1
        path = self.directory / f"{self._made:06d}.run"
        with path.open("wb") as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block))
        return _Run(path)


class _Run:
    """A file of sorted entries."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._length = os.fstat(self._file.fileno()).st_size // 16
        self._fences = np.concatenate([block[::_PAGE, 0].copy() for block in self.blocks()])

    def __len__(self) -> int:
        return self._length

    def read(self, begin: int, end: int) -> np.ndarray:
        """Returns entries [begin, end), uint64 [*,2]."""
        return np.frombuffer(os.pread(self._file.fileno(), 16 * (end - begin), 16 * begin), np.uint64).reshape(-1, 2)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields all entries, some at a time."""
        for begin in range(0, self._length, _BLOCK):
            yield self.read(begin, min(begin + _BLOCK, self._length))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Returns the numbers of sorted keys, -1 for those that are not here."""
        found = np.full(len(keys), -1, np.int64)
        pages = np.searchsorted(self._fences, keys, side="right") - 1
        here = np.flatnonzero(pages >= 0)
        if not len(here):
            return found
        # Pages that lie near one another are read together.
        cuts = np.flatnonzero(np.diff(pages[here]) > _GAP) + 1
        for part in np.split(here, cuts):
            for begin in range(0, len(part), _BLOCK // _PAGE):
                some = part[begin : begin + _BLOCK // _PAGE]
                first, last = int(pages[some[0]]), int(pages[some[-1]])
                entries = self.read(first * _PAGE, min((last + 1) * _PAGE, self._length))
                found[some] = _finder(entries)(keys[some])
        return found

    def remove(self) -> None:
        self._file.close()
        self.path.unlink()


def _finder(entries: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def find(keys: np.ndarray) -> np.ndarray:
        places = np.minimum(np.searchsorted(entries[:, 0], keys), len(entries) - 1)
        return np.where(entries[places, 0] == keys, entries[places, 1].view(np.int64), -1)

    return find


def _sorted(entries: np.ndarray) -> np.ndarray:
    # Stable sorting takes runs that are sorted already as they are.
    return entries[np.argsort(entries[:, 0], kind="stable")]


def _merged(*runs: _Run) -> Iterator[np.ndarray]:
    """Yields the entries of two runs in order; no key is in both."""
    blocks = [run.blocks() for run in runs]
    parts = [next(each, None) for each in blocks]
    while all(part is not None for part in parts):
        # All that is not above the last entry of either is known.
        bound = min(part[-1, 0] for part in parts)
        ends = [int(np.searchsorted(part[:, 0], bound, side="right")) for part in parts]
        yield _sorted(np.concatenate([part[:end] for part, end in zip(parts, ends, strict=True)]))
        for side, end in enumerate(ends):
            rest = parts[side][end:]
            parts[side] = rest if len(rest) else next(blocks[side], None)
    for part, others in zip(parts, blocks, strict=True):
        if part is not None:
            yield part
            yield from others
