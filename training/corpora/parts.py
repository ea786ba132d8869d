"""What a build divides a corpus into: parts (files that one process reads) and chunks (documents that become a shard a split).

Both follow from the config and the files alone, so that any number of workers makes the same shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from training.corpora.config import CorpusConfig
from training.corpora.documents import Document, Reading
from training.corpora.files import is_url
from training.corpora.readers import SourceFile, source_files

PART_BYTES = 1 << 26
"""Files are added to a part until they have so many bytes on disk."""
CHUNK_CHARACTERS = 1 << 23
"""Documents are added to a chunk until they have so many characters."""


@dataclass(frozen=True)
class Part:
    """Files of one source, read one after the other."""

    source: str
    number: int
    files: tuple[SourceFile, ...]
    bytes: int  # on disk, where that is known

    @property
    def name(self) -> str:
        """The part's name, which begins those of its chunks."""
        return f"{self.source}-{self.number:05d}"

    def chunk(self, number: int) -> str:
        """Returns a chunk's name."""
        return f"{self.name}-{number:05d}"


def parts_of(config: CorpusConfig) -> list[Part]:
    """Returns a corpus's parts, source by source; errors as `source_files`."""
    parts = []
    for source in config.sources:
        files = source_files(source.format, source.paths, name=source.name, text=source.text, **source.options)
        some, size, number = [], 0, 0
        for index, file in enumerate(files):
            some.append(file)
            size += _bytes(file)
            if size >= PART_BYTES or index == len(files) - 1:
                parts.append(Part(source.name, number, tuple(some), size))
                some, size, number = [], 0, number + 1
    return parts


def chunks_of(part: Part, reading: Reading) -> Iterator[list[Document]]:
    """Yields a part's documents, a chunk at a time; `reading` counts."""
    some: list[Document] = []
    characters = 0
    for file in part.files:
        for document in file.read(reading):
            some.append(document)
            characters += len(document.text)
            if characters >= CHUNK_CHARACTERS:
                yield some
                some, characters = [], 0
    if some:
        yield some


def _bytes(file: SourceFile) -> int:
    # Remote files are taken for large ones: asking for the size of each would take long.
    if not file.format.of_files or is_url(file.path):
        return PART_BYTES
    return os.path.getsize(file.path)
