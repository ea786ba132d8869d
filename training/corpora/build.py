"""`garden corpus build`: from files to shards of packed rows, on all cores of this machine, or by Apache Beam (`beam`).

The shards are a function of the config and the files alone, whatever the number of workers. A build that was interrupted, in
whatever way, goes on where it stopped when it is run again (`journal`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.corpora.chunks import Judgement, Recipe, fingerprints_of, is_read, runs_of
from training.corpora.config import CorpusConfig
from training.corpora.documents import ReadReport
from training.corpora.journal import BUILDING, ChunkReport, Journal, write_json, write_whole
from training.corpora.parts import Part, parts_of
from training.corpora.readers import no_documents
from training.corpora.repeats import Repeats
from training.corpora.report import report_of
from training.corpora.store import INDEX, REPORT, Index
from training.packing import Packer
from training.paths import located

logger = logging.getLogger(__name__)

DUPLICATES, REPEATS = "duplicates", "repeats"


@dataclass
class Progress:
    """How far a build is."""

    chunks: int = 0  # built in this run
    text_bytes: int = 0  # of their documents, cleaned
    tokens: int = 0
    seconds: float = 0.0
    parts: int = 0  # read to their ends, in this run or before
    all_parts: int = 0

    @property
    def megabytes_per_second(self) -> float:
        """Throughput of this run, in 10^6 bytes of text."""
        return self.text_bytes / 1e6 / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        rate = f"{self.text_bytes / 1e6:,.1f} MB of text, {self.megabytes_per_second:.1f} MB/s, {self.tokens:,} tokens"
        return f"{self.parts} of {self.all_parts} parts read, {self.chunks} chunks built, {rate}"


class Runner:
    """Who does the work: reads parts and builds chunks. One of `workers.Local`, `beam.Beam`."""

    def build(self, recipe: Recipe, parts: Sequence[Part], built: Callable[[ChunkReport], None]) -> None:
        """Reads parts and builds their chunks; calls `built` for each."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it builds")

    def build_kept(
        self, recipe: Recipe, chunks: Iterable[tuple[str, Judgement]], built: Callable[[ChunkReport], None]
    ) -> None:
        """Builds chunks that were kept, without what is left out of them; calls `built` for each."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it builds")


def build(
    config: CorpusConfig,
    runner: Runner,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Builds a corpus in `config.output`, or goes on with it, and returns its report.json.

    Raises FileNotFoundError and ValueError, one line each, for files, tokenizers and outputs that are not as they should be,
    CorruptRecord for a record that cannot be read (unless `skip_corrupt`).
    """
    if config.output is None:
        raise ValueError("output: missing; give the directory of the corpus: output=corpora/mine")
    directory = Path(config.output)
    recipe, index, state = _prepared(config, directory)
    if overwrite:
        _clear(directory)
    elif (finished := _finished(directory, index)) is not None:
        return finished
    parts = parts_of(config)
    state["files"] = [[file.path, part.bytes] for part in parts for file in part.files]
    _check_directory(directory)
    journal = Journal(directory)
    if not journal.begin(state):
        raise ValueError(
            f"output: {directory} has an unfinished corpus of another config, tokenizer or other files; give another directory "
            "with output=..., or replace it with --overwrite"
        )
    seen = Progress(all_parts=len(parts), parts=sum(is_read(recipe, part) for part in parts))
    begin = time.monotonic()

    def built(report: ChunkReport) -> None:
        # Of chunks that wait for their duplicates to be known, nothing is built yet.
        seen.chunks += bool(report.shards)
        seen.text_bytes += report.text_bytes
        seen.tokens += sum(shard.tokens for shard in report.shards)
        seen.parts = sum(journal.part(part.name) is not None for part in parts)
        seen.seconds = time.monotonic() - begin
        progress(seen)

    runner.build(recipe, [part for part in parts if not is_read(recipe, part)], built)
    duplicates = None
    if recipe.judges:
        duplicates = _build_judged(recipe, parts, runner, built)
    seen.seconds = time.monotonic() - begin
    return _finish(recipe, index, parts, seen, duplicates)


def _prepared(config: CorpusConfig, directory: Path) -> tuple[Recipe, Index, dict[str, Any]]:
    """Returns what chunks are built by, the index without its shards, and what a journal begins with."""
    if config.tokenizer is None:
        raise ValueError(
            "tokenizer: missing; give a directory with tokenizer.json, such as garden corpus vocabulary makes: tokenizer=DIR"
        )
    from garden.tokenizers import Tokenizer
    from training.corpora.tokenizing import fingerprint, layout_of, pad_id_of

    tokenizer = Tokenizer.from_pretrained(located(config.tokenizer))
    layout = layout_of(tokenizer, config.layout)
    Packer(config.sequence_length, layout)  # raises for rows that are too short
    recipe = Recipe(config, directory, layout, tokenizer.vocabulary_size)
    plain = {**dataclasses.asdict(config), "output": None}  # a corpus may be moved
    index = Index(
        layout=layout,
        sequence_length=config.sequence_length,
        tokenizer=fingerprint(tokenizer),
        vocabulary_size=tokenizer.vocabulary_size,
        pad_id=pad_id_of(tokenizer),
        seed=config.seed,
        temperature=config.temperature,
        weights={source.name: source.weight for source in config.sources},
        config=plain,
    )
    return recipe, index, _identity(index)


def _identity(index: Index) -> dict[str, Any]:
    """Returns what makes two corpora the same, if their files are; the tokenizer may lie elsewhere."""
    values = json.loads(dataclasses.replace(index, shards=()).to_json())
    return {**values, "config": {**values["config"], "tokenizer": None}}


def _finished(directory: Path, index: Index) -> dict[str, Any] | None:
    """Returns the report of a finished corpus of this config; None where there is no finished one."""
    if not (directory / INDEX).is_file():
        return None
    if _identity(Index.read(directory)) != _identity(index):
        raise ValueError(
            f"output: {directory} has a corpus of another config or tokenizer; give another directory with output=..., or "
            "replace it with --overwrite"
        )
    Journal(directory).end()
    logger.info("%s: is built already", directory)
    return json.loads((directory / REPORT).read_text(encoding="utf-8"))


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output: {directory} is a file; give a directory: output=...")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / BUILDING).is_dir():
        raise ValueError(f"output: {directory} is not empty and not a corpus; give another directory: output=...")


def _clear(directory: Path) -> None:
    """Removes a corpus, finished or not, and nothing else."""
    if not (directory / INDEX).is_file() and not (directory / BUILDING).is_dir():
        return
    for path in [*directory.glob("*.tfrecord"), directory / REPORT, *directory.glob(".writing-*")]:
        path.unlink(missing_ok=True)
    Journal(directory).end()
    (directory / INDEX).unlink(missing_ok=True)


def _build_judged(
    recipe: Recipe, parts: Sequence[Part], runner: Runner, built: Callable[[ChunkReport], None]
) -> dict[str, int]:
    """Judges all documents in corpus order and builds the chunks that are not built; returns how many duplicates there are."""
    cleaning, journal = recipe.config.cleaning, Journal(recipe.directory)
    names = [part.chunk(number) for part in parts for number in range(journal.part(part.name)[0])]
    counts: dict[str, int] = {}
    duplicates = cleaning.duplicates(journal.path(DUPLICATES))
    repeats = recipe.runs and Repeats(journal.path(REPEATS), recipe.runs.length)

    def judged() -> Iterable[tuple[str, Judgement]]:
        documents = runs = 0
        for name in names:
            duplicate = repeated = None
            if duplicates is not None:
                fingerprints = fingerprints_of(recipe, name)
                verdicts = duplicates.judge(fingerprints, documents)
                documents += len(fingerprints)
                duplicate = verdicts.duplicate
                for kind, number in verdicts.counts.items():
                    counts[kind] = counts.get(kind, 0) + number
            if repeats is not None:
                of_documents, hashes = runs_of(recipe, name)
                if duplicate is not None:  # a document that is dropped is not where a run was first
                    hashes = hashes[np.repeat(~duplicate, of_documents)]
                repeated = repeats.judge(hashes, runs)
                runs += len(hashes)
            if journal.chunk(name) is None:
                yield name, Judgement(duplicate, repeated)

    try:
        runner.build_kept(recipe, judged(), built)
    finally:
        for index in (duplicates, repeats):
            if index is not None:
                index.close()
    return counts


def _finish(
    recipe: Recipe, index: Index, parts: Sequence[Part], progress: Progress, duplicates: dict[str, int] | None
) -> dict[str, Any]:
    """Writes report.json and, last, index.json: then the corpus is there."""
    journal = Journal(recipe.directory)
    reading: dict[str, ReadReport] = {source.name: ReadReport() for source in recipe.config.sources}
    chunks: list[ChunkReport] = []
    for part in parts:
        number, report = journal.part(part.name)
        reading[part.source].merge(report)
        chunks += [journal.chunk(part.chunk(each)) for each in range(number)]
    for source, report in reading.items():
        if not report.documents:
            files = sum(len(part.files) for part in parts if part.source == source)
            journal.end()
            raise no_documents(source, files, report)
    shards = tuple(shard for chunk in chunks for shard in chunk.shards)
    index = dataclasses.replace(index, shards=shards)
    if not index.of_split("train"):
        raise ValueError("corpus: not one row to train on: no document is left after cleaning, or all are held out")
    report = report_of(reading, chunks, duplicates, progress)
    write_json(recipe.directory / REPORT, report)
    write_whole(recipe.directory / INDEX, index.to_json().encode())
    journal.end()
    for path in recipe.directory.glob(".writing-*"):  # of processes that were killed
        path.unlink()
    return report


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
