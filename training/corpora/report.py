"""report.json of a built corpus: what was read, dropped and why, what became of it, how fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.corpora.cleaning import CleaningReport
from training.corpora.documents import ReadReport
from training.corpora.journal import ChunkReport, reading_dict
from training.corpora.store import SPLITS
from training.packing import Counts

if TYPE_CHECKING:
    from training.corpora.build import Progress


def report_of(
    reading: Mapping[str, ReadReport],
    chunks: Sequence[ChunkReport],
    duplicates: Mapping[str, int] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Returns a build's report: `sources` one by one, `splits` together, and the throughput of the run that finished it.

    `duplicates` None: they were not looked for.
    """
    return {
        "documents": sum(report.documents for report in reading.values()),
        "dropped": _dropped(chunks, duplicates),
        "corrupt": sum(report.corrupt for report in reading.values()),
        "splits": {split: _split(chunks, split) for split in SPLITS},
        "sources": {name: _source(report, [c for c in chunks if c.source == name]) for name, report in reading.items()},
        "run": {
            "chunks": progress.chunks,
            "text_bytes": progress.text_bytes,
            "seconds": round(progress.seconds, 3),
            "megabytes_per_second": round(progress.megabytes_per_second, 3),
        },
    }


def _dropped(chunks: Sequence[ChunkReport], duplicates: Mapping[str, int] | None) -> dict[str, int]:
    """Returns how many documents each rule dropped."""
    dropped: dict[str, int] = {}
    for name, number in {**_cleaning(chunks).counts, **(duplicates or {})}.items():
        kind, _, rule = name.partition(" ")
        if kind == "dropped":
            dropped[rule] = dropped.get(rule, 0) + number
    empty = sum(counts.empty for chunk in chunks for counts in chunk.packing.values())
    return {**dict(sorted(dropped.items())), **({"no tokens": empty} if empty else {})}


def _split(chunks: Sequence[ChunkReport], split: str) -> dict[str, Any]:
    total = Counts()
    for chunk in chunks:
        total.add(chunk.packing[split])
    size = sum(shard.text_bytes for chunk in chunks for shard in chunk.shards if shard.split == split)
    return {**dataclasses.asdict(total), "fill": round(total.fill, 6), "text_bytes": size}


def _source(report: ReadReport, chunks: Sequence[ChunkReport]) -> dict[str, Any]:
    return {
        "reading": reading_dict(report),
        "cleaning": _cleaning(chunks).to_dict(),
        "duplicates": sum(chunk.duplicates for chunk in chunks),
        "splits": {split: _split(chunks, split) for split in SPLITS},
    }


def _cleaning(chunks: Sequence[ChunkReport]) -> CleaningReport:
    total = CleaningReport()
    for chunk in chunks:
        total.merge(chunk.cleaning)
    return total
