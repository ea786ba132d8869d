"""What an unfinished build has done, in `.building/` of its directory: a small file for each part read and each chunk built.

A chunk's file is written after its shards, a part's after its last document is read. A build that is run again leaves out what
is done: chunks whose shards have the bytes that their files say, parts all of whose chunks are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.corpora.cleaning import CleaningReport
from training.corpora.documents import ReadReport
from training.corpora.store import SPLITS, Shard
from training.corpora.whole import whole_file
from training.packing import Counts

BUILDING = ".building"
STATE = "state.json"


@dataclass
class ChunkReport:
    """What became of a chunk: its shards, what cleaning dropped, what packing did in each split."""

    source: str
    shards: tuple[Shard, ...] = ()
    cleaning: CleaningReport = field(default_factory=CleaningReport)
    duplicates: int = 0
    packing: dict[str, Counts] = field(default_factory=lambda: {split: Counts() for split in SPLITS})

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the chunk's documents."""
        return sum(shard.text_bytes for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON keeps."""
        return {**dataclasses.asdict(self), "cleaning": self.cleaning.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ChunkReport:
        """Returns a report that `to_dict` wrote."""
        return cls(
            source=values["source"],
            shards=tuple(Shard(**shard) for shard in values["shards"]),
            cleaning=CleaningReport.from_dict(values["cleaning"]),
            duplicates=values["duplicates"],
            packing={split: Counts(**counts) for split, counts in values["packing"].items()},
        )


class Journal:
    """The files in `.building/` of a corpus's directory."""

    def __init__(self, directory: str | Path):
        self.corpus = Path(directory)
        self.directory = self.corpus / BUILDING

    def begin(self, state: dict[str, Any]) -> bool:
        """Makes the directory and notes what is built, or finds it noted; returns whether that is the same."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if (found := read_json(self.directory / STATE)) is not None:
            return found == json.loads(json.dumps(state))
        write_json(self.directory / STATE, state)
        return True

    def path(self, name: str) -> Path:
        """Returns the place of one of the journal's files."""
        return self.directory / name

    def part_read(self, part: str, chunks: int, report: ReadReport) -> None:
        """Notes that a part is read to its end."""
        write_json(self.path(f"{part}.part.json"), {"chunks": chunks, "report": reading_dict(report)})

    def part(self, part: str) -> tuple[int, ReadReport] | None:
        """Returns how many chunks a part has, and what reading found; None where it was not read to its end."""
        values = read_json(self.path(f"{part}.part.json"))
        if values is None:
            return None
        found = values["report"]
        return values["chunks"], ReadReport(**{**found, "skipped": Counter(found["skipped"])})

    def chunk_built(self, chunk: str, report: ChunkReport) -> None:
        """Notes that a chunk's shards are there."""
        write_json(self.path(f"{chunk}.chunk.json"), report.to_dict())

    def chunk(self, chunk: str) -> ChunkReport | None:
        """Returns what became of a chunk; None where it is not built, or its shards are not as they were written."""
        values = read_json(self.path(f"{chunk}.chunk.json"))
        if values is None:
            return None
        report = ChunkReport.from_dict(values)
        whole = all(digest(self.corpus / shard.file) == shard.sha256 for shard in report.shards)
        return report if whole else None

    def end(self) -> None:
        """Removes the journal: the corpus is finished."""
        shutil.rmtree(self.directory, ignore_errors=True)


def reading_dict(report: ReadReport) -> dict[str, Any]:
    """Returns what JSON keeps of what reading found."""
    return {**vars(report), "skipped": dict(sorted(report.skipped.items()))}


def digest(path: Path) -> str | None:
    """Returns a file's SHA-256, None where there is none."""
    try:
        with open(path, "rb") as file:
            found = hashlib.sha256()
            while data := file.read(1 << 20):
                found.update(data)
            return found.hexdigest()
    except FileNotFoundError:
        return None


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with whole_file(path) as file:
        file.write(data)
