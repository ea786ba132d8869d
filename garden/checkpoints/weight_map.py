"""The map between a network's variables and a checkpoint's tensors: one list of rules, used to load and to save.

    rules = [
        copy("embeddings/words/table", "embeddings.word_embeddings.weight"),
        transposed("pooler/kernel", "pooler.dense.weight"),
        fused("encoder/0/attention/qkv/kernel", "query.weight", "key.weight", "value.weight"),
    ]
    load(variables, rules, open_weights(directory))
    write_weights(directory, dump(variables, rules))

A dense kernel is [in, out] in Keras and [out, in] in PyTorch, where y = x W^T.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from garden.checkpoints.streaming import Layout, Owned, can_stream, stream
from garden.checkpoints.weights import Weights, aligned_empty, copy_transposed


@dataclass(frozen=True)
class Rule:
    """How one variable is made of tensors of a checkpoint, and those of it.

    `read` takes one array per tensor and returns the variable's; `write` takes the variable's array and returns one per
    tensor, as views where it can: their shapes are what the checkpoint is checked against before anything is read.
    """

    variable: str  # path inside the network: "encoder/0/attention/qkv/kernel"
    tensors: tuple[str, ...]  # names in the checkpoint
    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray], Sequence[np.ndarray]]
    layout: Layout | None = None  # where it is one of these, `read` is not needed: see `streaming`


@dataclass(frozen=True)
class LoadReport:
    """What a load left out, by the checkpoint's names."""

    missing: tuple[str, ...]  # the network needs them, the checkpoint has not got them: variables kept their values
    unexpected: tuple[str, ...]  # the checkpoint has them, no rule and no pattern of `ignore` names them


def copy(variable: str, tensor: str) -> Rule:
    """The tensor as it is: embeddings, biases, norms."""
    return Rule(variable, (tensor,), read=lambda array: array, write=lambda array: (array,), layout="rows")


def transposed(variable: str, tensor: str) -> Rule:
    """A dense kernel: [in, out] in the network, [out, in] in the checkpoint."""
    return fused(variable, tensor)


def fused(variable: str, *tensors: str, sizes: Sequence[int] | None = None) -> Rule:
    """Several dense kernels [out_i, in], or biases [out_i], side by side on the last axis of one variable.

    `sizes` gives each part's share of that axis, in the order of `tensors`, when they are not equal (fewer key and
    value heads than query heads).
    """
    if sizes is not None and len(sizes) != len(tensors):
        raise ValueError(f"{variable}: expected {len(tensors)} sizes, one a tensor, got {len(sizes)} ({list(sizes)})")

    def read(*arrays: np.ndarray) -> np.ndarray:
        widths = [array.shape[0] for array in arrays]
        result = aligned_empty((*arrays[0].shape[1:], sum(widths)), arrays[0].dtype)
        end = 0
        for array, width in zip(arrays, widths, strict=True):
            copy_transposed(array, result[..., end : end + width])
            end += width
        return result

    def write(array: np.ndarray) -> list[np.ndarray]:
        width = array.shape[-1]
        if sizes is None:
            if width % len(tensors):
                raise ValueError(f"{variable}: {width} columns do not divide into {len(tensors)} equal parts")
            ends = [width // len(tensors) * part for part in range(1, len(tensors))]
        else:
            if sum(sizes) != width:
                raise ValueError(f"{variable}: sizes {list(sizes)} add up to {sum(sizes)}, the variable has {width}")
            ends = list(np.cumsum(sizes)[:-1])
        return [part.T for part in np.split(array, ends, axis=-1)]

    return Rule(variable, tuple(tensors), read, write, "columns")


def load(
    variables: Mapping[str, keras.Variable],
    rules: Iterable[Rule],
    weights: Weights,
    *,
    strict: bool = True,
    ignore: Iterable[str] = (),
    optional: Iterable[str] = (),
    untouched: bool = False,
) -> LoadReport:
    """Assign a checkpoint's tensors to variables, each cast to its variable's type.

    Every name, shape and type is checked before the first variable changes; then tensors are read in strips, or one
    variable's at a time. With `strict`, a tensor that is missing is an error, unless it matches (in full) a regular
    expression of `optional`, and so is one that nothing uses, unless it matches one of `ignore`; without `strict`, neither
    is. `untouched` says that nothing has been written to most variables' memory: they get other memory then, which is
    faster. The report lists what was missing and what was not used. Raises ValueError naming the tensors, both shapes and
    the file.
    """
    rules = _checked(rules, variables)
    used = {name for rule in rules for name in rule.tensors}
    missing = tuple(name for rule in rules for name in rule.tensors if name not in weights)
    unexpected = _without(ignore, (name for name in weights if name not in used))
    wrong = [problem for rule in rules for problem in _mismatches(rule, variables[rule.variable], weights)]
    if wrong:
        raise ValueError(f"{weights.path}: {_some(wrong, '; ')}; does config.json belong to these weights?")
    lacking = _without(optional, missing)
    if strict and (lacking or unexpected):
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", lacking), ("has unknown", unexpected)) if names]
        raise ValueError(
            f"{weights.path}: the checkpoint {' and '.join(parts)}; "
            "it belongs to another architecture or was saved by another kind of model"
        )
    absent = set(missing)
    streamed = []
    for rule in rules:
        if not absent.isdisjoint(rule.tensors):
            continue
        variable, tensors = variables[rule.variable], [weights.source(name) for name in rule.tensors]
        if rule.layout and can_stream(variable.value, tensors):
            streamed.append((variable.value, _dtype(variable), rule.layout, tensors))
        else:
            _assign(variable, rule.read(*(weights[name] for name in rule.tensors)))
    stream(streamed, anew=untouched)
    return LoadReport(missing=missing, unexpected=unexpected)


def dump(variables: Mapping[str, keras.Variable], rules: Iterable[Rule]) -> Iterator[tuple[str, np.ndarray]]:
    """The checkpoint's tensors, by name, made of the variables: the other way of `load`.

    The arrays are views of the variables' memory where the device allows it: write them before training goes on.
    """
    for rule in _checked(rules, variables):
        tensor = tf.convert_to_tensor(variables[rule.variable].value)
        # An array over the tensor's own memory, which `tensor.numpy()` would copy; scalars have no such array.
        arrays = rule.write(np.asarray(tensor if tensor.shape.rank else tensor.numpy()))
        yield from zip(rule.tensors, arrays, strict=True)


def _checked(rules: Iterable[Rule], variables: Mapping[str, keras.Variable]) -> list[Rule]:
    """The rules, once it is sure that they cover each variable exactly once."""
    rules = list(rules)
    ruled: set[str] = set()
    for rule in rules:
        if rule.variable in ruled:
            raise ValueError(f'two rules fill the variable "{rule.variable}"')
        ruled.add(rule.variable)
    if unknown := [name for name in ruled if name not in variables]:
        raise ValueError(f"rules for variables that the network has not got: {_some(sorted(unknown))}")
    if left := [name for name in variables if name not in ruled]:
        raise ValueError(f"variables that no rule fills: {_some(left)}")
    return rules


def _mismatches(rule: Rule, variable: keras.Variable, weights: Weights) -> Iterator[str]:
    dtype = _dtype(variable)
    # An array of this shape that takes no memory: rules write views.
    blank = np.broadcast_to(np.zeros((), dtype), tuple(variable.shape))
    for name, part in zip(rule.tensors, rule.write(blank), strict=True):
        if name not in weights:
            continue
        if weights.shape(name) != part.shape:
            yield f'tensor "{name}" has shape {list(weights.shape(name))}, the network expects {list(part.shape)}'
        elif _kind(weights.dtype(name)) != _kind(dtype):
            # Integers in the place of floats are a quantised model, whose scales would be lost.
            yield f'tensor "{name}" has type {weights.dtype(name)}, the network expects {dtype}'


def _without(patterns: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """The names that match none of the patterns."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return tuple(name for name in names if not any(pattern.fullmatch(name) for pattern in compiled))


def _dtype(variable: keras.Variable) -> np.dtype:
    return np.dtype(keras.backend.standardize_dtype(variable.dtype))


def _kind(dtype: np.dtype) -> str:
    # bfloat16 and the 8-bit floats are extensions, whose numpy kind is "V".
    return {"V": "f", "u": "i"}.get(dtype.kind, dtype.kind)


def _assign(variable: keras.Variable, array: np.ndarray) -> None:
    array = array.astype(_dtype(variable), copy=False)
    value = variable.value
    if isinstance(value, ResourceVariable) and array.ndim:
        # A slice, here all rows, is written into the variable's memory. `variable.assign` would allocate that anew from
        # a pool that never shrinks, and copy the array before: three times the largest tensor. `value[:].assign` would
        # read the variable first.
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=value.handle,
            begin=[0],
            end=[0],
            strides=[1],
            begin_mask=1,
            end_mask=1,
            value=tf.convert_to_tensor(Owned(array)),
        )
    else:
        variable.assign(array)


def _some(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:5])
    return f"{shown} and {len(items) - 5} more" if len(items) > 5 else shown
