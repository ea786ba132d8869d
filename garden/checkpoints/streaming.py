"""From a file into variables, a strip of rows at a time: no tensor is ever held twice.

The strips pass through memory that is used again and again, so that it stays in the processor's cache, and so that the
operating system hands out no page but the variables' own: that costs more than reading does. Two threads take turns at it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from garden.checkpoints.weights import StoredTensor, aligned_empty, copy_transposed

Layout = Literal["rows", "columns"]
"""How tensors lie in a variable: as they are, or each turned on its side, one beside the other on the last axis."""

STRIP_BYTES = 2**21
THREADS = min(2, os.cpu_count() or 1)


class Owned:
    """An array that nothing else changes while TensorFlow reads it. A plain array it would copy, lest somebody does."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._array


def can_stream(value, tensors: Sequence[StoredTensor]) -> bool:
    """Returns whether a variable's value can be written in strips, and tensors read so."""
    return isinstance(value, ResourceVariable) and all(t.read_rows is not None and t.shape for t in tensors)


def stream(
    jobs: Sequence[tuple[ResourceVariable, np.dtype, Layout, Sequence[StoredTensor]]], *, anew: bool = False
) -> None:
    """Fills variables, each of a type and laid out in a way, from tensors; casts where types differ.

    With `anew` each variable gets new memory: several times as fast, but the old memory stays in TensorFlow's pool. That
    costs nothing where it was never touched.
    """

    def work(mine: Sequence) -> None:
        memory = _Memory()
        for variable, dtype, layout, tensors in mine:
            _fill(variable, dtype, layout, tensors, memory, anew)

    # The largest first, each to the thread that has least to do.
    shares: list[list] = [[] for _ in range(THREADS)]
    sizes = [0] * THREADS
    for job in sorted(jobs, key=lambda job: -sum(map(_size, job[3]))):
        thread = sizes.index(min(sizes))
        shares[thread].append(job)
        sizes[thread] += sum(map(_size, job[3]))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, shares))


@dataclass
class _Memory:
    """Arrays of any shape over a few buffers, one a use; an array is good until the next of the same use."""

    buffers: dict[str, np.ndarray] = field(default_factory=dict)

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if use not in self.buffers or self.buffers[use].size < size:
            self.buffers[use] = aligned_empty((max(size, STRIP_BYTES),), np.dtype(np.uint8))
        return self.buffers[use][:size].view(dtype).reshape(shape)


def _fill(
    variable, dtype: np.dtype, layout: Layout, tensors: Sequence[StoredTensor], memory: _Memory, anew: bool
) -> None:
    target = aligned_empty(tuple(variable.shape), dtype) if anew else None
    column = 0
    for tensor in tensors:
        rows, row_shape = tensor.shape[0], tensor.shape[1:]
        row_bytes = math.prod(row_shape) * tensor.dtype.itemsize
        step = max(STRIP_BYTES // max(row_bytes, 1), 1)
        axis = len(row_shape) if layout == "columns" else 0
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            place = slice(column + begin, column + begin + count)
            wanted_shape = (*row_shape, count) if layout == "columns" else (count, *row_shape)
            part = target[(slice(None),) * axis + (place,)] if anew else memory.array("part", wanted_shape, dtype)
            if layout == "rows" and tensor.dtype == dtype:
                tensor.read_rows(begin, part)
            else:
                strip = memory.array("strip", (count, *row_shape), tensor.dtype)
                tensor.read_rows(begin, strip)
                if layout == "columns":
                    copy_transposed(strip, part)
                else:
                    np.copyto(part, strip, casting="unsafe")
            if not anew:
                _write(variable, part, axis, place.start)
        column += rows
    if anew:
        # The variable takes the array's memory over.
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.convert_to_tensor(Owned(target)))


def _write(variable: ResourceVariable, array: np.ndarray, axis: int, begin: int) -> None:
    """Writes a run of places of one axis into the variable's memory."""
    masked = 2**axis - 1  # all of the axes before
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle,
        begin=[0] * axis + [begin],
        end=[0] * axis + [begin + array.shape[axis]],
        strides=[1] * (axis + 1),
        begin_mask=masked,
        end_mask=masked,
        value=tf.convert_to_tensor(Owned(array)),
    )


def _size(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
