"""The server's errors: a canonical status code with a message, whatever the protocol that carries it."""

from __future__ import annotations

import errno

import grpc
import tensorflow as tf

# What TF Serving answers over HTTP for each canonical code (tensorflow_serving/model_servers/http_server.cc).
HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}

_CODES = {code.value[0]: code for code in grpc.StatusCode}

# gRPC sends the message in a header, and headers over 8 kB are refused by peers: a long one would hide the error itself.
_MESSAGE_LIMIT = 2048


class StatusError(Exception):
    """A request that cannot be answered: its canonical `code` and a `message` for the client."""

    def __init__(self, code: grpc.StatusCode, message: str):
        if len(message) > _MESSAGE_LIMIT:
            message = message[:_MESSAGE_LIMIT] + "..."
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The HTTP status that TF Serving gives this code."""
        return HTTP_STATUS[self.code]

    @classmethod
    def from_tensorflow(cls, error: tf.errors.OpError) -> StatusError:
        """Takes over the code and message with which TensorFlow failed."""
        return cls(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)


class ModelLoadError(ValueError):
    """A version directory that is not a SavedModel this server can serve."""


class PortInUseError(OSError):
    """A port on which something else listens already."""

    def __init__(self, host: str, port: int, option: str):
        super().__init__(
            f"port {port} on {host} is in use: stop what listens there, or choose another with {option} (0: a free one)"
        )
        self.errno = errno.EADDRINUSE


def invalid_argument(message: str) -> StatusError:
    """The error for a request that no state of the server could answer."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """The error for a model or a version that is not served."""
    return StatusError(grpc.StatusCode.NOT_FOUND, message)
