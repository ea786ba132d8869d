"""A chunk of documents into shards: cleaned, split, tokenised, packed, written. A pure function of the chunk and the recipe.

Any process that sees the corpus's directory does this: a core of this machine, or a worker of Apache Beam. Where duplicates or
repeated sentences are looked for, a chunk is first kept, cleaned, beside its documents' fingerprints and the hashes of its runs
of sentences; what the indices of all documents say of them decides what is built.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.corpora.cleaning import Cleaner
from training.corpora.config import CorpusConfig, SourceConfig
from training.corpora.documents import Document, Reading
from training.corpora.journal import ChunkReport, Journal, write_whole
from training.corpora.minhash import Fingerprints
from training.corpora.parts import Part, chunks_of
from training.corpora.repeats import Runs
from training.corpora.sentences import sentence_starts
from training.corpora.store import Shard, write_shard
from training.packing import Layout, Packer, Rows

BATCH_TEXTS, BATCH_CHARACTERS = 4096, 1 << 21
"""Texts that are tokenised at once, at most: 4,096, or 2 million characters."""
ROWS_AT_ONCE = 1024
_HASHES = 2**64


@dataclass(frozen=True)
class Recipe:
    """All that building a chunk takes."""

    config: CorpusConfig
    directory: Path  # the corpus's
    layout: Layout
    vocabulary_size: int

    @property
    def judges(self) -> bool:
        """Whether documents are compared with earlier ones."""
        return self.config.cleaning.finds_duplicates or self.runs is not None

    @property
    def runs(self) -> Runs | None:
        """What hashes runs of sentences; None where repeated ones are kept."""
        length = self.config.cleaning.repeated_sentences
        return None if length is None else Runs(length)

    @property
    def fingerprints(self) -> Fingerprints:
        """What makes documents' fingerprints."""
        cleaning = self.config.cleaning
        return Fingerprints(None if cleaning.near_duplicates is None else cleaning.minhash)


@dataclass(frozen=True)
class Judgement:
    """What is left out of a chunk that was kept: of N documents the duplicates, bool [N], and of the others' M runs of
    sentences the repeated ones, bool [M]; None where they were not looked for."""

    duplicate: np.ndarray | None
    repeated: np.ndarray | None


def held_out(text: bytes, share: float) -> bool:
    """Returns whether a document is of the validation split: a question of its text (UTF-8) alone."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") < share * _HASHES


def split_of(source: SourceConfig, text: bytes, share: float) -> str:
    """Returns which split a source's document belongs to: the source's, or else by the document's hash."""
    return source.split or ("validation" if share and held_out(text, share) else "train")


class Builder:
    """Builds chunks; holds the tokenizer, so one a process is enough."""

    def __init__(self, recipe: Recipe):
        from garden.tokenizers import Tokenizer  # late, as is TensorFlow: reading needs neither
        from training.paths import located

        self.recipe = recipe
        self.journal = Journal(recipe.directory)
        # A special token that a text happens to spell is text.
        self._tokenizer = Tokenizer.from_pretrained(located(recipe.config.tokenizer), split_special_tokens=True)

    def build_part(self, part: Part) -> list[ChunkReport]:
        """Reads a part and builds its chunks, without those that are built; returns the reports of those that were not."""
        return [self.build(chunk, documents) for chunk, documents in unbuilt_chunks(self.recipe, part)]

    def build(self, chunk: str, documents: Sequence[Document]) -> ChunkReport:
        """Cleans a chunk and builds its shards; where duplicates are looked for, keeps it for `build_kept` instead."""
        cleaner = Cleaner(self.recipe.config.cleaning)
        kept = [document.text for document in map(cleaner, documents) if document is not None]
        report = ChunkReport(source=documents[0].source, cleaning=cleaner.report)
        if self.recipe.judges:
            if self.recipe.config.cleaning.finds_duplicates:
                write_whole(_prints(self.journal, chunk), self.recipe.fingerprints(kept).tobytes())
            if self.recipe.runs is not None:
                counts, hashes = self.recipe.runs(kept)
                data = [np.array([len(counts)], np.int64).tobytes(), counts.tobytes(), hashes.tobytes()]
                write_whole(_runs(self.journal, chunk), b"".join(data))
            write_whole(_kept(self.journal, chunk), pickle.dumps((kept, report), protocol=5))
            return report
        return self._shards(chunk, kept, report)

    def build_kept(self, chunk: str, judgement: Judgement) -> ChunkReport:
        """Builds the shards of a chunk that was kept, without what is left out of it."""
        texts, report = pickle.loads(_kept(self.journal, chunk).read_bytes())
        stays = np.full(len(texts), True) if judgement.duplicate is None else ~judgement.duplicate
        report.duplicates = len(texts) - int(stays.sum())
        texts = [text for text, stay in zip(texts, stays.tolist(), strict=True) if stay]
        if judgement.repeated is not None:
            counts = runs_of(self.recipe, chunk)[0][stays]
            texts = self._without_repeats(texts, counts, judgement.repeated, report)
        return self._shards(chunk, texts, report)

    def _without_repeats(
        self, texts: list[str], counts: np.ndarray, repeated: np.ndarray, report: ChunkReport
    ) -> list[str]:
        """Returns what is left of texts [N] with so many runs each, int64 [N], of which some are repeated, bool [M]."""
        runs, rules = self.recipe.runs, self.recipe.config.cleaning
        least = (rules.c4_rules.least_sentences or 1) if rules.c4 else 1
        left = []
        for text, count, end in zip(texts, counts.tolist(), np.cumsum(counts).tolist(), strict=True):
            after = runs.without(text, repeated[end - count : end])
            if after != text:
                # What is left of a page of C4 has to have as many sentences as all have.
                after = after if after and len(sentence_starts(after)) >= least else ""
                report.cleaning.shorten("repeated_sentences", text, after)
            left.append(after)
        return [text for text in left if text]

    def _shards(self, chunk: str, texts: list[str], report: ChunkReport) -> ChunkReport:
        share = self.recipe.config.validation_share
        source = next(each for each in self.recipe.config.sources if each.name == report.source)
        splits: dict[str, list[str]] = {"train": [], "validation": []}
        sizes = dict.fromkeys(splits, 0)
        for text in texts:
            data = text.encode()
            split = split_of(source, data, share)
            splits[split].append(text)
            sizes[split] += len(data)
        shards = [self._shard(chunk, split, splits[split], report, sizes[split]) for split in splits if splits[split]]
        report.shards = tuple(shard for shard in shards if shard is not None)
        self.journal.chunk_built(chunk, report)
        _kept(self.journal, chunk).unlink(missing_ok=True)
        return report

    def _shard(self, chunk: str, split: str, texts: list[str], report: ChunkReport, size: int) -> Shard | None:
        source = report.source
        path = self.recipe.directory / f"{source}-{split}{chunk.removeprefix(source)}.tfrecord"
        packer = Packer(self.recipe.config.sequence_length, self.recipe.layout)
        shard = write_shard(
            path,
            self._rows(packer, texts),
            source=source,
            split=split,
            vocabulary_size=self.recipe.vocabulary_size,
            text_bytes=size,
            documents=len(texts),
        )
        report.packing[split] = packer.counts
        if not shard.rows:
            path.unlink()
            return None
        return shard

    def _rows(self, packer: Packer, texts: list[str]) -> Iterator[Rows]:
        from training.corpora.tokenizing import tokenise

        full = []
        sentences = self.recipe.layout.name != "causal"
        for batch in batches(texts):
            for ids, starts in tokenise(self._tokenizer, batch, sentences=sentences):
                full.extend(packer.add(ids, starts))
            while len(full) >= ROWS_AT_ONCE:
                yield packer.laid_out(full[:ROWS_AT_ONCE])
                del full[:ROWS_AT_ONCE]
        full.extend(packer.finish())
        if full:
            yield packer.laid_out(full)


def batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yields texts in batches to tokenise."""
    some, characters = [], 0
    for text in texts:
        some.append(text)
        characters += len(text)
        if len(some) == BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def unbuilt_chunks(recipe: Recipe, part: Part) -> Iterator[tuple[str, list[Document]]]:
    """Reads a part and yields its chunks, by name, that are to be built; notes in the end what reading found."""
    journal = Journal(recipe.directory)
    reading = Reading(part.source, recipe.config.skip_corrupt)
    number = 0
    for documents in chunks_of(part, reading):
        chunk = part.chunk(number)
        if not is_done(recipe, chunk):
            yield chunk, documents
        number += 1
    journal.part_read(part.name, number, reading.report)


def is_done(recipe: Recipe, chunk: str) -> bool:
    """Returns whether `Builder.build` has nothing to do for a chunk: its shards are there, or it waits for `build_kept`."""
    journal = Journal(recipe.directory)
    if journal.chunk(chunk) is not None:
        return True
    return recipe.judges and _kept(journal, chunk).exists()


def is_read(recipe: Recipe, part: Part) -> bool:
    """Returns whether a part need not be read again."""
    read = Journal(recipe.directory).part(part.name)
    return read is not None and all(is_done(recipe, part.chunk(number)) for number in range(read[0]))


def fingerprints_of(recipe: Recipe, chunk: str) -> np.ndarray:
    """Returns the fingerprints of a chunk's cleaned documents, uint32 [N,F]."""
    width = recipe.fingerprints.width
    return np.frombuffer(_prints(Journal(recipe.directory), chunk).read_bytes(), np.uint32).reshape(-1, width)


def runs_of(recipe: Recipe, chunk: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many runs each of a chunk's cleaned documents has, int64 [N], and their hashes, uint64 [M]."""
    data = _runs(Journal(recipe.directory), chunk).read_bytes()
    count = int(np.frombuffer(data, np.int64, 1)[0])
    return np.frombuffer(data, np.int64, count, 8), np.frombuffer(data, np.uint64, -1, 8 * (count + 1))


def _kept(journal: Journal, chunk: str) -> Path:
    return journal.path(f"{chunk}.kept")


def _prints(journal: Journal, chunk: str) -> Path:
    return journal.path(f"{chunk}.fingerprints")


def _runs(journal: Journal, chunk: str) -> Path:
    return journal.path(f"{chunk}.runs")
