"""The status and metadata answers, as the messages that both protocols send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.server.manager import VersionStatus
from serving.server.models import Servable

SIGNATURE_DEF_FIELD = "signature_def"


def status_response(versions: Iterable[VersionStatus]) -> get_model_status_pb2.GetModelStatusResponse:
    """GetModelStatusResponse for the versions of one model."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for entry in versions:
        status = response.model_version_status.add(version=entry.version, state=entry.state)
        status.status.error_code = error_codes_pb2.OK
        if entry.error is not None:
            status.status.error_code = entry.error.code.value[0]
            status.status.error_message = entry.error.message
    return response


def signature_def_map(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    """Every signature in the version's SavedModel file, internal ones included, as TF Serving lists them."""
    return get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)


def metadata_response(servable: Servable) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """GetModelMetadataResponse with the signatures of a version."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.metadata[SIGNATURE_DEF_FIELD].Pack(signature_def_map(servable))
    return response


def metadata_dict(servable: Servable) -> dict[str, Any]:
    """The REST form of `metadata_response`: the signatures stand where the message has an opaque Any."""
    return {
        "model_spec": as_dict(metadata_response(servable).model_spec),
        "metadata": {SIGNATURE_DEF_FIELD: as_dict(signature_def_map(servable))},
    }


def as_dict(message: Message) -> dict[str, Any]:
    """A message in proto3's JSON mapping with TF Serving's options: field names as declared, defaults written out."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
