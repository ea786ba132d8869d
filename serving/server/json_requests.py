"""The bodies of requests to TF Serving's REST API -> numpy arrays and serialized tf.Examples.

The rules and the words of the errors are those of tensorflow_serving/util/json_tensor.cc. Where clients would be served
wrong numbers there, this server refuses: a number beyond int8, int16 or uint8 (TF Serving wraps it around), and a body
that is not UTF-8. Strings are object arrays of bytes.

Arrays are converted a level at a time, in C; only a request that fails is walked value by value, to say which.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from serving.server.errors import StatusError, invalid_argument
from serving.server.models import INTEGER_DTYPES, InputSpec, tf_serving_name

_MAX_RANK = 64  # numpy's limit
_SHOWN_LIMIT = 512  # characters of a client's value that an error repeats

# The literals that JSON has not, but TF Serving reads. Kept by identity, so that 1e999 is not taken for Infinity.
_LITERALS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Extra data": "The document root must not be followed by other values.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma, or the end of an array or object.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}

_DECIMAL_DTYPES = (tf.float32, tf.float64)


class _UnfitError(Exception):
    """A value that is no array of the wanted dtype. What exactly is wrong is found by walking it."""


def parse(body: bytes) -> dict[str, Any]:
    """Reads a request body. Raises INVALID_ARGUMENT unless it is a JSON object in UTF-8."""
    if not body or body.isspace():
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8-sig"), parse_constant=_LITERALS.__getitem__)
    except UnicodeDecodeError as error:
        raise invalid_argument(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        reason = _PARSE_ERRORS.get(error.msg, f"{error.msg}.")
        raise invalid_argument(f"JSON Parse error: {reason} at offset: {error.pos}") from error
    except RecursionError as error:
        raise invalid_argument("JSON Parse error: The document is nested too deeply.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise invalid_argument("JSON Parse error: Number too big to be stored in double.") from error
    if type(document) is not dict:
        raise invalid_argument(f"JSON Value: {_show(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request asks for, "" for the default one."""
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise invalid_argument(
            f"JSON Value: {_show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_inputs(document: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a predict request, and whether they came in row form (`instances`) rather than columns (`inputs`)."""
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid_argument(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist"
        )
    if rows:
        return _from_rows(document["instances"], specs), True
    if columns:
        return _from_columns(document["inputs"], specs), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def examples(document: Mapping[str, Any]) -> list[bytes]:
    """The serialized tf.Examples of a classify or regress request, each with the request's `context` in it."""
    context = b""
    if "context" in document:
        context = _example(document["context"]).SerializeToString()
    if "examples" not in document:
        raise invalid_argument(f"JSON Value: {_show(document)} key 'examples' is expected and was not found")
    values = document["examples"]
    if type(values) is not list:
        raise invalid_argument(f"JSON Value: {_show(document)} Expecting 'examples' value to be an list/array")
    if not values:
        raise invalid_argument(f"JSON Value: {_show(document)} 'examples' value is an empty array")
    # Serialized messages that follow each other merge, which is how TF Serving adds the context.
    return [context + _example(value).SerializeToString() for value in values]


def _from_rows(instances: Any, specs: Mapping[str, InputSpec]) -> dict[str, np.ndarray]:
    if type(instances) is not list:
        raise invalid_argument(f"JSON Value: {_show(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("No values in 'instances' array")
    if type(instances[0]) is not dict and len(specs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    names = set(specs)
    if _is_named(instances[0]):
        for item, instance in enumerate(instances):
            if not _is_named(instance):
                raise invalid_argument(f"Expecting object but got list at item {item} of input list")
            if instance.keys() != names:
                raise invalid_argument(
                    f"Failed to process element: {item} of 'instances' list. JSON object: {_show(instance)} keys must "
                    f"be equal to: {','.join(sorted(names))}"
                )
        return {
            name: _row_array([instance[name] for instance in instances], spec, f" key: {name}")
            for name, spec in specs.items()
        }
    for item, instance in enumerate(instances):
        if _is_named(instance):
            raise invalid_argument(f"Expecting value/list but got object at item {item} of input list")
    name, spec = _only(specs)
    return {name: _row_array(instances, spec, "")}


def _from_columns(inputs: Any, specs: Mapping[str, InputSpec]) -> dict[str, np.ndarray]:
    if not _is_named(inputs):
        if len(specs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        name, spec = _only(specs)
        return {name: _array(inputs, spec.dtype)}
    for name in specs:
        if name not in inputs:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    for name in inputs:
        if name not in specs:
            raise invalid_argument(f"Unknown named input: {_show(name)}: the signature has {','.join(sorted(specs))}")
    return {name: _array(inputs[name], spec.dtype) for name, spec in specs.items()}


def _only(specs: Mapping[str, InputSpec]) -> tuple[str, InputSpec]:
    if not specs:
        raise invalid_argument("Failed to get input map for signature: it has no inputs")
    return next(iter(specs.items()))


def _is_named(value: Any) -> bool:
    """Whether a value is an object of named inputs, and not the base64 form of one string."""
    return type(value) is dict and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def _array(value: Any, dtype: tf.DType) -> np.ndarray:
    try:
        flat, shape = _flatten(value)
        return _convert(flat, dtype).reshape(shape)
    except _UnfitError:
        _check(value, 0, _first_shape(value), dtype)
        raise invalid_argument(f"JSON Value: {_show(value)} is not an array of {tf_serving_name(dtype)}") from None


def _row_array(values: list, spec: InputSpec, key: str) -> np.ndarray:
    try:
        flat, shape = _flatten(values)
        return _convert(flat, spec.dtype).reshape(shape)
    except _UnfitError:
        pass
    shape = _first_shape(values[0])
    for item, value in enumerate(values):
        own_shape = _first_shape(value)
        try:
            _check(value, 0, own_shape, spec.dtype)
            if math.prod(own_shape) != math.prod(shape):
                raise invalid_argument(f"Expecting tensor size: {math.prod(shape)} but got: {math.prod(own_shape)}")
            if own_shape != shape:
                raise invalid_argument(f"Expecting shape {_show(shape)} but got: {_show(own_shape)}")
        except StatusError as error:
            raise invalid_argument(
                f"Failed to process element: {item}{key} of 'instances' list. Error: {error.code.name}: {error.message}"
            ) from None
    raise invalid_argument(f"'instances' list{key} is not an array of {tf_serving_name(spec.dtype)}")


def _flatten(value: Any) -> tuple[list, list[int]]:
    """The scalars of a nested list in order, and its shape. Raises _UnfitError when it is ragged or mixed."""
    level, shape = [value], []
    while True:
        kinds = set(map(type, level))
        if list not in kinds:
            return level, shape
        sizes = set(map(len, level)) if len(kinds) == 1 else set()
        if len(sizes) != 1 or len(shape) == _MAX_RANK:
            raise _UnfitError
        shape.append(sizes.pop())
        if shape[-1] == 0:
            return [], shape
        level = list(chain.from_iterable(level))


def _convert(flat: list, dtype: tf.DType) -> np.ndarray:
    kinds = set(map(type, flat))
    if dtype == tf.string:
        return _strings(flat, kinds)
    if dtype == tf.bool and kinds <= {bool}:
        return np.array(flat, np.bool_)
    if dtype in INTEGER_DTYPES and kinds <= {int}:
        if flat and not (dtype.min <= min(flat) and max(flat) <= dtype.max):
            raise _UnfitError
        return np.array(flat, dtype.as_numpy_dtype)
    if dtype in _DECIMAL_DTYPES and kinds <= {int, float}:
        return _decimals(flat, kinds, dtype)
    raise _UnfitError


def _strings(flat: list, kinds: set[type]) -> np.ndarray:
    if not kinds <= {str, dict}:
        raise _UnfitError
    array = np.empty(len(flat), object)
    try:
        array[:] = [value.encode() if type(value) is str else _decode_base64(value) for value in flat]
    except UnicodeEncodeError as error:
        raise _lone_surrogate() from error
    return array


def _decimals(flat: list, kinds: set[type], dtype: tf.DType) -> np.ndarray:
    # The integers below this are exact in the dtype. Beyond 64 bits, a token without a point counts as a decimal.
    exact = 2 ** (24 if dtype == tf.float32 else 53) - 1
    if int in kinds and any(abs(value) > exact and -(2**63) <= value < 2**64 for value in flat if type(value) is int):
        raise _UnfitError
    try:
        array = np.array(flat, np.float64)
    except OverflowError as error:
        raise _UnfitError from error
    infinite = np.flatnonzero(np.isinf(array))
    if any(flat[i] is not math.inf and flat[i] is not _LITERALS["-Infinity"] for i in infinite):
        raise _UnfitError
    if dtype == tf.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if np.count_nonzero(np.isinf(narrow)) != len(infinite):
        raise _UnfitError
    return narrow


def _decode_base64(value: dict) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def _first_shape(value: Any) -> list[int]:
    """The shape that a nested list seems to have, by the first element of every level."""
    shape = []
    while type(value) is list and len(shape) < _MAX_RANK:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _check(value: Any, level: int, shape: Sequence[int], dtype: tf.DType) -> None:
    """Raises the error for the first value that keeps a nested list from being an array of this shape and dtype."""
    if type(value) is not list:
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}"
            )
        _check_scalar(value, dtype)
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _check(item, level + 1, shape, dtype)


def _check_scalar(value: Any, dtype: tf.DType) -> None:
    if dtype not in (tf.string, tf.bool, *INTEGER_DTYPES, *_DECIMAL_DTYPES):
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {_show(value)} to type: {tf_serving_name(dtype)}"
        )
    try:
        _convert([value], dtype)
    except _UnfitError:
        if dtype in _DECIMAL_DTYPES and type(value) in (int, float):
            raise _lossy(value, dtype) from None
        raise invalid_argument(
            f"JSON Value: {_show(value)} Type: {_json_type(value)} is not of expected type: {tf_serving_name(dtype)}"
        ) from None


def _example(value: Any) -> tf.train.Example:
    if type(value) is not dict:
        raise invalid_argument(f"Example must be JSON object but got JSON {_json_type(value)}")
    example = tf.train.Example()
    for name, content in value.items():
        try:
            feature = example.features.feature[name]
        except (UnicodeEncodeError, ValueError) as error:
            raise _lone_surrogate() from error
        for item in content if type(content) is list else [content]:
            _add_to_feature(item, name, feature)
    return example


def _add_to_feature(value: Any, name: str, feature: tf.train.Feature) -> None:
    kind = feature.WhichOneof("kind")

    def expect(wanted: str) -> None:
        if kind not in (None, wanted):
            raise invalid_argument(
                f"Unexpected element type in feature: {_show(name)} expecting type: {kind.removesuffix('_list')}"
            )

    if type(value) is str or _is_base64(value):
        expect("bytes_list")
        feature.bytes_list.value.append(_strings([value], {type(value)})[0])
    elif type(value) is bool or (type(value) is int and -(2**63) <= value < 2**63):
        expect("int64_list")
        feature.int64_list.value.append(int(value))
    elif type(value) is int and 2**63 <= value < 2**64:
        raise invalid_argument(f"Feature: {_show(name)} has uint64 element. Only int64 is supported.")
    elif type(value) in (int, float):
        expect("float_list")
        try:
            feature.float_list.value.append(_decimals([value], {type(value)}, tf.float32)[0])
        except _UnfitError:
            raise _lossy(value, tf.float32) from None
    else:
        raise invalid_argument(f"Feature: {_show(name)} has element with unexpected JSON type: {_json_type(value)}")


def _show(value: Any) -> str:
    # Encoded piece by piece, because the value may be the whole of a large request.
    try:
        text = "".join(islice(json.JSONEncoder().iterencode(value), _SHOWN_LIMIT))
    except RecursionError:
        return "(nested too deeply to show)"
    return text if len(text) < _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "..."


def _json_type(value: Any) -> str:
    if type(value) is bool:
        return str(value)
    kinds = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}
    return kinds[type(value)]


def _lossy(value: float, dtype: tf.DType) -> StatusError:
    return invalid_argument(
        f"Cannot convert JSON value: {_show(value)} to {tf_serving_name(dtype)} without loss of precision."
    )


def _lone_surrogate() -> StatusError:
    return invalid_argument("JSON Parse error: The surrogate pair in string is invalid.")
