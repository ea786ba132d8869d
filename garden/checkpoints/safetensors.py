"""Read and write safetensors files (https://huggingface.co/docs/safetensors) with numpy alone.

A file is the header's length (8 bytes, little endian), the header (JSON: name to type, shape and byte range) and the
tensors' bytes. The reader checks all of the header before the first tensor is read. It reads with `pread` into arrays
of their own rather than through a memory map, as the pages of a map count towards the process's memory too: loading
500 MB then peaks at 500 MB rather than 1,000 MB, at the same speed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from garden.checkpoints.open_file import OpenFile
from garden.checkpoints.weights import StoredTensor, aligned_empty, copy_transposed

# The reference library refuses longer headers, so that a corrupt length does not fill the memory.
MAX_HEADER_BYTES = 100_000_000

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# numpy 1 has arrays of at most 32 dimensions, and no array has more bytes than a pointer counts.
_MAX_RANK = 32
_MAX_BYTES = 2**63


class SafetensorsFile:
    """An open safetensors file: `tensors` describes what is in it, and each one's `read()` reads it.

    Raises FileNotFoundError when there is no such file, and ValueError, naming the file and what is wrong with it, when
    it is truncated or corrupt.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        # The tensors keep the file open too: it closes with the last of them, or at `close`.
        self._file = OpenFile(self.path)
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, StoredTensor] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; reading a tensor afterwards raises ValueError."""
        self._file.close()

    def _open(self) -> None:
        size = self._file.size()
        header, data_begin = self._read_header(size)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError(f'{self.path}: "__metadata__" in the header is not an object; the file is corrupt')
        self.metadata = metadata

        ranges = []
        for name, entry in header.items():
            dtype, shape, begin, end = self._check_entry(name, entry)
            ranges.append((begin, end, name))
            self.tensors[name] = StoredTensor(
                name=name,
                path=self.path,
                shape=shape,
                dtype=dtype,
                # Not a method of self: that cycle would keep the file open until the next garbage collection.
                read=partial(_read_array, self._file, name, shape, dtype, data_begin + begin),
                read_rows=partial(_read_rows, self._file, name, data_begin + begin),
            )

        # As in the reference library, the tensors fill the data region without holes and overlaps.
        expected = 0
        for begin, end, name in sorted(ranges):
            if begin != expected:
                what = "overlaps the tensor before it" if begin < expected else "leaves a hole before it"
                raise ValueError(
                    f'{self.path}: tensor "{name}" begins at byte {begin} of the data, expected {expected} '
                    f"({what}); the file is corrupt"
                )
            expected = end
        present = size - data_begin
        if present < expected:
            raise ValueError(
                f"{self.path}: the header describes {expected} bytes of tensors, the file has {present}; "
                "it is truncated, copy or download it again"
            )
        if present > expected:
            raise ValueError(
                f"{self.path}: {present - expected} bytes follow the last tensor; the file is corrupt, "
                "copy or download it again"
            )

    def _read_header(self, size: int) -> tuple[dict[str, Any], int]:
        if size < 8:
            raise ValueError(f"{self.path}: {size} bytes are too few for a safetensors file; copy or download it again")
        length = int.from_bytes(self._file.read(8, 0), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(
                f"{self.path}: a header of {length} bytes (the limit is {MAX_HEADER_BYTES}); "
                "this is not a safetensors file, or it is corrupt"
            )
        if length > size - 8:
            raise ValueError(
                f"{self.path}: a header of {length} bytes in a file of {size}; "
                "it is truncated or not a safetensors file, copy or download it again"
            )
        text = self._file.read(length, 8)
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}: the header is not valid JSON ({error}); the file is corrupt") from None
        if not isinstance(header, dict):
            raise ValueError(f"{self.path}: the header is not a JSON object; the file is corrupt")
        return header, 8 + length

    def _check_entry(self, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
        where = f'{self.path}: tensor "{name}"'
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise ValueError(f"{where} has no dtype, shape and data_offsets in the header; the file is corrupt")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise ValueError(f"{where} has type {kind!r}; types that are read: {', '.join(_DTYPES)}")
        dtype = _DTYPES[kind]
        if not _natural_numbers(shape):
            raise ValueError(f"{where} has shape {shape!r}; the file is corrupt")
        if len(shape) > _MAX_RANK or math.prod(max(size, 1) for size in shape) * dtype.itemsize >= _MAX_BYTES:
            raise ValueError(f"{where} has shape {shape!r}, larger than any array; the file is corrupt")
        if not _natural_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ValueError(f"{where} has data_offsets {offsets!r}; the file is corrupt")
        begin, end = offsets
        expected = math.prod(shape) * dtype.itemsize
        if end - begin != expected:
            raise ValueError(
                f"{where}: {kind} of shape {shape} takes {expected} bytes, its data_offsets give {end - begin}; "
                "the file is corrupt"
            )
        return dtype, tuple(shape), begin, end


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file and flush it to the disk.

    Arrays may be views in any order of memory: each one is copied only while it is written. The file is written in
    place; who needs the old one until the new one is complete writes aside and renames, as `write_weights` does.
    Raises ValueError for a type that the format has no name for.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    kinds = {name: _dtype_name(name, array) for name, array in tensors.items()}
    # Wide types first, as the reference library does, so that every tensor is aligned to its own type; then by name.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    begin = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": kinds[name],
            "shape": list(array.shape),
            "data_offsets": [begin, begin + array.nbytes],
        }
        begin += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"{path}: {len(tensors)} tensors need a header of {len(text)} bytes (the limit is {MAX_HEADER_BYTES})"
        )
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            array = tensors[name]
            file.write(_contiguous(array).reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())


def _dtype_name(name: str, array: np.ndarray) -> str:
    if name == "__metadata__":
        raise ValueError('a tensor may not be called "__metadata__": the format uses that name itself')
    kind = _NAMES.get(array.dtype.newbyteorder("="))
    if kind is None:
        known = ", ".join(str(dtype) for dtype in _NAMES)
        raise ValueError(
            f'tensor "{name}" has type {array.dtype}, which safetensors does not hold; cast it to: {known}'
        )
    return kind


def _contiguous(array: np.ndarray) -> np.ndarray:
    if array.dtype.byteorder == ">":
        return array.astype(array.dtype.newbyteorder("<"))
    if array.ndim == 2 and array.flags.f_contiguous:
        result = np.empty(array.shape, array.dtype)
        copy_transposed(array.T, result)
        return result
    return np.ascontiguousarray(array)


def _read_array(file: OpenFile, name: str, shape: tuple[int, ...], dtype: np.dtype, position: int) -> np.ndarray:
    if file.closed:
        raise ValueError(f'{file.path}: closed before tensor "{name}" was read; read inside the `with` block')
    array = aligned_empty(shape, dtype)
    file.read_into(memoryview(array.reshape(-1).view(np.uint8)), position)
    return array


def _read_rows(file: OpenFile, name: str, position: int, begin: int, rows: np.ndarray) -> None:
    if file.closed:
        raise ValueError(f'{file.path}: closed before tensor "{name}" was read; read inside the `with` block')
    if rows.size:
        file.read_into(memoryview(rows.reshape(-1).view(np.uint8)), position + begin * rows[0].nbytes)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f'the name "{twice}" is there twice')
    return result


def _natural_numbers(value: Any) -> bool:
    # bool is an int to Python.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
