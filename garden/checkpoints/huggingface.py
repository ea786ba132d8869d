"""Directories in the Hugging Face layout: `config.json` beside `model.safetensors` or an index and its shards.

Where there is no safetensors file, PyTorch's `pytorch_model.bin`, or its index and shards, is read instead.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from garden.checkpoints.safetensors import SafetensorsFile, write_safetensors
from garden.checkpoints.torch_files import TorchFile
from garden.checkpoints.weights import StoredTensor, Weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# What this module writes as shards, and so may delete when a newer save replaces it.
_SHARD = re.compile(r"model(-\d+)?-\d{5}-of-\d{5}\.safetensors")
# A whole file beside an index wins, as it does in transformers; `write_weights` relies on it.
READ_FORMATS: tuple[tuple[str, str, type], ...] = (
    (WEIGHTS_FILE, INDEX_FILE, SafetensorsFile),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", TorchFile),
)
"""What holds the weights, first choice first: one file, or an index of shards, and their reader."""

_UNREAD_FORMATS = ("tf_model.h5", "flax_model.msgpack")
_CONVERTED_FORMATS = ("model.ckpt.index", "bert_model.ckpt.index", "saved_model.pb")


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
    """The object in a directory's `config.json`.

    Raises FileNotFoundError when the directory or the file is missing, ValueError when it is not a JSON object.
    """
    return _read_json_object(_existing_directory(directory) / CONFIG_FILE, remedy="a model's directory has one")


def write_config(directory: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Write a directory's `config.json`, replacing the old one only when the new one is complete."""
    directory = _made_directory(directory)
    with _scratch(directory) as scratch:
        _write_json(scratch / CONFIG_FILE, dict(config))
        os.replace(scratch / CONFIG_FILE, directory / CONFIG_FILE)


def open_weights(directory: str | os.PathLike) -> Weights:
    """Open a directory's `model.safetensors`, or its `model.safetensors.index.json` and shards; tensors are read later.

    Without these, `pytorch_model.bin` or its index and shards. All headers are checked at once. Raises FileNotFoundError
    when the directory, the weights or a shard is missing, and ValueError, naming the file and what is wrong with it,
    when one is corrupt.
    """
    directory = _existing_directory(directory)
    for whole, index, kind in READ_FORMATS:
        if (directory / whole).exists():
            file = kind(directory / whole)
            return _weights(directory / whole, file.tensors.items(), [file])
        if (directory / index).exists():
            return _open_shards(directory / index, kind)
    message = f"{directory}: no {WEIGHTS_FILE} and no {INDEX_FILE}"
    if converted := [name for name in _CONVERTED_FORMATS if (directory / name).exists()]:
        message += f"; convert {' and '.join(converted)} first: garden convert --to NEW_DIRECTORY {directory}"
    elif others := [name for name in _UNREAD_FORMATS if (directory / name).exists()]:
        message += (
            f"; {' and '.join(others)} cannot be read: convert the tensors with the safetensors library "
            "(safetensors.flax.save_file, safetensors.tensorflow.save_file)"
        )
    else:
        message += "; save the model there first, or give the directory that has it"
    raise FileNotFoundError(message)


def write_weights(
    directory: str | os.PathLike,
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write tensors as `model.safetensors`, or, when they take more than `max_shard_bytes`, as shards and their index.

    At any moment the directory holds all of the old weights or all of the new ones: files are written aside, and one
    rename (or, from one file to shards, one deletion) switches. The tensors of one shard are held at a time. Raises
    ValueError for names that occur twice and types that the format does not have.
    """
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes: expected a positive number, got {max_shard_bytes}")
    directory = _made_directory(directory)
    # transformers refuses files that do not say which framework's conventions their tensors follow.
    metadata = {"format": "pt"}
    with _scratch(directory) as scratch:
        names: list[list[str]] = []
        total_size = 0
        for shard in _shards(tensors, max_shard_bytes):
            write_safetensors(scratch / str(len(names)), shard, metadata)
            names.append(list(shard))
            total_size += sum(array.nbytes for array in shard.values())

        if len(names) == 1:
            os.replace(scratch / "0", directory / WEIGHTS_FILE)
            kept = set()
        else:
            files = _shard_names(directory, len(names))
            index = {
                "metadata": {"total_size": total_size},
                "weight_map": {name: file for file, held in zip(files, names, strict=True) for name in sorted(held)},
            }
            _write_json(scratch / INDEX_FILE, index)
            for number, file in enumerate(files):
                os.replace(scratch / str(number), directory / file)
            os.replace(scratch / INDEX_FILE, directory / INDEX_FILE)
            (directory / WEIGHTS_FILE).unlink(missing_ok=True)
            kept = {INDEX_FILE, *files}
    # The switch is done, nothing reads these any more.
    for path in list(directory.iterdir()):
        if path.name not in kept and (path.name == INDEX_FILE or _SHARD.fullmatch(path.name)):
            path.unlink()


def _open_shards(index_path: Path, kind: type) -> Weights:
    index = _read_json_object(index_path, remedy="copy or download it again")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f'{index_path}: "weight_map" does not map tensors to files; copy or download it again')

    shards: dict[str, SafetensorsFile | TorchFile] = {}
    tensors: list[tuple[str, StoredTensor]] = []
    try:
        for name, file in weight_map.items():
            if file not in shards:
                shards[file] = _open_shard(index_path, file, kind)
            if name not in shards[file].tensors:
                raise ValueError(
                    f'{index_path}: tensor "{name}" is said to be in {file}, which does not have it; '
                    "index and shards are of different saves, copy or download them again"
                )
            tensors.append((name, shards[file].tensors[name]))
        return _weights(index_path, tensors, shards.values())
    except BaseException:
        for shard in shards.values():
            shard.close()
        raise


def _open_shard(index_path: Path, file: str, kind: type) -> SafetensorsFile | TorchFile:
    # A downloaded index must not make us read files elsewhere.
    if file in ("", ".", "..") or re.search(r"[/\\\0:]", file):
        raise ValueError(f"{index_path}: shard {file!r} is not the name of a file in the same directory")
    try:
        return kind(index_path.parent / file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{index_path}: shard {file} is missing; copy or download it again") from None


def _weights(
    path: Path, tensors: Iterable[tuple[str, StoredTensor]], files: Iterable[SafetensorsFile | TorchFile]
) -> Weights:
    files = tuple(files)

    def close() -> None:
        for file in files:
            file.close()

    return Weights(tensors, path=path, close=close)


def _shards(
    tensors: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]], max_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    """Consecutive tensors of at most `max_bytes` together; a larger one alone; one empty shard when there is none."""
    shard: dict[str, np.ndarray] = {}
    size = 0
    seen: set[str] = set()
    for name, array in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name in seen:
            raise ValueError(f'two tensors are called "{name}"; every name may be written once')
        seen.add(name)
        array = np.asanyarray(array)
        if shard and size + array.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = array
        size += array.nbytes
    yield shard


def _shard_names(directory: Path, count: int) -> list[str]:
    """Names that no file has yet: overwriting shards that the old index names would mix two saves."""
    present = {path.name for path in directory.iterdir()}
    save = 1
    while True:
        stem = "model" if save == 1 else f"model-{save}"
        names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        if present.isdisjoint(names):
            return names
        save += 1


def _existing_directory(directory: str | os.PathLike) -> Path:
    directory = Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: no such directory; give the directory that holds {CONFIG_FILE}")
    if not directory.is_dir():
        raise ValueError(f"{directory}: not a directory; give the directory that holds {CONFIG_FILE}")
    return directory


def _made_directory(directory: str | os.PathLike) -> Path:
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{directory}: is a file, or lies below one; give another directory to save in") from None
    return directory


@contextmanager
def whole_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """Gives a directory to write a model's files in, which becomes `directory` when all of them are written.

    A directory that exists already is written in place, file by file, so that what else lies there stays.
    """
    directory = Path(directory)
    if directory.exists():
        yield _made_directory(directory)
        return
    _made_directory(directory.parent)
    with _scratch(directory.parent) as scratch:
        model = scratch / "model"
        model.mkdir()
        yield model
        model.rename(directory)


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    # Inside the target, so that renaming out of it stays on one file system.
    with tempfile.TemporaryDirectory(dir=directory, prefix=".writing-") as name:
        yield Path(name)


def _read_json_object(path: Path, *, remedy: str) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
