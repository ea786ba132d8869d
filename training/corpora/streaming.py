"""A corpus without a build step: files are read, cleaned, tokenised and packed as the training goes, in constant memory.

What comes is a function of the config, the files and the seed, so that a run repeats. A run that resumes reads again what it
has read, which takes a fraction of the time that training on it took; a built corpus resumes at once.

Of several shards each is a stream of its own: of every so many-th file of a source, or, where a source has fewer files than
there are shards, of every so many-th document. A worker that wants one shard reads no other's files.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator

import numpy as np

from garden.tokenizers import Tokenizer
from training.corpora.chunks import batches, split_of
from training.corpora.cleaning import Cleaner
from training.corpora.config import CorpusConfig, SourceConfig
from training.corpora.documents import Document, Reading
from training.corpora.mixture import shares
from training.corpora.readers import no_documents, source_files
from training.corpora.tokenizing import pad_id_of, tokenise
from training.packing import Layout, Packer, Rows, batch_of

logger = logging.getLogger(__name__)

SHUFFLED_ROWS = 8192
"""Rows among which each next one is drawn: files are in an order of their own, which training should not see."""


class StreamedRows:
    """Rows of a corpus config's files.

    Args:
        config: the corpus's; `sequence_length` is T, `layout` is not read.
        tokenizer: makes tokens of texts; a special token that a text happens to spell should be text to it.
        layout: what stands round texts in rows.
        seed: of the order.

    Raises ValueError for a config that only a build can follow.
    """

    def __init__(self, config: CorpusConfig, tokenizer: Tokenizer, layout: Layout, *, seed: int):
        if config.cleaning.finds_duplicates or config.cleaning.repeated_sentences is not None:
            raise ValueError(
                "cleaning: duplicates and repeated sentences are found by garden corpus build only; build the corpus, or leave "
                "them in"
            )
        self.config, self.tokenizer, self.layout, self.seed = config, tokenizer, layout, seed
        Packer(config.sequence_length, layout)  # raises for rows that are too short
        self._files = {
            source.name: source_files(source.format, source.paths, name=source.name, text=source.text, **source.options)
            for source in config.sources
        }

    def training(self, batch_size: int, shard: int = 0, shards: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Yields a shard's batches (see `training.packing.batch_of`) without end, each pass over its files in another order."""
        sources = [source for source in self.config.sources if source.split != "validation"]
        # Nobody has counted their rows: sources without weights are drawn equally often.
        weights = {source.name: source.weight for source in sources}
        parts = list(shares(dict.fromkeys(weights, 1), weights, self.config.temperature).values())
        draw = random.Random(self.seed + (shard << 32))
        streams = [self._rows(source, "train", passes=None, shard=shard, shards=shards) for source in sources]
        rows = (next(draw.choices(streams, parts)[0]) for _ in itertools.count())
        held: list[Rows] = []
        while True:
            while len(held) < max(SHUFFLED_ROWS // shards, 2 * batch_size):
                held.append(next(rows))
            chosen = []
            for _ in range(batch_size):
                place = draw.randrange(len(held))
                held[place], held[-1] = held[-1], held[place]
                chosen.append(held.pop())
                held.append(next(rows))
            yield batch_of(_joined(chosen), pad_id_of(self.tokenizer))

    def validation(self, batch_size: int, rows: int) -> list[dict[str, np.ndarray]]:
        """Returns batches of the first `rows` held-out rows, for which the files are read as far as that takes."""
        sources = [source for source in self.config.sources if source.split != "train"]
        if not sources or not (self.config.validation_share or any(source.split for source in sources)):
            return []
        logger.info("reading the corpus for %d held-out rows", rows)
        share = -(-rows // len(sources))
        held = [
            row for source in sources for row in itertools.islice(self._rows(source, "validation", passes=1), share)
        ][:rows]
        return [
            batch_of(_joined(held[begin : begin + batch_size]), pad_id_of(self.tokenizer))
            for begin in range(0, len(held), batch_size)
        ]

    def _rows(
        self, source: SourceConfig, split: str, passes: int | None, shard: int = 0, shards: int = 1
    ) -> Iterator[Rows]:
        """Yields the rows of a split that a source has in a shard, one at a time; files come in another order in each pass."""
        for number in itertools.count() if passes is None else range(passes):
            packer = Packer(self.config.sequence_length, self.layout)
            full, found = [], False
            for batch in batches(self._texts(source, split, number, shard, shards)):
                for ids, starts in tokenise(self.tokenizer, batch, sentences=self.layout.name != "causal"):
                    full.extend(packer.add(ids, starts))
                found = True
                yield from _single(packer.laid_out(full))
                full = []
            yield from _single(packer.laid_out(packer.finish()))
            if not found and passes is None:
                where = f" in shard {shard} of {shards}" if shards > 1 else ""
                raise ValueError(
                    f'sources: "{source.name}": cleaning and validation_share leave no document to train on{where}'
                )

    def _texts(self, source: SourceConfig, split: str, number: int, shard: int, shards: int) -> Iterator[str]:
        cleaner = Cleaner(self.config.cleaning)
        for document in self._documents(source, number, shard, shards):
            cleaned = cleaner(document)
            if cleaned is None:
                continue
            if split_of(source, cleaned.text.encode(), self.config.validation_share) == split:
                yield cleaned.text

    def _documents(self, source: SourceConfig, number: int, shard: int, shards: int) -> Iterator[Document]:
        files = list(self._files[source.name])
        by_file = len(files) >= shards
        if by_file:
            files = files[shard::shards]
        if number:
            random.Random(self.seed * 1_000_003 + number).shuffle(files)
        reading = Reading(source.name, self.config.skip_corrupt)
        documents = itertools.chain.from_iterable(file.read(reading) for file in files)
        yield from documents if by_file else itertools.islice(documents, shard, None, shards)
        if reading.report.corrupt:
            found, first = reading.report.corrupt, reading.report.problems[0]
            logger.warning("%s: %d corrupt records passed over, first %s", source.name, found, first)
        if not reading.report.documents:
            raise no_documents(source.name, len(files), reading.report)


def _single(rows: Rows) -> Iterator[Rows]:
    for index in range(len(rows)):
        yield Rows(*(values[index : index + 1] for values in vars(rows).values()))


def _joined(rows: list[Rows]) -> Rows:
    return Rows(*(np.concatenate(values) for values in zip(*(vars(row).values() for row in rows), strict=True)))
