"""Read TensorFlow's own checkpoints (`NAME.index` beside `NAME.data-00000-of-00001`), those of TensorFlow 1 and of 2.

TensorFlow 1 stores each variable under its name. TensorFlow 2 stores a graph of objects: a variable's key is the path of
attributes that led to it when it was saved, and its name, which says what it is for whatever the path, is in the graph.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from garden.checkpoints.weights import StoredTensor, Weights, aligned_empty, copy_transposed

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Variables of optimisers are called as those that they belong to: only their keys tell them apart.
_OPTIMIZER_PARTS = {".OPTIMIZER_SLOT", "optimizer", "_variables"}
# What TensorFlow's reader raises, by the kind of damage.
_UNREADABLE = (tf.errors.OpError, RuntimeError, ValueError, LookupError, MemoryError, DecodeError)
_DATA_FILE = re.compile(r"\.(index|data-\d{5}-of-\d{5})")


@dataclass(frozen=True)
class Checkpoint:
    """The variables of a checkpoint, by name, without those of optimisers."""

    prefix: Path
    object_based: bool  # whether TensorFlow 2 wrote it
    variables: Mapping[str, StoredTensor]


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The prefix of a checkpoint's files: `path` itself, or, in a directory, the latest or only one.

    Raises FileNotFoundError when there is none or a part of it is missing, ValueError when there are several.
    """
    path = Path(path)
    if not path.is_dir():
        prefix = path.with_name(_DATA_FILE.sub("", path.name))
        if not _index(prefix).is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint ({_index(prefix).name} is missing)")
        return _whole(prefix)
    prefixes = sorted(file.with_suffix("") for file in path.glob("*.index"))
    if not prefixes:
        raise FileNotFoundError(f"{path}: no TensorFlow checkpoint (NAME.index beside NAME.data-00000-of-00001)")
    latest = _latest(path)
    if latest in prefixes:
        return _whole(latest)
    if len(prefixes) > 1:
        names = ", ".join(prefix.name for prefix in prefixes)
        raise ValueError(f"{path}: several checkpoints ({names}); name one: {prefixes[-1]}")
    return _whole(prefixes[0])


def open_checkpoint(prefix: Path) -> Checkpoint:
    """Describe a checkpoint's variables; each is read when it is asked for.

    Raises ValueError, naming the file and what is wrong with it, when one is corrupt.
    """
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        keys = {name: name for name in shapes}
        object_based = _OBJECT_GRAPH in shapes
        if object_based:
            graph = trackable_object_graph_pb2.TrackableObjectGraph()
            graph.ParseFromString(reader.get_tensor(_OBJECT_GRAPH))
            keys = _keys_by_name(graph, shapes)
    except _UNREADABLE as error:
        raise ValueError(
            f"{_index(prefix)}: cannot be read ({_first_line(error)}); copy or download it again"
        ) from None
    variables = {
        name: StoredTensor(
            name=key,
            path=prefix,
            shape=tuple(shapes[key]),
            dtype=np.dtype(types[key].as_numpy_dtype),
            read=partial(_read, reader, prefix, key),
        )
        for name, key in keys.items()
        if _OPTIMIZER_PARTS.isdisjoint(key.split("/")) and types[key] != tf.string
    }
    return Checkpoint(prefix, object_based, variables)


def _keys_by_name(
    graph: trackable_object_graph_pb2.TrackableObjectGraph, shapes: Mapping[str, object]
) -> dict[str, str]:
    """Variable name -> key. Where two variables have one name, as in models of two encoders, the keys are their names."""
    keys: dict[str, str] = {}
    for node in graph.nodes:
        for attribute in node.attributes:
            key, name = attribute.checkpoint_key, attribute.full_name or attribute.checkpoint_key
            if key in shapes and not _OPTIMIZER_PARTS.intersection(key.split("/")):
                keys[key if name in keys else name] = key
    return keys


def _read(reader: tf.train.CheckpointReader, prefix: Path, key: str) -> np.ndarray:
    try:
        return np.asarray(reader.get_tensor(key))
    except _UNREADABLE as error:
        raise ValueError(
            f'{prefix}: "{key}" cannot be read ({_first_line(error)}); copy or download it again'
        ) from None


def _index(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def _whole(prefix: Path) -> Path:
    """The prefix, once it is sure that all its files are there."""
    files = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-?????-of-?????"))
    counts = {file.name.rsplit("-", 1)[1] for file in files}
    if len(counts) != 1 or len(files) != int(counts.pop()):
        raise FileNotFoundError(f"{prefix}: files of its data are missing ({prefix.name}.data-...); copy all of them")
    return prefix


def _latest(directory: Path) -> Path | None:
    """What the file `checkpoint` names, as a file of this directory: it may have been written elsewhere."""
    try:
        state = tf.train.get_checkpoint_state(str(directory))
    except (tf.errors.OpError, ValueError):
        return None
    return directory / Path(state.model_checkpoint_path).name if state else None


def _first_line(error: Exception) -> str:
    return str(getattr(error, "message", None) or error).split("\n", 1)[0]


# ---- Published names -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Renaming:
    """How one kind of variable is called and stored in the Hugging Face layout."""

    pattern: re.Pattern[str]  # of the whole name
    name: str  # with the pattern's groups as \\1
    stored: Callable[[tuple[int, ...]], tuple[int, ...]]  # shape of the tensor [out, in]
    transposed: bool  # whether the variable is [in, out]


def renaming(pattern: str, name: str, *, inputs: int | None = None) -> Renaming:
    """A variable under another name; of a kernel, `inputs` tells how many of its axes are inputs.

    A kernel [in..., out...] becomes [out, in], with axes that belong together (heads and their width) made one. Anything
    else becomes a vector or stays a matrix.
    """

    def stored(shape: tuple[int, ...]) -> tuple[int, ...]:
        if inputs is None:
            return shape
        if inputs == 0:  # a bias, perhaps [heads, width]
            return (int(np.prod(shape)),)
        return int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs]))

    return Renaming(re.compile(rf"(?:.*/)?{pattern}"), name, stored, bool(inputs))


def renamed(checkpoint: Checkpoint, renamings: Iterable[Renaming]) -> tuple[Weights, list[str]]:
    """The variables under published names, and the names of those that no renaming knows.

    Raises ValueError when two variables get one name, as in a checkpoint of two encoders.
    """
    renamings = list(renamings)
    tensors: list[tuple[str, StoredTensor]] = []
    left: list[str] = []
    for name, tensor in checkpoint.variables.items():
        for each in renamings:
            if match := each.pattern.fullmatch(name):
                shape = each.stored(tensor.shape)
                read = partial(_as_stored, tensor, shape) if each.transposed else partial(_reshaped, tensor, shape)
                stored = StoredTensor(
                    name=tensor.name, path=checkpoint.prefix, shape=shape, dtype=tensor.dtype, read=read
                )
                tensors.append((match.expand(each.name), stored))
                break
        else:
            left.append(name)
    return Weights(tensors, path=checkpoint.prefix, close=lambda: None), left


def _reshaped(tensor: StoredTensor, shape: tuple[int, ...]) -> np.ndarray:
    return tensor.read().reshape(shape)


def _as_stored(tensor: StoredTensor, shape: tuple[int, ...]) -> np.ndarray:
    result = aligned_empty(shape, tensor.dtype)
    copy_transposed(tensor.read().reshape(shape[::-1]), result)
    return result
