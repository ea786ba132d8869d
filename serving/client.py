"""A client for Garden's server and for TF Serving: the same calls and the same answers over REST or gRPC.

Importing this module is cheap: TensorFlow is imported by the first gRPC call, and never for REST.
"""

from __future__ import annotations

import base64
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

DEFAULT_SIGNATURE = "serving_default"
_MAX_GRPC_MESSAGE_BYTES = 2**31 - 1
_CONNECTIONS = 32  # that REST keeps open for threads to share

# A value of a tf.Example's feature, or a list of one kind of them.
FeatureValue = str | bytes | int | float | bool
Features = Mapping[str, FeatureValue | Sequence[FeatureValue]]


class RequestError(RuntimeError):
    """A request that was not answered: `status` is the HTTP status or gRPC code, `message` the server's own words."""

    def __init__(self, status: int | str, message: str, target: str):
        super().__init__(f"{target}: {status}: {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model: `state` is START, LOADING, AVAILABLE, UNLOADING or END; errors are of a failed load."""

    version: int
    state: str
    error_code: str
    error_message: str


class Client:
    """Asks a server, over gRPC when an address for it is given, else over REST.

    ```python
    client = Client("http://127.0.0.1:8501")              # or Client(grpc="127.0.0.1:8500")
    client.wait_until_ready("sentiment")
    client.predict("sentiment", ["A joy.", "Dull."])      # {"label": array(["positive", "negative"]), "score": ...}
    ```

    Every method raises RequestError when the server refuses or cannot be reached, and accepts a `version`, by default
    the one in service. A client may be used from several threads.
    """

    def __init__(self, url: str = "http://127.0.0.1:8501", grpc: str | None = None, *, timeout: float = 60.0):
        """`timeout` is how many seconds one request may take."""
        self._transport = _Rest(url, timeout) if grpc is None else _Grpc(grpc, timeout)
        self._signatures: dict[tuple[str, str, int | None], dict[str, Any]] = {}

    def predict(
        self,
        name: str,
        inputs: Mapping[str, Any] | Any,
        signature_name: str | None = None,
        version: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature on whole batches, and returns its outputs by name, in the signature's dtypes.

        `inputs` maps names to arrays or nested lists, or is the one input of a signature that has one. Strings may be
        str or bytes. In answers they are str, but bytes for outputs named `*_bytes` and where they are not UTF-8.
        """
        signature_name = signature_name or DEFAULT_SIGNATURE
        look_up = functools.partial(self._signature, name, signature_name, version)
        if not isinstance(inputs, Mapping):
            names = sorted(look_up()["inputs"])
            if len(names) != 1:
                raise ValueError(f"inputs: expected a mapping with {', '.join(names)}")
            inputs = {names[0]: inputs}
        return self._transport.predict(name, inputs, signature_name, version, look_up)

    def classify(
        self,
        name: str,
        examples: Sequence[Features],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        context: Features | None = None,
    ) -> list[list[tuple[str, float]]]:
        """For each example, (label, score) pairs. `context` holds features that all the examples share."""
        return self._transport.classify(name, examples, signature_name, version, context)

    def regress(
        self,
        name: str,
        examples: Sequence[Features],
        signature_name: str | None = None,
        version: int | None = None,
        *,
        context: Features | None = None,
    ) -> list[float]:
        """A number for each example. `context` holds features that all the examples share."""
        return self._transport.regress(name, examples, signature_name, version, context)

    def status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The states of a model's versions, those that are served and those that were or failed to be."""
        return self._transport.status(name, version)

    def metadata(self, name: str, version: int | None = None) -> dict[str, Any]:
        """The model's name and version and its signatures, as TF Serving's REST API lists them."""
        return self._transport.metadata(name, version)

    def wait_until_ready(self, name: str, timeout: float = 60.0) -> None:
        """Returns when a version of the model is served. Raises TimeoutError after `timeout` seconds without one."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if any(entry.state == "AVAILABLE" for entry in self.status(name)):
                    return
                reason = "no version of it is AVAILABLE"
            except RequestError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"model {name!r} is not served after {timeout:g} s: {reason}")
            time.sleep(0.05)

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _signature(
        self, name: str, signature_name: str, version: int | None, *, refresh: bool = False
    ) -> dict[str, Any]:
        """The names and dtypes of a signature, which requests do not carry; asked for once, and again to `refresh`."""
        key = (name, signature_name, version)
        if refresh or key not in self._signatures:
            signatures = self.metadata(name, version)["metadata"]["signature_def"]["signature_def"]
            if signature_name not in signatures:
                names = ", ".join(sorted(key for key in signatures if not key.startswith("__")))
                raise ValueError(f"signature_name: model {name!r} has no {signature_name!r}, only {names}")
            self._signatures[key] = signatures[signature_name]
        return self._signatures[key]


class _Rest:
    def __init__(self, url: str, timeout: float):
        self._url = url.rstrip("/")
        # No retries: the caller is told at once, and no request runs twice.
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=False, timeout=timeout)

    def predict(self, name, inputs, signature_name, version, look_up) -> dict[str, np.ndarray]:
        columns = {key: _to_json(value) for key, value in inputs.items()}
        body = {"signature_name": signature_name, "inputs": columns}
        outputs = self._call("POST", name, version, ":predict", body)["outputs"]
        infos = look_up()["outputs"]
        # One output comes without its name. Names that do not fit are those of a version that has come since.
        named = isinstance(outputs, dict) and outputs.keys() != {"b64"}
        if set(outputs) != set(infos) if named else len(infos) != 1:
            infos = look_up(refresh=True)["outputs"]
        if not named:
            outputs = {next(iter(infos)): outputs}
        return {key: _from_json(key, value, infos[key]["dtype"]) for key, value in outputs.items()}

    def classify(self, name, examples, signature_name, version, context) -> list[list[tuple[str, float]]]:
        results = self._infer(name, examples, signature_name, version, context, ":classify")
        return [[(label, score) for label, score in classes] for classes in results]

    def regress(self, name, examples, signature_name, version, context) -> list[float]:
        return self._infer(name, examples, signature_name, version, context, ":regress")

    def status(self, name, version) -> list[VersionStatus]:
        return [
            VersionStatus(
                int(entry["version"]), entry["state"], entry["status"]["error_code"], entry["status"]["error_message"]
            )
            for entry in self._call("GET", name, version, "")["model_version_status"]
        ]

    def metadata(self, name, version) -> dict[str, Any]:
        return self._call("GET", name, version, "/metadata")

    def close(self) -> None:
        self._pool.clear()

    def _infer(self, name, examples, signature_name, version, context, verb) -> list:
        body = {"signature_name": signature_name or DEFAULT_SIGNATURE, "examples": _to_json(examples)}
        if context is not None:
            body["context"] = _to_json(context)
        return self._call("POST", name, version, verb, body)["results"]

    def _call(self, method: str, name: str, version: int | None, suffix: str, body: dict | None = None) -> dict:
        path = f"{self._url}/v1/models/{quote(name, safe='')}"
        url = path + (f"/versions/{version}" if version is not None else "") + suffix
        try:
            response = self._pool.request(
                method,
                url,
                body=json.dumps(body).encode() if body is not None else None,
                headers={"Content-Type": "application/json"},
            )
        except urllib3.exceptions.HTTPError as error:
            raise RequestError("UNAVAILABLE", str(error), url) from error
        try:
            answer = json.loads(response.data)
        except ValueError as error:
            raise RequestError(response.status, f"not JSON: {response.data[:200]!r}", url) from error
        if response.status != 200:
            raise RequestError(response.status, answer.get("error", "no reason given"), url)
        return answer


def _grpc_call(call: Callable) -> Callable:
    """A method whose gRPC errors are raised as RequestError."""

    @functools.wraps(call)
    def wrapper(self, *arguments):
        import grpc

        try:
            return call(self, *arguments)
        except grpc.RpcError as error:
            raise RequestError(error.code().name, error.details(), self.address) from error

    return wrapper


class _Grpc:
    def __init__(self, address: str, timeout: float):
        self.address = address
        self._timeout = timeout

    @functools.cached_property
    def _channel(self):
        import grpc

        limits = [
            ("grpc.max_receive_message_length", _MAX_GRPC_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_GRPC_MESSAGE_BYTES),
        ]
        return grpc.insecure_channel(self.address, options=[*limits, ("grpc.max_reconnect_backoff_ms", 1000)])

    @functools.cached_property
    def _prediction(self):
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        return prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    @functools.cached_property
    def _models(self):
        from tensorflow_serving.apis import model_service_pb2_grpc

        return model_service_pb2_grpc.ModelServiceStub(self._channel)

    @_grpc_call
    def predict(self, name, inputs, signature_name, version, look_up) -> dict[str, np.ndarray]:
        import tensorflow as tf
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(model_spec=_model_spec(name, version, signature_name))
        for key, value in inputs.items():
            # An input that the signature does not have goes out as it is: the server says which ones it wants.
            info = look_up()["inputs"].get(key)
            dtype = types_pb2.DataType.Value(info["dtype"]) if info is not None else None
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype))
        response = self._prediction.Predict(request, timeout=self._timeout)
        return {key: _decode_strings(key, tf.make_ndarray(proto)) for key, proto in response.outputs.items()}

    @_grpc_call
    def classify(self, name, examples, signature_name, version, context) -> list[list[tuple[str, float]]]:
        from tensorflow_serving.apis import classification_pb2

        request = classification_pb2.ClassificationRequest(model_spec=_model_spec(name, version, signature_name))
        _fill_input(request.input, examples, context)
        result = self._prediction.Classify(request, timeout=self._timeout).result
        return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]

    @_grpc_call
    def regress(self, name, examples, signature_name, version, context) -> list[float]:
        from tensorflow_serving.apis import regression_pb2

        request = regression_pb2.RegressionRequest(model_spec=_model_spec(name, version, signature_name))
        _fill_input(request.input, examples, context)
        result = self._prediction.Regress(request, timeout=self._timeout).result
        return [entry.value for entry in result.regressions]

    @_grpc_call
    def status(self, name, version) -> list[VersionStatus]:
        from tensorflow.core.protobuf import error_codes_pb2
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest(model_spec=_model_spec(name, version))
        response = self._models.GetModelStatus(request, timeout=self._timeout)
        return [
            VersionStatus(
                entry.version,
                get_model_status_pb2.ModelVersionStatus.State.Name(entry.state),
                error_codes_pb2.Code.Name(entry.status.error_code),
                entry.status.error_message,
            )
            for entry in response.model_version_status
        ]

    @_grpc_call
    def metadata(self, name, version) -> dict[str, Any]:
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=_model_spec(name, version), metadata_field=["signature_def"]
        )
        response = self._prediction.GetModelMetadata(request, timeout=self._timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        as_dict = functools.partial(
            json_format.MessageToDict, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return {
            "model_spec": as_dict(response.model_spec),
            "metadata": {"signature_def": as_dict(signatures)},
        }

    def close(self) -> None:
        self._channel.close()


def _model_spec(name: str, version: int | None, signature_name: str | None = None):
    from tensorflow_serving.apis import model_pb2

    spec = model_pb2.ModelSpec(name=name, signature_name=signature_name or "")
    if version is not None:
        spec.version.value = version
    return spec


def _fill_input(message, examples: Sequence[Features], context: Features | None) -> None:
    holder = message.example_list if context is None else message.example_list_with_context
    if context is not None:
        _fill_example(holder.context, context)
    for features in examples:
        _fill_example(holder.examples.add(), features)


def _fill_example(example, features: Features) -> None:
    """Chooses a feature's kind by its values, as the REST API does for JSON."""
    for name, value in features.items():
        values = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        values = values.tolist() if isinstance(values, np.ndarray) else list(values)
        feature = example.features.feature[name]
        if all(isinstance(item, (str, bytes)) for item in values):
            feature.bytes_list.value.extend(item.encode() if isinstance(item, str) else item for item in values)
        elif all(isinstance(item, int) for item in values):
            feature.int64_list.value.extend(map(int, values))  # True is 1
        elif all(isinstance(item, float) for item in values):
            feature.float_list.value.extend(values)
        else:
            kinds = ", ".join(sorted({type(item).__name__ for item in values}))
            raise ValueError(f"feature {name!r}: expected strings, integers or floats, all of one kind, got {kinds}")


def _to_json(value: Any) -> Any:
    """A value as the REST API reads it: arrays as nested lists, bytes in base64."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _from_json(name: str, value: Any, dtype: str) -> np.ndarray:
    """The array of an output; `dtype` is the signature's, such as DT_FLOAT."""
    if dtype == "DT_STRING":
        return _decode_strings(name, _strings(value))
    words = {"DT_FLOAT": np.float32, "DT_DOUBLE": np.float64, "DT_BOOL": np.bool_}
    return np.array(value, words.get(dtype) or np.dtype(dtype.removeprefix("DT_").lower()))


def _strings(value: Any) -> np.ndarray:
    shape, level = [], [value]
    while level and isinstance(level[0], list):
        shape.append(len(level[0]))
        level = [item for part in level for item in part]
    array = np.empty(len(level), object)
    array[:] = [base64.b64decode(item["b64"]) if isinstance(item, dict) else item for item in level]
    return array.reshape(shape)


def _decode_strings(name: str, array: np.ndarray) -> np.ndarray:
    """Strings as str, except where they are meant as bytes or cannot be text."""
    if array.dtype != object or name.endswith("_bytes"):
        return array
    try:
        flat = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    except UnicodeDecodeError:
        return array
    decoded = np.empty(len(flat), object)
    decoded[:] = flat
    return decoded.reshape(array.shape)
