"""A built corpus on disk: shards of rows, and an index that says what they are.

index.json               what made the corpus (tokenizer, layout, T, seed) and its shards, each with rows, tokens and SHA-256
<source>-<split>-N.tfrecord   rows of one source and split in TFRecord framing, which TensorFlow reads too
report.json              what was read, dropped and why

All records have one size, so that row i lies at a known place: training takes rows in any order without a table of offsets,
and resumes at any step at once. A record is T token ids (uint16 where the vocabulary allows, else uint32, little endian), three
sets of T bits (where segments begin, where sentences begin, where special tokens stand) and the number of real places (uint32).
Shapes: R rows, T places of a row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from training.corpora.whole import whole_file
from training.packing import Layout, Rows, batch_of

INDEX, REPORT = "index.json", "report.json"
SPLITS = ("train", "validation")
VERSION = 1
_HEADER, _FOOTER = 12, 4  # TFRecord: length and its checksum before the record, the record's checksum behind it


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of rows."""

    file: str
    source: str
    split: str
    rows: int
    tokens: int  # real places, special tokens included
    text_bytes: int  # UTF-8 bytes of the documents, for bits per byte
    documents: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What index.json says."""

    layout: Layout
    sequence_length: int
    tokenizer: str  # fingerprint, see `tokenizing.fingerprint`
    vocabulary_size: int
    pad_id: int
    seed: int = 1
    temperature: float = 1.0
    weights: dict[str, float | None] = field(default_factory=dict)  # of the sources
    shards: tuple[Shard, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)  # the corpus config that made it
    version: int = VERSION

    def to_json(self) -> str:
        """Returns the file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, directory: str | Path) -> Index:
        """Reads a corpus's index; FileNotFoundError and ValueError name the file and what is wrong."""
        path = Path(directory) / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; build the corpus with garden corpus build")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] != VERSION:
                raise ValueError(
                    f"version {values['version']}, this Garden reads version {VERSION}; build the corpus again"
                )
            layout = values.pop("layout")
            layout = Layout(name=layout["name"], prefix=tuple(layout["prefix"]), suffix=tuple(layout["suffix"]))
            shards = tuple(Shard(**shard) for shard in values.pop("shards"))
            return cls(layout=layout, shards=shards, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not the index of a corpus ({error})") from None

    def of_split(self, split: str) -> list[Shard]:
        """Returns a split's shards, source by source."""
        return sorted(
            (shard for shard in self.shards if shard.split == split), key=lambda shard: (shard.source, shard.file)
        )


def record_bytes(length: int, vocabulary_size: int) -> int:
    """Returns the size of a row's record."""
    return length * _id_type(vocabulary_size).itemsize + 3 * ((length + 7) // 8) + 4


def _id_type(vocabulary_size: int) -> np.dtype:
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<u4")


def encoded(rows: Rows, vocabulary_size: int) -> np.ndarray:
    """Returns rows as TFRecords, [R, record + 16] uint8."""
    count = len(rows)
    parts = [rows.token_ids.astype(_id_type(vocabulary_size)).view(np.uint8)]
    parts += [np.packbits(bits, axis=1) for bits in (rows.segment_starts, rows.sentence_starts, rows.special)]
    parts.append(rows.real.astype("<u4")[:, None].view(np.uint8))
    records = np.concatenate(parts, axis=1)
    size = np.frombuffer(np.uint64(records.shape[1]).tobytes(), np.uint8)
    header = np.concatenate([size, _masked([google_crc32c.value(size.tobytes())])[0]])
    footers = _masked([google_crc32c.value(record.tobytes()) for record in records])
    return np.concatenate([np.broadcast_to(header, (count, _HEADER)), records, footers], axis=1)


def _masked(checksums: Sequence[int]) -> np.ndarray:
    """Returns CRC-32C checksums as TFRecord keeps them, [R,4] uint8."""
    values = np.asarray(checksums, np.uint32)
    masked = ((values >> np.uint32(15)) | (values << np.uint32(17))) + np.uint32(0xA282EAD8)
    return masked.astype("<u4")[:, None].view(np.uint8)


def decoded(records: np.ndarray, length: int, vocabulary_size: int) -> Rows:
    """Returns rows of their records [R, record] uint8, without framing: `encoded`'s inverse."""
    width, bits = length * _id_type(vocabulary_size).itemsize, (length + 7) // 8
    ids = np.ascontiguousarray(records[:, :width]).view(_id_type(vocabulary_size)).astype(np.uint32)
    flags = [
        np.unpackbits(records[:, width + n * bits : width + (n + 1) * bits], axis=1, count=length).astype(bool)
        for n in range(3)
    ]
    real = np.ascontiguousarray(records[:, -4:]).view("<u4")[:, 0].astype(np.int32)
    return Rows(ids, *flags, real)


def write_shard(
    path: Path, rows: Iterable[Rows], *, source: str, split: str, vocabulary_size: int, text_bytes: int, documents: int
) -> Shard:
    """Writes a shard aside and renames it, so that it is there whole or not at all; returns what the index says of it."""
    digest, count, tokens = hashlib.sha256(), 0, 0
    with whole_file(path) as file:
        for some in rows:
            data = encoded(some, vocabulary_size).tobytes()
            digest.update(data)
            file.write(data)
            count, tokens = count + len(some), tokens + int(some.real.sum())
    return Shard(
        file=path.name,
        source=source,
        split=split,
        rows=count,
        tokens=tokens,
        text_bytes=text_bytes,
        documents=documents,
        sha256=digest.hexdigest(),
    )


class Corpus:
    """A built corpus, opened: its index, and any of its rows. Files are mapped into memory, not read.

    Raises FileNotFoundError and ValueError for a directory that is no corpus, or whose shards are missing or of another size.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.index = Index.read(directory)
        self._size = record_bytes(self.index.sequence_length, self.index.vocabulary_size) + _HEADER + _FOOTER
        self._maps = {split: [self._mapped(shard) for shard in self.index.of_split(split)] for split in SPLITS}
        self._ends = {split: np.cumsum([len(each) for each in self._maps[split]], dtype=np.int64) for split in SPLITS}

    def _mapped(self, shard: Shard) -> np.ndarray:
        path = self.directory / shard.file
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though {INDEX} names it; build the corpus again")
        if path.stat().st_size != shard.rows * self._size:
            raise ValueError(
                f"{path}: {path.stat().st_size} bytes, expected {shard.rows} rows of {self._size}: the file is truncated or "
                "another one; remove it and build the corpus again"
            )
        if not shard.rows:
            return np.zeros([0, self._size], np.uint8)
        return np.memmap(path, np.uint8, mode="r", shape=(shard.rows, self._size))

    def rows(self, split: str) -> int:
        """Returns how many rows a split has."""
        return int(self._ends[split][-1]) if len(self._ends[split]) else 0

    def tokens(self, split: str) -> int:
        """Returns how many real places a split has."""
        return sum(shard.tokens for shard in self.index.of_split(split))

    def sources(self, split: str) -> dict[str, int]:
        """Returns the rows of each source of a split, in the order of the rows' numbers."""
        sizes: dict[str, int] = {}
        for shard in self.index.of_split(split):
            sizes[shard.source] = sizes.get(shard.source, 0) + shard.rows
        return sizes

    def batch(self, split: str, numbers: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows by their numbers as a batch (see `training.packing.batch_of`).

        Raises ValueError, naming the file and the offset, for a record whose checksum is wrong.
        """
        numbers = np.asarray(numbers, np.int64)
        shards = np.searchsorted(self._ends[split], numbers, side="right")
        records = np.empty([len(numbers), self._size], np.uint8)
        for place, (number, shard) in enumerate(zip(numbers, shards, strict=True)):
            within = number - (self._ends[split][shard - 1] if shard else 0)
            records[place] = self._maps[split][shard][within]
            body = records[place, _HEADER:-_FOOTER]
            if not np.array_equal(_masked([google_crc32c.value(body.tobytes())])[0], records[place, -_FOOTER:]):
                path = self.directory / self.index.of_split(split)[shard].file
                raise ValueError(
                    f"{path}, offset {within * self._size}: the record's checksum is wrong: the file is damaged; remove it and "
                    "build the corpus again"
                )
        rows = decoded(records[:, _HEADER:-_FOOTER], self.index.sequence_length, self.index.vocabulary_size)
        return batch_of(rows, self.index.pad_id)
