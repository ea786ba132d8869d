"""One loaded version of a model: its signatures, and how they are run.

A version is a SavedModel and nothing else. Loading reads graphs and variables; no Python from the model's directory is
ever imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - registers the text operations that TF Serving's own binary has
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.server.errors import ModelLoadError, StatusError, invalid_argument

DEFAULT_SIGNATURE = "serving_default"
SAVED_MODEL_FILE = "saved_model.pb"
_SERVE_TAG = "serve"

# The integers that TF Serving reads from and writes to JSON: not uint16.
INTEGER_DTYPES = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint32, tf.uint64)
_TF_SERVING_NAMES = {"float16": "half", "float32": "float", "float64": "double"}


@dataclass(frozen=True)
class InputSpec:
    """What a signature expects of one input: `dtype`, `shape` (unknown sizes are None) and its `default`, if it has one."""

    dtype: tf.DType
    shape: tf.TensorShape
    default: np.ndarray | None = None

    def check(self, name: str, array: np.ndarray) -> None:
        """Raises INVALID_ARGUMENT when `array` is not of this dtype and shape."""
        # Strings travel as object arrays of bytes, and tf.string's numpy type is object.
        if array.dtype != self.dtype.as_numpy_dtype:
            raise invalid_argument(f"input {name!r}: expected {self.dtype.name}, got {array.dtype.name}")
        if not self.shape.is_compatible_with(array.shape):
            raise invalid_argument(
                f"input {name!r}: shape {list(array.shape)} does not fit the signature's {self.shape}"
            )


class Signature:
    """One way to call a model: named arrays in, named arrays out."""

    def __init__(self, name: str, definition: meta_graph_pb2.SignatureDef, function):
        self.name = name
        self.definition = definition
        self._function = function
        self.inputs = {
            alias: InputSpec(
                dtype=tf.as_dtype(info.dtype),
                shape=tf.TensorShape(info.tensor_shape),
                default=tf.make_ndarray(definition.defaults[alias]) if alias in definition.defaults else None,
            )
            for alias, info in sorted(definition.inputs.items())
        }
        self.outputs = tuple(sorted(definition.outputs))

    @property
    def method_name(self) -> str:
        """`tensorflow/serving/predict`, `.../classify` or `.../regress`."""
        return self.definition.method_name

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes every output from exactly this signature's inputs; inputs with a default may be left out.

        Raises StatusError: INVALID_ARGUMENT for names, dtypes and shapes that do not fit, else whatever code
        TensorFlow failed with.
        """
        tensors = {}
        for name, spec in self.inputs.items():
            array = inputs.get(name, spec.default)
            if array is None:
                raise self._wrong_inputs(inputs)
            spec.check(name, array)
            tensors[name] = tf.constant(array, spec.dtype)
        if any(name not in self.inputs for name in inputs):
            raise self._wrong_inputs(inputs)
        try:
            outputs = self._function(**tensors)
            return {name: _to_array(outputs[name]) for name in self.outputs}
        except tf.errors.OpError as error:
            raise StatusError.from_tensorflow(error) from error
        except (TypeError, ValueError) as error:
            raise invalid_argument(f"signature {self.name!r}: {error}") from error

    def _wrong_inputs(self, inputs: Mapping[str, np.ndarray]) -> StatusError:
        sent, wanted = sorted(inputs), sorted(self.inputs)
        extra = ",".join(name for name in sent if name not in self.inputs)
        missing = ",".join(name for name, spec in self.inputs.items() if name not in inputs and spec.default is None)
        return invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{','.join(sent)}}}) != "
            f"len({{{','.join(wanted)}}}). Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
        )


class Servable:
    """A SavedModel in memory, under the name and version by which clients ask for it."""

    def __init__(self, name: str, version: int, path: Path):
        """Loads `path`. Raises ModelLoadError, in one line, for anything that is not a whole SavedModel."""
        self.name = name
        self.version = version
        self.path = path
        meta_graph = _read_meta_graph(path)
        try:
            # The loaded object owns the variables: the signatures alone would not keep them alive.
            self._loaded = tf.saved_model.load(str(path), tags=[_SERVE_TAG])
        except Exception as error:  # TensorFlow raises dozens of types here, and every one means the same: not servable
            raise ModelLoadError(f"{path}: cannot load the SavedModel: {_first_line(error)}") from error
        self.signature_defs = dict(meta_graph.signature_def)
        functions = self._loaded.signatures
        self.signatures = {
            key: Signature(key, definition, functions[key])
            for key, definition in self.signature_defs.items()
            if key in functions
        }
        if not self.signatures:
            raise ModelLoadError(f"{path}: the SavedModel has no signature: save it with signatures={{...}}")

    def signature(self, name: str) -> Signature | None:
        """The signature of this name, the default one for an empty name, None when there is none."""
        return self.signatures.get(name or DEFAULT_SIGNATURE)


def _to_array(tensor: tf.Tensor) -> np.ndarray:
    value = tensor.numpy()
    # A scalar arrives as a Python or numpy scalar, and a string as bytes, whose zero bytes only object arrays keep.
    return value if isinstance(value, np.ndarray) else np.array(value, tensor.dtype.as_numpy_dtype)


def tf_serving_name(dtype: tf.DType) -> str:
    """The name of a dtype in TF Serving's messages: `float`, `half`, `int32`."""
    return _TF_SERVING_NAMES.get(dtype.name, dtype.name)


def is_complete(path: Path) -> bool:
    """Whether `path` is a directory whose SavedModel graph has arrived, so that loading it makes sense."""
    return (path / SAVED_MODEL_FILE).is_file()


def _read_meta_graph(path: Path) -> meta_graph_pb2.MetaGraphDef:
    file = path / SAVED_MODEL_FILE
    if not file.is_file():
        raise ModelLoadError(f"{path}: no {SAVED_MODEL_FILE}: only SavedModels are served, export the model as one")
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(file.read_bytes())
    except (OSError, DecodeError) as error:
        raise ModelLoadError(f"{file}: not a SavedModel: {_first_line(error)}") from error
    for meta_graph in saved_model.meta_graphs:
        if list(meta_graph.meta_info_def.tags) == [_SERVE_TAG]:
            return meta_graph
    tags = [list(meta_graph.meta_info_def.tags) for meta_graph in saved_model.meta_graphs]
    raise ModelLoadError(f"{file}: no graph tagged {_SERVE_TAG!r}, only {tags}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
