"""Predict, Classify and Regress on a loaded version, as TF Serving defines them. Both protocols and warm-up come here.

After tensorflow_serving/servables/tensorflow/{predict_util,classifier,regressor}.cc.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import tensor_protos
from serving.server.errors import StatusError, invalid_argument
from serving.server.models import DEFAULT_SIGNATURE, Servable, Signature

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def classify(
    servable: Servable, signature_name: str, examples: Sequence[bytes]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The labels [B,K] and scores [B,K] of B serialized tf.Examples; a signature may lack one of the two.

    Raises StatusError when the signature is not a classification or its outputs are not what that calls for.
    """
    signature = _example_signature(servable, signature_name, CLASSIFY_METHOD, "classification", output_counts=(1, 2))
    if _CLASSES not in signature.outputs and _SCORES not in signature.outputs:
        raise _failed_precondition(
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}"'
        )
    outputs = signature.run({_INPUTS: _example_array(examples)})
    labels, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, dtype in ((_CLASSES, labels, np.object_), (_SCORES, scores, np.float32)):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if array.dtype != dtype:
            wanted = "DT_STRING" if dtype == np.object_ else "DT_FLOAT"
            raise invalid_argument(f"Expected {name} Tensor of {wanted}. Got: {array.dtype.name}")
        if len(array) != len(examples):
            raise invalid_argument(f"Expected {name} output batch size of {len(examples)}. Got: {len(array)}")
    if labels is not None and scores is not None and labels.shape != scores.shape:
        raise invalid_argument(
            f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return labels, scores


def regress(servable: Servable, signature_name: str, examples: Sequence[bytes]) -> np.ndarray:
    """The values [B] float32 of B serialized tf.Examples. Raises StatusError as `classify` does."""
    signature = _example_signature(servable, signature_name, REGRESS_METHOD, "regression", output_counts=(1,))
    if _OUTPUTS not in signature.outputs:
        raise _failed_precondition(f"No regression outputs found in SignatureDef: expected {_OUTPUTS!r}")
    values = signature.run({_INPUTS: _example_array(examples)})[_OUTPUTS]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}"
        )
    if len(values) != len(examples):
        raise invalid_argument(f"Input batch size did not match output batch size: {len(examples)} vs. {len(values)}")
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {values.dtype.name}")
    return values.reshape(-1)


def run_predict(servable: Servable, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Answers a Predict message, with only the outputs of its `output_filter` when it has one."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signature(name)
    if signature is None:
        raise _failed_precondition(f'Serving signature key "{name}" not found.')
    wanted = list(request.output_filter)
    for position, alias in enumerate(wanted):
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{','.join(signature.outputs)}}}."
            )
        if alias in wanted[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    outputs = signature.run({alias: tensor_protos.from_proto(alias, proto) for alias, proto in request.inputs.items()})
    response = predict_pb2.PredictResponse(model_spec=_effective_spec(servable, name))
    for alias in wanted or signature.outputs:
        tensor_protos.to_proto(outputs[alias], response.outputs[alias])
    return response


def run_classify(
    servable: Servable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers a Classify message."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    response = classification_pb2.ClassificationResponse(model_spec=_effective_spec(servable, name))
    response.result.CopyFrom(_classification_result(*classify(servable, name, _serialized_examples(request.input))))
    return response


def run_regress(servable: Servable, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:
    """Answers a Regress message."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    response = regression_pb2.RegressionResponse(model_spec=_effective_spec(servable, name))
    response.result.CopyFrom(_regression_result(regress(servable, name, _serialized_examples(request.input))))
    return response


def run_multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers a MultiInference message: several classifications and regressions of the same examples."""
    examples = _serialized_examples(request.input)
    response = inference_pb2.MultiInferenceResponse()
    seen = set()
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if name in seen:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        result = response.results.add(model_spec=_effective_spec(servable, name))
        if task.method_name == CLASSIFY_METHOD:
            result.classification_result.CopyFrom(_classification_result(*classify(servable, name, examples)))
        elif task.method_name == REGRESS_METHOD:
            result.regression_result.CopyFrom(_regression_result(regress(servable, name, examples)))
        else:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
    return response


def _example_signature(
    servable: Servable, name: str, method: str, kind: str, *, output_counts: tuple[int, ...]
) -> Signature:
    """The signature of this name, when it takes serialized tf.Examples for `method`."""
    signature = servable.signature(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    if signature.method_name != method:
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in output_counts:
        raise invalid_argument(
            f"Expected {' or '.join(map(str, output_counts))} output Tensors, found {len(signature.outputs)}"
        )
    if _INPUTS not in signature.inputs:
        raise _failed_precondition(f"No {kind} inputs found in SignatureDef: expected {_INPUTS!r}")
    return signature


def _serialized_examples(source: input_pb2.Input) -> list[bytes]:
    kind = source.WhichOneof("kind")
    if kind == "example_list_with_context":
        # Serialized messages that follow each other merge: this adds the shared features to every example.
        context = source.example_list_with_context.context.SerializeToString()
        return [context + example.SerializeToString() for example in source.example_list_with_context.examples]
    return [example.SerializeToString() for example in source.example_list.examples]


def _example_array(examples: Sequence[bytes]) -> np.ndarray:
    if not examples:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(examples), object)
    array[:] = examples
    return array


def _classification_result(
    labels: np.ndarray | None, scores: np.ndarray | None
) -> classification_pb2.ClassificationResult:
    result = classification_pb2.ClassificationResult()
    shape = labels.shape if labels is not None else scores.shape
    for row in range(shape[0]):
        classes = result.classifications.add().classes
        for column in range(shape[1]):
            entry = classes.add()
            if labels is not None:
                entry.label = _text(labels[row, column])
            if scores is not None:
                entry.score = scores[row, column]
    return result


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        raise invalid_argument(f"class label {label!r} is not UTF-8") from error


def _regression_result(values: np.ndarray) -> regression_pb2.RegressionResult:
    result = regression_pb2.RegressionResult()
    for value in values.tolist():
        result.regressions.add(value=value)
    return result


def _effective_spec(servable: Servable, signature_name: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _failed_precondition(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.FAILED_PRECONDITION, message)
