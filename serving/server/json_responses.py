"""numpy arrays -> the bodies of answers, as TF Serving's REST API writes them (tensorflow_serving/util/json_tensor.cc).

Written as text, not through the json module: a float32 gets the digits that it needs and no more, and NaN and infinities
are literals. A string that is not UTF-8 is refused, where TF Serving sends a body that no JSON reader takes. Strings are
object arrays of bytes.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from json.encoder import encode_basestring

import numpy as np
import tensorflow as tf

from serving.server.errors import invalid_argument
from serving.server.models import INTEGER_DTYPES, tf_serving_name


def predictions(outputs: Mapping[str, np.ndarray], *, rows: bool) -> bytes:
    """The body that answers a predict request, in the form in which the request came.

    Raises INVALID_ARGUMENT when rows are asked for and the outputs do not have one first dimension, and for dtypes that
    TF Serving cannot write.
    """
    if rows:
        text = f'{{"predictions": [{", ".join(_rows(outputs))}]}}'
    else:
        columns = {name: _nest(_tokens(name, array), array.shape) for name, array in outputs.items()}
        text = f'{{"outputs": {_object(columns) if len(columns) > 1 else next(iter(columns.values()))}}}'
    return text.encode()


def classifications(labels: np.ndarray | None, scores: np.ndarray | None) -> bytes:
    """The body that answers a classify request: for each example, [label, score] pairs."""
    shape = labels.shape if labels is not None else scores.shape
    size = math.prod(shape)
    label_tokens = _tokens("classes", labels) if labels is not None else ['""'] * size
    score_tokens = _tokens("scores", scores) if scores is not None else ["0.0"] * size
    pairs = [f"[{label}, {score}]" for label, score in zip(label_tokens, score_tokens, strict=True)]
    return f'{{"results": {_nest(pairs, shape)}}}'.encode()


def regressions(values: np.ndarray) -> bytes:
    """The body that answers a regress request: a number for each example."""
    return f'{{"results": {_nest(_tokens("outputs", values), values.shape)}}}'.encode()


def error_body(message: str) -> bytes:
    """The body of every answer that is an error."""
    return json.dumps({"error": message}).encode()


def _rows(outputs: Mapping[str, np.ndarray]) -> Iterable[str]:
    size = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information")
        if size not in (None, len(array)):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    columns = {name: _rows_of(_tokens(name, array), array.shape) for name, array in outputs.items()}
    if len(columns) == 1:
        return next(iter(columns.values()))
    return (_object(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


def _object(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{encode_basestring(name)}: {text}" for name, text in members.items()) + "}"


def _nest(tokens: list[str], shape: Sequence[int]) -> str:
    """The text of an array whose values are written already."""
    if not shape:
        return tokens[0]
    return f"[{', '.join(_rows_of(tokens, shape))}]"


def _rows_of(tokens: list[str], shape: Sequence[int]) -> list[str]:
    """The text of each of an array's elements along its first dimension."""
    if 0 in shape[1:]:
        return [_nest([], shape[1:])] * shape[0]
    for size in reversed(shape[1:]):
        values = iter(tokens)
        tokens = [f"[{', '.join(islice(values, size))}]" for _ in range(len(tokens) // size)]
    return tokens


def _tokens(name: str, array: np.ndarray) -> list[str]:
    """The JSON text of each value, in order."""
    flat = array.ravel()
    if array.dtype == object:
        if name.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in flat]
        try:
            return [encode_basestring(value.decode()) for value in flat]
        except UnicodeDecodeError as error:
            raise invalid_argument(
                f"Failed to write JSON value for output {name}: a string in it is not UTF-8; an output named "
                f"{name}_bytes would be sent in base64"
            ) from error
    if array.dtype in (np.float32, np.float64):
        return _decimal_tokens(flat)
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in flat.tolist()]
    if tf.as_dtype(array.dtype) in INTEGER_DTYPES:
        return list(map(str, flat.tolist()))
    raise invalid_argument(f"Failed to write JSON value for tensor type: {tf_serving_name(tf.as_dtype(array.dtype))}")


def _decimal_tokens(flat: np.ndarray) -> list[str]:
    """Six digits where they say it exactly, else as many as the dtype needs: 0.2, and not 0.20000000298."""
    values = tuple(flat.tolist())
    short = ("%.6g " * len(values) % values).split()
    exact = np.array(list(map(float, short)), np.float64).astype(flat.dtype) == flat
    if not exact.all():
        digits = 9 if flat.dtype == np.float32 else 17
        full = (f"%.{digits}g " * len(values) % values).split()
        short = [brief if fits else long for brief, long, fits in zip(short, full, exact.tolist(), strict=True)]
    if np.isfinite(flat).all():
        # A whole number keeps its point, so that a list of decimals stays one for its reader.
        return [text if "." in text or "e" in text else f"{text}.0" for text in short]
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [words.get(text) or (text if "." in text or "e" in text else f"{text}.0") for text in short]
