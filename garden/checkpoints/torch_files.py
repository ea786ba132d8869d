"""Read PyTorch's `.bin` and `.pt` files of weights, without PyTorch and without running what is in them.

Since version 1.6 `torch.save` writes an uncompressed zip archive: `NAME/data.pkl`, a pickle that describes the tensors,
and a record `NAME/data/KEY` for each storage that they are views of. Before, it wrote a sequence: pickles of a magic
number, a version, the machine's type sizes, the description and the list of keys, then the storages, each behind its
length. Both are read by `torch_pickle`, and the tensors from their byte ranges when they are asked for.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from garden.checkpoints.open_file import OpenFile
from garden.checkpoints.torch_pickle import MAX_PICKLE_BYTES, TensorView, read_pickle
from garden.checkpoints.weights import StoredTensor, aligned_empty

_ZIP_BEGIN = b"PK\x03\x04"
_ZIP_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and of the extra field that follow
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# Under these names programs keep the weights among other things.
_NESTED = ("state_dict", "model_state_dict", "model")

# Where a storage's bytes are: position in the file and how many.
_Places = Mapping[str, tuple[int, int]]


class TorchFile:
    """An open PyTorch file: `tensors` describes what is in it, and each one's `read()` reads it.

    The file holds a dictionary of tensors, perhaps below "state_dict", "model_state_dict" or "model". Raises
    FileNotFoundError when there is no such file, and ValueError, naming the file and what is wrong with it, when it is
    truncated or corrupt, or holds anything that is not a tensor.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._file = OpenFile(self.path)
        self.tensors: dict[str, StoredTensor] = {}
        try:
            zipped = self._file.size() >= 4 and self._file.read(4, 0) == _ZIP_BEGIN
            described, places = (_read_zip if zipped else _read_legacy)(self._file)
            for name, view in _state_dict(described, self.path).items():
                self.tensors[name] = self._stored(name, view, places)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; reading a tensor afterwards raises ValueError."""
        self._file.close()

    def _stored(self, name: str, view: TensorView, places: _Places) -> StoredTensor:
        storage = view.storage
        where = f'{self.path}: tensor "{name}"'
        if storage.key not in places:
            raise ValueError(f'{where}: its storage "{storage.key}" is not in the file; copy or download it again')
        position, size = places[storage.key]
        needed = (storage.first + storage.count) * storage.dtype.itemsize
        if size < needed:
            raise ValueError(
                f'{where}: its storage "{storage.key}" has {size} bytes, expected {needed}; copy or download it again'
            )
        begin = position + storage.first * storage.dtype.itemsize + view.offset * view.dtype.itemsize
        return StoredTensor(
            name=name,
            path=self.path,
            shape=view.shape,
            dtype=view.dtype,
            # Not a method of self: that cycle would keep the file open until the next garbage collection.
            read=partial(_read_array, self._file, name, view, begin),
            read_rows=partial(_read_rows, self._file, name, begin) if _is_contiguous(view) else None,
        )


def _read_array(file: OpenFile, name: str, view: TensorView, position: int) -> np.ndarray:
    if file.closed:
        raise ValueError(f'{file.path}: closed before tensor "{name}" was read; read inside the `with` block')
    array = aligned_empty(view.shape, view.dtype)
    if not array.size:
        return array
    if _is_contiguous(view):
        file.read_into(memoryview(array.reshape(-1).view(np.uint8)), position)
        return array
    # A transposed matrix, a column, or the like.
    span = aligned_empty((view.span,), view.dtype)
    file.read_into(memoryview(span.view(np.uint8)), position)
    strides = [stride * view.dtype.itemsize for stride in view.strides]
    np.copyto(array, np.lib.stride_tricks.as_strided(span, view.shape, strides, writeable=False))
    return array


def _read_rows(file: OpenFile, name: str, position: int, begin: int, rows: np.ndarray) -> None:
    if file.closed:
        raise ValueError(f'{file.path}: closed before tensor "{name}" was read; read inside the `with` block')
    if rows.size:
        file.read_into(memoryview(rows.reshape(-1).view(np.uint8)), position + begin * rows[0].nbytes)


def _is_contiguous(view: TensorView) -> bool:
    """Whether the elements lie in the file as in an array. Strides of axes of size 1 may be anything."""
    expected = 1
    for size, stride in zip(view.shape[::-1], view.strides[::-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _state_dict(described: Any, path: Path) -> dict[str, TensorView]:
    """The tensors by name: what the file holds, or what it holds under a usual name."""
    if isinstance(described, dict):
        for name in _NESTED:
            if isinstance(described.get(name), dict):
                described = described[name]
                break
    if not isinstance(described, dict):
        raise ValueError(f"{path}: holds a {type(described).__name__}, expected a dictionary of tensors (a state_dict)")
    for name, value in described.items():
        if not isinstance(name, str) or not isinstance(value, TensorView):
            kind = "tensor" if isinstance(value, TensorView) else type(value).__name__
            raise ValueError(
                f"{path}: {name!r:.80} is a {kind}, expected a name and a tensor; save the model's state_dict() alone"
            )
    return described


# ---- Zip archives --------------------------------------------------------------------------------------------------


def _read_zip(file: OpenFile) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What the archive describes, and where its storages are."""
    try:
        with file.stream() as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error, IndexError) as error:
        raise ValueError(f"{file.path}: not a whole zip archive ({error}); copy or download it again") from None
    records = _records(file, entries)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{file.path}: a zip archive with {len(pickles)} data.pkl, expected one; not a PyTorch file")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records:
        raise ValueError(f"{file.path}: a TorchScript program, which is code; save the model's state_dict() instead")
    order = (
        file.read(min(records[f"{root}byteorder"][1], 8), records[f"{root}byteorder"][0])
        if (f"{root}byteorder" in records)
        else b"little"
    )
    if order != b"little":
        raise ValueError(f"{file.path}: byte order {order!r} is not supported; save it on a little-endian machine")

    position, size = records[pickles[0]]
    if size > MAX_PICKLE_BYTES:
        raise ValueError(
            f"{file.path}: data.pkl has {size} bytes, the limit is {MAX_PICKLE_BYTES}; the file is corrupt"
        )
    with file.stream() as stream:
        stream.seek(position)
        described, _ = read_pickle(stream, str(file.path))
        if stream.tell() > position + size:
            raise ValueError(f"{file.path}: data.pkl ends after its record; the file is corrupt")
    prefix = f"{root}data/"
    return described, {name.removeprefix(prefix): place for name, place in records.items() if name.startswith(prefix)}


def _records(file: OpenFile, entries: Iterable[zipfile.ZipInfo]) -> dict[str, tuple[int, int]]:
    """Name -> position and size of each record, all inside the file, uncompressed and apart from each other."""
    total = file.size()
    records: dict[str, tuple[int, int]] = {}
    end_before = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        where = f"{file.path}: record {entry.filename!r}"
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"{where} is compressed or encrypted, which PyTorch does not do; not a PyTorch file")
        if entry.filename in records:
            raise ValueError(f"{where} is there twice; the file is corrupt")
        begin = entry.header_offset
        if not end_before <= begin <= total - _ZIP_HEADER.size:
            raise ValueError(f"{where} overlaps another one or the file's end; the file is corrupt")
        signature, *lengths = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size, begin))
        begin += _ZIP_HEADER.size + sum(lengths)
        end_before = begin + entry.file_size
        if signature != _ZIP_BEGIN or end_before > total:
            raise ValueError(f"{where} is not where the directory says, or cut short; copy or download it again")
        records[entry.filename] = (begin, entry.file_size)
    return records


# ---- Sequences of before PyTorch 1.6 -------------------------------------------------------------------------------


def _read_legacy(file: OpenFile) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What the pickles describe, and where the storages behind them are."""
    where = str(file.path)
    with file.stream() as stream:
        try:
            magic, _ = read_pickle(stream, where)
        except ValueError as error:
            raise ValueError(f"{error} (neither a zip archive nor a PyTorch file of before version 1.6)") from None
        if magic != _LEGACY_MAGIC:
            raise ValueError(f"{where}: neither a zip archive nor a PyTorch file of before version 1.6")
        version, _ = read_pickle(stream, where)
        if version != _LEGACY_VERSION:
            raise ValueError(f"{where}: format version {version!r:.80}, expected {_LEGACY_VERSION}")
        machine, _ = read_pickle(stream, where)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise ValueError(f"{where}: was not written by a little-endian machine; save it on one")
        described, storages = read_pickle(stream, where)
        keys, _ = read_pickle(stream, where)
        position = stream.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{where}: no list of storages; the file is corrupt, copy or download it again")
    sizes = {storage.key: storage.dtype.itemsize for storage in storages}
    total = file.size()
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in sizes:
            raise ValueError(f'{where}: storage "{key}" belongs to no tensor; its length is unknown')
        if key in places or total - position < 8:
            raise ValueError(f'{where}: storage "{key}" is there twice or cut short; copy or download it again')
        count = int.from_bytes(file.read(8, position), "little", signed=True)
        size = count * sizes[key]
        position += 8
        if not 0 <= size <= total - position:
            raise ValueError(f'{where}: storage "{key}" of {size} bytes is cut short; copy or download it again')
        places[key] = (position, size)
        position += size
    return described, places
