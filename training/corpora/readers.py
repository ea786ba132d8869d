"""From files to documents: every format, by one function.

Importing this module imports none of the libraries that some formats need.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import configuration
from training.corpora.documents import CorruptRecord, Document, Reading, ReadReport
from training.corpora.files import bare_name, list_files


@dataclass(frozen=True)
class Format:
    """A format: what it is, the endings of its files' names, and where its reader and options are.

    A reader is a function of a path, a `Reading` and the options, which yields documents in constant memory. What it raises as
    CorruptRecord ends the file; corrupt records that it can go on after it hands to the `Reading`.
    """

    meaning: str
    endings: tuple[str, ...]
    module: str
    reader: str
    options_class: str
    of_files: bool = True  # paths are files, not names of data sets

    def read(self, path: str, reading: Reading, options: Any) -> Iterator[Document]:
        """Yields the documents of one file."""
        return getattr(importlib.import_module(self.module), self.reader)(path, reading, options)

    @property
    def options(self) -> type:
        """The dataclass of the format's options."""
        return getattr(importlib.import_module(self.module), self.options_class)


_HERE = "training.corpora"
FORMATS: dict[str, Format] = {
    "text": Format("plain text, such as books", (".txt", ".text"), f"{_HERE}.plain_text", "read_text", "TextOptions"),
    "jsonl": Format(
        "a JSON object a line", (".jsonl", ".ndjson", ".jsonlines"), f"{_HERE}.tables", "read_jsonl", "TableOptions"
    ),
    "csv": Format("comma-separated values", (".csv",), f"{_HERE}.tables", "read_csv", "CSVOptions"),
    "tsv": Format("tab-separated values", (".tsv", ".tab"), f"{_HERE}.tables", "read_csv", "TSVOptions"),
    "parquet": Format("Parquet tables", (".parquet", ".pq"), f"{_HERE}.tables", "read_parquet", "TableOptions"),
    "wikipedia": Format(
        "MediaWiki's XML export, pages-articles", (".xml",), f"{_HERE}.wikipedia", "read_wikipedia", "WikipediaOptions"
    ),
    "wet": Format("Common Crawl's texts", (".wet",), f"{_HERE}.common_crawl", "read_wet", "WETOptions"),
    "warc": Format("web archives of HTML pages", (".warc",), f"{_HERE}.common_crawl", "read_warc", "WARCOptions"),
    "tfds": Format("data sets of TensorFlow Datasets, by name", (), f"{_HERE}.tfds", "read_tfds", "TFDSOptions", False),
}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, and how it is read. A process can hand it to another."""

    path: str
    format: Format
    options: Any

    def read(self, reading: Reading) -> Iterator[Document]:
        """Yields the file's documents; where the rest of it is lost, counts that if corrupt records are to be passed over."""
        try:
            yield from self.format.read(self.path, reading, self.options)
        except CorruptRecord as error:
            reading.corrupt(error)


def read_documents(
    format: str | None,
    paths: Sequence[str | Path],
    *,
    name: str,
    text: str | None = None,
    skip_corrupt: bool = False,
    report: ReadReport | None = None,
    **options: Any,
) -> Iterator[Document]:
    """Yields the documents of all files that the paths name, file after file; arguments as `source_files`. `report` counts.

    Arguments are checked at once, not when the first document is asked for. Raises CorruptRecord at the first record that
    cannot be read, unless `skip_corrupt`: then it is counted and reported, and reading goes on with the next record, or with
    the next file where the rest of one is lost. Raises ValueError where there is not a single document.
    """
    files = source_files(format, paths, name=name, text=text, **options)
    return _documents(files, Reading(name, skip_corrupt, ReadReport() if report is None else report))


def source_files(
    format: str | None, paths: Sequence[str | Path], *, name: str, text: str | None = None, **options: Any
) -> list[SourceFile]:
    """Returns the files that paths name, sorted, each with its format and options.

    `format` is one of `FORMATS`; None tells it from each file's name. `name` is the source's. `text` names the field of the
    text in formats that have fields. `options` are the format's own.

    Raises FileNotFoundError where a path matches no file, ValueError for an unknown format or option.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f'sources: "{name}": no format "{format}"; known: {", ".join(FORMATS)}')
    files = list_files(paths) if format is None or FORMATS[format].of_files else [str(path) for path in paths]
    formats = [FORMATS[format or _told_format(file, name)] for file in files]
    made = {each: _options(each, options, text, name) for each in dict.fromkeys(formats)}
    return [SourceFile(file, each, made[each]) for file, each in zip(files, formats, strict=True)]


def no_documents(name: str, files: int, report: ReadReport) -> ValueError:
    """Returns the error of a source without a single document, which tells what was passed over instead."""
    found = [f"{count} ({reason})" for reason, count in report.skipped.items()]
    found += [f"{report.corrupt} corrupt, first {report.problems[0]}"] if report.corrupt else []
    what = f"passed over {'; '.join(found)}" if found else "nothing in them"
    return ValueError(f'sources: "{name}": not one document in {files} files: {what}')


def _documents(files: Sequence[SourceFile], reading: Reading) -> Iterator[Document]:
    before = reading.report.documents
    for file in files:
        yield from file.read(reading)
    if reading.report.documents == before:
        raise no_documents(reading.name, len(files), reading.report)


def _told_format(file: str, name: str) -> str:
    """Returns the name of the format that a file's name tells."""
    bare = bare_name(file).lower()
    for format, each in FORMATS.items():
        if each.endings and bare.endswith(each.endings):
            return format
    raise ValueError(f'sources: "{name}": {file}: the name tells no format; set format to one of {", ".join(FORMATS)}')


def _options(format: Format, options: Mapping[str, Any], text: str | None, name: str) -> Any:
    if text is not None and any(field.name == "text" for field in dataclasses.fields(format.options)):
        options = {**options, "text": text}
    return configuration.make(format.options, options, where=f'sources: "{name}": options')
