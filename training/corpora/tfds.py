"""TensorFlow Datasets, by name: data sets that have been prepared on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.configuration import key
from training.corpora.documents import CorruptRecord, Document, Reading
from training.corpora.libraries import library
from training.corpora.tables import Field, TableOptions


@dataclass(frozen=True, kw_only=True)
class TFDSOptions(TableOptions):
    """Options of the format `tfds`."""

    split: str = key("part of the data set, such as train, or train[:10%]", "train")
    data_dir: str | None = key("directory of prepared data sets; default: TensorFlow Datasets' own", None)


def read_tfds(path: str, reading: Reading, options: TFDSOptions) -> Iterator[Document]:
    """Yields the texts of a data set, in the order it was written.

    `path` is a name such as `wiki40b/en` or `wiki40b/en:1.3.0`, or the directory of one version. Nothing is downloaded.

    Raises FileNotFoundError for a data set that is unknown or not prepared, ValueError where there is no such split or field,
    CorruptRecord where an example cannot be read.
    """
    datasets = library("tensorflow_datasets", "the format tfds")
    field = Field(f"{path}, {options.split}", reading, options)
    builder = _builder(datasets, path, options)
    # One file after the other: their order is that of the examples, whatever the machine.
    config = datasets.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        examples = builder.as_dataset(split=options.split, shuffle_files=False, read_config=config)
    except (ValueError, AssertionError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise ValueError(f'{path}: no split "{options.split}"; known: {known} ({_first_line(error)})') from None
    number = 0
    try:
        for number, example in enumerate(datasets.as_numpy(examples), start=1):
            yield from field.documents(_plain(example), f"example {number}")
    except _tensorflow_errors() as error:
        what = f"the examples from here on cannot be read: {_first_line(error)}"
        raise CorruptRecord(path, f"{options.split}, example {number + 1}", what) from None


def _builder(datasets: Any, path: str, options: TFDSOptions) -> Any:
    try:
        if os.path.exists(os.path.join(path, "dataset_info.json")):
            return datasets.builder_from_directory(path)
        builder = datasets.builder(path, data_dir=options.data_dir, try_gcs=False)
    except Exception as error:  # DatasetNotFoundError, errors of names and configs, each of its own class
        raise FileNotFoundError(f"{path}: TensorFlow Datasets knows no such data set: {_first_line(error)}") from None
    if not os.path.exists(os.path.join(builder.data_dir, "dataset_info.json")):
        remedy = "prepare it with `tfds build` or `download_and_prepare()`, or set data_dir"
        raise FileNotFoundError(f"{path}: not prepared in {builder.data_dir}; {remedy}")
    return builder


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    import tensorflow as tf  # late: only this format needs it

    return (tf.errors.OpError,)


def _plain(example: Any) -> Any:
    """Returns an example with lists in the place of arrays."""
    if isinstance(example, dict):
        return {name: _plain(value) for name, value in example.items()}
    return example.tolist() if hasattr(example, "tolist") else example


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
