"""Tables: JSON lines, CSV, TSV and Parquet files, with the text in one field."""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from training import configuration
from training.configuration import key, shown
from training.corpora.documents import CorruptRecord, Document, Reading, paragraphs
from training.corpora.files import LONGEST_RECORD, lines, open_raw, open_stream
from training.corpora.libraries import library

BATCH = 256  # rows of a Parquet file that are held at a time
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can escape one, UTF-8 has none


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of the formats whose records have fields."""

    text: str = key("field that holds the text; a dotted name, such as translations.de, lies deeper", "text")
    skip_empty: bool = key("count rows without text and go on, instead of stopping at the first", True)


@dataclass(frozen=True, kw_only=True)
class CSVOptions(TableOptions):
    """Options of the formats `csv` and `tsv`."""

    delimiter: str = key("between cells", ",")
    quoted: bool = key('cells may stand in quotes, "..."', True)
    columns: list[str] = key("names of the columns; default: the first row", list)

    def __post_init__(self):
        configuration.check(self)
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"':
            raise ValueError(f"delimiter: expected one character, got {self.delimiter!r}")


@dataclass(frozen=True, kw_only=True)
class TSVOptions(CSVOptions):
    """Options of the format `tsv`."""

    delimiter: str = key("between cells", "\t")


def read_jsonl(path: str, reading: Reading, options: TableOptions) -> Iterator[Document]:
    """Yields the documents of a file of one JSON object a line.

    Raises CorruptRecord for a line that is not JSON in UTF-8 or whose text is none, ValueError where there is no such field.
    """
    field = Field(path, reading, options)
    with open_stream(path) as stream:
        for number, raw in enumerate(lines(stream, path), start=1):
            where = f"line {number}"
            try:
                record = _parsed(raw, first=number == 1)
            except UnicodeDecodeError as error:
                reading.corrupt(_not_utf8(path, where, raw, error))
                continue
            except (ValueError, RecursionError) as error:
                if raw.strip():
                    what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    reading.corrupt(CorruptRecord(path, where, f"not JSON: {what}"))
                continue
            if isinstance(record, dict):
                yield from field.documents(record, where)
            else:
                what = f"expected an object with fields, got {shown(json.dumps(record))}"
                reading.corrupt(CorruptRecord(path, where, what))


def _parsed(line: bytes, *, first: bool) -> Any:
    """Returns what a line of JSON says; errors as Python's, which takes what orjson does not: NaN, halves of surrogates."""
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line.decode("utf-8-sig" if first else "utf-8"))


def read_csv(path: str, reading: Reading, options: CSVOptions) -> Iterator[Document]:
    """Yields the documents of a file of comma- or tab-separated values.

    Raises CorruptRecord for a row that is not of the header's length or not UTF-8, ValueError where there is no such field.
    """
    field = Field(path, reading, options)
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))  # the process's, and too small for a book
    columns = list(options.columns)
    with open_stream(path) as stream:
        decoded = _DecodedLines(lines(stream, path), path, reading)
        rows = None
        while True:
            rows = rows or _rows(decoded, options)
            begin = decoded.number + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                reading.corrupt(CorruptRecord(path, f"line {begin}", f"not a row of values: {error}"))
                rows = None  # a reader that has failed holds the beginning of the row
                continue
            if row is None:
                return
            if not row:
                continue
            if not columns:
                columns = row
            elif len(row) != len(columns):
                what = f"a row of {len(row)} values where there are {len(columns)} columns"
                reading.corrupt(CorruptRecord(path, f"line {begin}", what))
            else:
                yield from field.documents(dict(zip(columns, row, strict=True)), f"line {begin}")


def read_parquet(path: str, reading: Reading, options: TableOptions) -> Iterator[Document]:
    """Yields the documents of a Parquet file, reading the column of the text and no other.

    Raises CorruptRecord for a file or a group of rows that cannot be read, ValueError where there is no such field.
    """
    parquet = library("pyarrow.parquet", "a Parquet file")
    field = Field(path, reading, options)
    with open_raw(path) as file:
        try:
            table = parquet.ParquetFile(file, buffer_size=1 << 20)  # streams pages instead of whole columns of a group
            names = list(_leaves(table.schema_arrow))
        except Exception as error:  # pyarrow raises its own, OSError, ValueError, and whatever a broken footer leads to
            raise CorruptRecord(
                path, "footer", f"not a Parquet file, or a truncated one: {_first_line(error)}"
            ) from None
        if not any(f"{name}.".startswith(f"{options.text}.") for name in names):
            raise _no_field(path, options.text, names)
        row = 0
        for group in range(table.num_row_groups):
            end = row + table.metadata.row_group(group).num_rows
            try:
                for record in _records(table, group, options.text):
                    row += 1
                    if isinstance(record, UnicodeDecodeError):
                        reading.corrupt(CorruptRecord(path, f"row {row}", f"not UTF-8: {record.reason}"))
                    else:
                        yield from field.documents(record, f"row {row}")
            except _UnreadableRows as error:
                what = f"the rows from here to {end} cannot be read: {error}"
                reading.corrupt(CorruptRecord(path, f"row {row + 1}", what))
            row = end


class Field:
    """The field of a file's records that holds the text."""

    def __init__(self, path: str, reading: Reading, options: TableOptions):
        self._path = path
        self._reading = reading
        self._name = options.text
        self._skip_empty = options.skip_empty
        self._seen = False

    def documents(self, record: Mapping[str, Any], place: str) -> Iterator[Document]:
        """Yields the document of a record, if it has a text.

        Text is a string, UTF-8 bytes, or a list of either: paragraphs. Raises CorruptRecord for a value that is none of these,
        ValueError where the file's first record has no such field.
        """
        try:
            value = _value(record, self._name)
        except KeyError:
            if not self._seen:  # in a later record, a field that is not there is an empty one
                raise _no_field(f"{self._path}, {place}", self._name, list(_keys(record))) from None
            value = None
        self._seen = True
        try:
            text = paragraphs(_text(value))
        except UnicodeDecodeError as error:
            self._reading.corrupt(CorruptRecord(self._path, place, f"not UTF-8: {error.reason}"))
        except TypeError as error:
            what = f'expected text in "{self._name}", got {error}'
            self._reading.corrupt(CorruptRecord(self._path, place, what))
        else:
            if text:
                yield self._reading.document(text, f"{self._path}, {place}")
            elif self._skip_empty:
                self._reading.report.skip("no text")
            else:
                what = f'no text in "{self._name}" (skip_empty: true counts such rows and goes on)'
                self._reading.corrupt(CorruptRecord(self._path, place, what))


def _value(record: Mapping[str, Any], name: str) -> Any:
    """Returns a field's value by its dotted name; None inside a field that is null. Raises KeyError where there is none."""
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    if not dot:
        raise KeyError(name)
    inside = record[head]
    if inside is None:
        return None
    if not isinstance(inside, Mapping):
        raise KeyError(name)
    return _value(inside, rest)


def _text(value: Any) -> str:
    """Returns a field's value as text; raises TypeError, with the value, where it is none."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, (str, bytes)) for each in value):
        return "\n".join(map(_text, value))
    raise TypeError(shown(value))


def _keys(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _leaves(fields: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted names in an Arrow schema or struct."""
    for field in fields:
        if field.type.num_fields and hasattr(field.type, "get_field_index"):  # a struct, not a list
            yield from _leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _no_field(where: str, name: str, there: list[str]) -> ValueError:
    more = f" and {len(there) - 20} more" if len(there) > 20 else ""
    return ValueError(f'{where}: no field "{name}"; set text to one of {", ".join(there[:20]) or "none"}{more}')


def _not_utf8(path: str, where: str, raw: bytes, error: UnicodeDecodeError) -> CorruptRecord:
    return CorruptRecord(
        path, f"{where}, byte {error.start + 1}", f"not UTF-8: 0x{raw[error.start]:02x}, {error.reason}"
    )


class _DecodedLines:
    """Lines as text, numbered; those that are not UTF-8 are corrupt records."""

    def __init__(self, raw_lines: Iterator[bytes], path: str, reading: Reading):
        self._lines = raw_lines
        self._path = path
        self._reading = reading
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            raw = next(self._lines)
            self.number += 1
            try:
                return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                self._reading.corrupt(_not_utf8(self._path, f"line {self.number}", raw, error))


def _rows(decoded: _DecodedLines, options: CSVOptions) -> Iterator[list[str]]:
    quoting = csv.QUOTE_MINIMAL if options.quoted else csv.QUOTE_NONE
    return csv.reader(decoded, delimiter=options.delimiter, quoting=quoting, strict=True)


class _UnreadableRows(Exception):  # noqa: N818 (it names what was found)
    """What pyarrow raises for rows of a damaged file."""


def _records(table: Any, group: int, column: str) -> Iterator[Mapping[str, Any] | UnicodeDecodeError]:
    try:
        for batch in table.iter_batches(BATCH, row_groups=[group], columns=[column]):
            try:
                records = batch.to_pylist()
            except UnicodeDecodeError:
                records = [_record(batch.slice(row, 1)) for row in range(batch.num_rows)]
            yield from records
    except Exception as error:  # pyarrow's own, OSError, MemoryError: whatever a damaged page leads to
        raise _UnreadableRows(_first_line(error)) from None


def _record(batch: Any) -> Mapping[str, Any] | UnicodeDecodeError:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
