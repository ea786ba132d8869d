"""Named tensors of a checkpoint, read one at a time, whatever file format holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# TensorFlow takes over numpy's memory without a copy when it is aligned like its own.
_ALIGNMENT = 64
# Measured: numpy's own transposing copy runs at 0.6 to 4 GB/s, in strips of 16 rows at 4 to 11 GB/s.
_STRIP = 16


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a checkpoint: what is known before it is read, and how to read it.

    `read` returns a new array each time, which is the caller's to keep and to change.
    """

    name: str  # as the file has it: views may call it otherwise
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    read_rows: Callable[[int, np.ndarray], None] | None = None
    """Fills an array [n, ...] with n rows from one on, where a file can be read so. Threads may call it at the same time."""


class Weights(Mapping[str, np.ndarray]):
    """A lazy mapping from names to arrays; indexing reads one tensor, everything else reads none.

    Every access gives a new array that belongs to the caller: nothing is cached, so a checkpoint costs no more memory
    than the tensors that are held at one time. Use it as a context manager, or let it close with the object.
    """

    def __init__(self, tensors: Iterable[tuple[str, StoredTensor]], *, path: Path, close: Callable[[], None]):
        self.path = Path(path)
        self._close = close
        self._tensors: dict[str, StoredTensor] = {}
        for name, tensor in tensors:
            if name in self._tensors:
                other = self._tensors[name]
                raise ValueError(
                    f'{self.path}: two tensors are called "{name}": "{other.name}" in {other.path.name} and '
                    f'"{tensor.name}" in {tensor.path.name}; keep one of them'
                )
            self._tensors[name] = tensor

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # Mapping's own would read the tensor to see whether it is there.
    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __repr__(self) -> str:
        return f"Weights({str(self.path)!r}, {len(self)} tensors)"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor as it is stored, without reading it."""
        return self._tensors[name].dtype

    def source(self, name: str) -> StoredTensor:
        """Where a tensor comes from: its file and its name there."""
        return self._tensors[name]

    def rename(self, new_name: Callable[[str], str]) -> Weights:
        """The same tensors under other names. Raises ValueError when two tensors get one name."""
        return Weights(
            ((new_name(name), tensor) for name, tensor in self._tensors.items()), path=self.path, close=self._close
        )

    def close(self) -> None:
        """Close the files; reading afterwards raises ValueError. Views that `rename` made close with it."""
        self._close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def strip_prefix(weights: Weights, prefix: str) -> Weights:
    """A view in which `bert.encoder...` (saved from a model with a head) and `encoder...` (saved bare) look the same.

    Names without the prefix, such as a head's own, stay as they are.
    """
    return weights.rename(lambda name: name.removeprefix(prefix))


def alias(weights: Weights, name: str, existing: str) -> Weights:
    """A view that has the tensor `existing` under a second name too, unless some tensor is called that already.

    For tensors that are one in some checkpoints and two in others, such as an output layer's bias.
    """
    tensors = {known: weights.source(known) for known in weights}
    if existing in tensors:
        tensors.setdefault(name, tensors[existing])
    return Weights(tensors.items(), path=weights.path, close=weights.close)


def modern_names(weights: Weights) -> Weights:
    """A view in which the layer norms of checkpoints converted from TensorFlow 1 are called as everywhere else.

    Such checkpoints say `LayerNorm.gamma` and `LayerNorm.beta` for `LayerNorm.weight` and `LayerNorm.bias`.
    """

    def modern(name: str) -> str:
        if name.endswith("LayerNorm.gamma"):
            return name.removesuffix("gamma") + "weight"
        if name.endswith("LayerNorm.beta"):
            return name.removesuffix("beta") + "bias"
        return name

    return weights.rename(modern)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`np.empty`, in memory that TensorFlow can take over as it is."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT - 1, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def copy_transposed(source: np.ndarray, target: np.ndarray) -> None:
    """Copy a matrix [n, m] into a matrix [m, n], or a vector into a vector."""
    if source.ndim != 2:
        np.copyto(target, source.T)
        return
    for row in range(0, source.shape[0], _STRIP):
        target[:, row : row + _STRIP] = source[row : row + _STRIP].T
