"""tf.TensorProto <-> numpy arrays, as TF Serving sends and reads them. Strings are object arrays of bytes."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.server.errors import invalid_argument

# A few bytes can declare a tensor of any size, whose one value is then repeated. Refused before memory is asked for.
MAX_TENSOR_BYTES = 2**31

# Which field of the message holds the values of a dtype (tensorflow/core/framework/tensor.proto).
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
}


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """The array in a message. Raises INVALID_ARGUMENT, naming the input, for one that is not consistent."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = tf.as_dtype(proto.dtype)
        count = math.prod(sizes)
        if proto.tensor_shape.unknown_rank or min(sizes, default=0) < 0:
            raise ValueError(f"shape {sizes} is not fully known")
        if count * max(dtype.size or 0, 1) > MAX_TENSOR_BYTES:
            raise ValueError(f"shape {sizes} is larger than {MAX_TENSOR_BYTES} bytes")
        if dtype == tf.string and len(proto.string_val) == count:
            array = np.empty(count, object)
            array[:] = proto.string_val
            return array.reshape(sizes)
        if not proto.tensor_content and len(getattr(proto, _FIELDS[dtype])) > count:
            raise ValueError(f"shape {sizes} has fewer values than were sent")
        return tf.make_ndarray(proto)
    except (KeyError, TypeError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {name}: {error}") from error


def to_proto(array: np.ndarray, proto: tensor_pb2.TensorProto) -> None:
    """Writes an array into a message.

    The values go into the field of their dtype (`float_val`, ...), as TF Serving sends them, because clients read those
    fields; `tf.make_tensor_proto` would pack them into `tensor_content`.
    """
    dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    if dtype not in _FIELDS:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = dtype.as_datatype_enum
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype in (tf.float16, tf.bfloat16):
        array = array.view(np.uint16)  # these travel as their bits
    getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())
