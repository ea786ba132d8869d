"""TF Serving's gRPC services: PredictionService and ModelService."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import grpc
from tensorflow_serving.apis import model_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.server import inference, status_protos
from serving.server.errors import StatusError, invalid_argument
from serving.server.manager import ModelManager

_log = logging.getLogger(__name__)


def add_services(server: grpc.Server, manager: ModelManager) -> None:
    """Registers both services on a gRPC server."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(manager), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)


def _method(handle: Callable) -> Callable:
    """A servicer's method whose StatusErrors reach the client as gRPC status codes."""

    @functools.wraps(handle)
    def wrapper(self, request, context: grpc.ServicerContext):
        try:
            return handle(self, request)
        except StatusError as error:
            code, message = error.code, error.message
        except Exception as error:
            _log.exception("gRPC %s failed", handle.__name__)
            code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
        return context.abort(code, message)

    return wrapper


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata on the versions of a manager."""

    def __init__(self, manager: ModelManager):
        self._manager = manager

    @_method
    def Predict(self, request):  # noqa: N802 - gRPC's name
        """Runs any signature on tensors."""
        with self._manager.use(*_wanted(request)) as servable:
            return inference.run_predict(servable, request)

    @_method
    def Classify(self, request):  # noqa: N802
        """Classifies tf.Examples."""
        with self._manager.use(*_wanted(request)) as servable:
            return inference.run_classify(servable, request)

    @_method
    def Regress(self, request):  # noqa: N802
        """Gives a number for each tf.Example."""
        with self._manager.use(*_wanted(request)) as servable:
            return inference.run_regress(servable, request)

    @_method
    def MultiInference(self, request):  # noqa: N802
        """Several classifications and regressions of the same tf.Examples."""
        if not request.tasks:
            raise invalid_argument("Inference request tasks is empty.")
        with self._manager.use(*_wanted(request.tasks[0])) as servable:
            return inference.run_multi_inference(servable, request)

    @_method
    def GetModelMetadata(self, request):  # noqa: N802
        """The signatures of a version."""
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != status_protos.SIGNATURE_DEF_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self._manager.use(*_wanted(request)) as servable:
            return status_protos.metadata_response(servable)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; models are set when the server starts, so HandleReloadConfigRequest stays UNIMPLEMENTED."""

    def __init__(self, manager: ModelManager):
        self._manager = manager

    @_method
    def GetModelStatus(self, request):  # noqa: N802
        """The states of a model's versions."""
        return status_protos.status_response(self._manager.status(*_wanted(request)))


def _wanted(request) -> tuple[str, int | None, str | None]:
    """Name, version and label of the `model_spec` in a message."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    if not spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None
