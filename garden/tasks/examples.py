"""Labelled texts, from lists, files or tf.data, as batches of raw strings."""

from __future__ import annotations

import ast
import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

# Marks our own messages inside TensorFlow's.
_MARK = "<<garden>>"


@dataclass(frozen=True)
class Examples:
    """Texts, perhaps their second halves, perhaps their labels; all of one length."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: list[Any] | None = None

    def __post_init__(self):
        for name, values in (("second texts", self.pairs), ("labels", self.labels)):
            if values is not None and len(values) != len(self.texts):
                raise ValueError(f"expected as many {name} as texts, got {len(values)} for {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> Examples:
        return Examples(*(None if column is None else column[part] for column in (self.texts, self.pairs, self.labels)))


def read_examples(
    path: str | Path,
    *,
    text: str = "text",
    pair: str | None = None,
    label: str | None = "label",
    words: bool = False,
) -> Examples:
    """Reads a JSONL, CSV or TSV file, gzipped or not (`.jsonl`, `.json`, `.csv`, `.tsv`, each perhaps with `.gz`).

    Args:
        path: the file, UTF-8. CSV and TSV files start with a line of column names.
        text, pair, label: the fields to take; None: do not take it.
        words: whether a text may be a list of words too.

    Raises FileNotFoundError, or ValueError naming the file, the line and the field, for anything but a well-formed file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .jsonl, .csv or .tsv file")
    wanted = [name for name in (text, pair, label) if name]
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    reader = {".jsonl": _json_lines, ".json": _json_lines, ".csv": _csv_lines, ".tsv": _csv_lines}.get(
        suffixes[-1] if suffixes else ""
    )
    if reader is None:
        raise ValueError(f"{path}: expected a name that ends in .jsonl, .json, .csv or .tsv (perhaps .gz)")
    columns: dict[str, list] = {name: [] for name in wanted}
    for where, record in reader(path):
        for name in wanted:
            value = record.get(name)
            if value is None:
                has = ", ".join(sorted(str(key) for key in record)) or "nothing"
                raise ValueError(f'{where}: no field "{name}"; the line has {has}')
            parts = value if words and name == text and isinstance(value, list) else [value]
            if name != label and not all(isinstance(part, str) for part in parts):
                raise ValueError(f'{where}: field "{name}": expected a string, got {value!r}')
            if not all(_is_unicode(part) for part in parts if isinstance(part, str)):
                raise ValueError(f'{where}: field "{name}": not valid Unicode (half a surrogate pair): {value!r:.60}')
            columns[name].append(value)
    if not columns[text]:
        raise ValueError(f"{path}: no examples in it")
    return Examples(columns[text], columns[pair] if pair else None, columns[label] if label else None)


def _json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error}): {_shortened(line)}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: expected a JSON object, got {_shortened(line)}")
        yield where, record


def _csv_lines(path: Path) -> Iterator[tuple[str, dict]]:
    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    lines = csv.DictReader(_lines(path), delimiter=delimiter, strict=True)
    try:
        for record in lines:
            where = f"{path}, line {lines.line_num}"
            if None in record or None in record.values():
                count = len([value for key, value in record.items() if key is not None and value is not None])
                count += len(record.get(None) or [])
                raise ValueError(f"{where}: expected {len(lines.fieldnames)} columns, got {count}")
            yield where, record
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.reader.line_num}: not CSV ({error})") from None


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007
                yield line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {number}: not UTF-8 ({error.reason}); convert the file") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read on ({error})") from None


def _shortened(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 60 else line[:57] + "..."


def as_examples(
    x: Any, y: Any = None, *, label: str | None = "label", pair: str | None = None, words: bool = False
) -> Examples:
    """Returns lists, arrays or a file's path as examples; TypeError for anything else.

    Pairs of texts are a tuple of two sequences or a list of two-tuples. `label` and `pair` are the fields of a file's labels
    and second texts, None where they are not wanted; `words`: whether a file's texts may be lists of words.
    """
    if isinstance(x, (str, Path, Examples)):
        if y is not None:
            raise ValueError(
                f"labels come with the {'examples' if isinstance(x, Examples) else f'file {x}'}; give no others"
            )
        return x if isinstance(x, Examples) else read_examples(x, label=label, pair=pair, words=words)
    labels = None if y is None else _as_list(y)
    if isinstance(x, tuple) and len(x) == 2 and not isinstance(x[0], (str, bytes)):
        first, second = (_strings(_as_list(side)) for side in x)
        return Examples(first, second, labels)
    if isinstance(x, (Sequence, np.ndarray, tf.Tensor)):
        values = _as_list(x)
        if values and all(isinstance(value, (tuple, list)) and len(value) == 2 for value in values):
            return Examples(_strings([a for a, _ in values]), _strings([b for _, b in values]), labels)
        return Examples(_strings(values), None, labels)
    raise TypeError(f"expected texts as a list, a file's path or a tf.data.Dataset, got {type(x).__name__}")


def _as_list(values: Any) -> list:
    if isinstance(values, tf.Tensor):
        values = values.numpy()
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _strings(values: list) -> list[str]:
    for index, value in enumerate(values):
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"text {index}: expected a string, got {value!r}")
        if isinstance(value, str) and not _is_unicode(value):
            raise ValueError(f"text {index}: not valid Unicode (half a surrogate pair): {value!r:.60}")
    with contextlib.suppress(UnicodeDecodeError):
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    return values


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked(condition: tf.Tensor, name: str, value: tf.Tensor, expected: str) -> tf.Operation:
    """Returns an operation that fails unless `condition` holds: `clear_errors` makes it `ValueError: name "value" expected`."""
    message = tf.strings.reduce_join(tf.concat([[f'{_MARK}{name} "'], value, [f'" {expected}{_MARK}']], axis=0))
    return tf.debugging.Assert(condition, [message])


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turns what `checked` raised deep inside a tf.data pipeline into a ValueError of one line."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        parts = str(error).split(_MARK)
        if len(parts) < 3:
            raise
        # TensorFlow shows strings with quotes and line breaks escaped, as a literal has them.
        message = ast.literal_eval(f'"{parts[1]}"')
        raise ValueError(f"dataset: {message}") from None
