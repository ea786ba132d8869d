"""The gRPC services, with the official protos and stubs."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

ECHOES = {
    "float32": [0.2, -1e30],
    "float64": [0.1, 1e300],
    "int8": [-128, 127],
    "int16": [-32768, 32767],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255],
    "uint16": [0, 65535],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "bool": [True, False],
    "string": [b"", b"\xff\x00"],
    "float16": [0.5, -2.0],
    "bfloat16": [0.5, -2.0],
}


@pytest.fixture(scope="module")
def channel(server):
    limit = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_address, options=limit) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(name, inputs, signature="", version=None, label="", outputs=()):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    fill_spec(request.model_spec, name, signature, version, label)
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(value if isinstance(value, TensorProto) else tf.make_tensor_proto(value))
    return request


def fill_spec(spec, name, signature="", version=None, label=""):
    spec.name, spec.signature_name = name, signature
    if version is not None:
        spec.version.value = version
    if label:
        spec.version_label = label


def fails(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code().name, caught.value.details()


def example(**features):
    built = tf.train.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            built.features.feature[name].bytes_list.value.append(value)
        else:
            built.features.feature[name].float_list.value.append(value)
    return built


def test_predict_answers_with_the_version_and_signature_used(stub):
    response = stub.Predict(predict_request("texts", {"text": ["good", "no"]}))
    assert response.model_spec.name == "texts"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert sorted(response.outputs) == ["classes", "label", "score", "scores"]
    assert tf.make_ndarray(response.outputs["label"]).tolist() == [b"positive", b"negative"]
    assert tf.make_ndarray(response.outputs["scores"]).shape == (2, 2)
    # Clients of TF Serving read these fields directly.
    assert list(response.outputs["score"].float_val) == pytest.approx([0.4, 0.2])
    assert list(response.outputs["label"].string_val) == [b"positive", b"negative"]


@pytest.mark.parametrize("dtype", ECHOES)
def test_every_dtype_comes_back(stub, dtype):
    tf_dtype = tf.as_dtype(dtype)
    for values in ([ECHOES[dtype]], ECHOES[dtype][0], np.zeros((0, 3))):
        array = np.array(values, tf_dtype.as_numpy_dtype)
        proto = tf.make_tensor_proto(array, tf_dtype)
        back = stub.Predict(predict_request("numbers", {"x": proto}, dtype)).outputs["y"]
        assert back.dtype == tf_dtype.as_datatype_enum
        np.testing.assert_array_equal(tf.make_ndarray(back), array)


def test_output_filter(stub):
    response = stub.Predict(predict_request("texts", {"text": ["good"]}, outputs=["score"]))
    assert list(response.outputs) == ["score"]


def test_explicit_version(stub):
    assert stub.Predict(predict_request("texts", {"text": ["good"]}, version=1)).model_spec.version.value == 1


def test_large_messages(stub):
    array = np.random.default_rng(0).random(2 * 2**20, np.float32)  # 8 MiB, twice gRPC's default limit
    response = stub.Predict(predict_request("numbers", {"x": array}, "float32"))
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), array)


def proto(dtype, shape, **values):
    message = TensorProto(dtype=tf.as_dtype(dtype).as_datatype_enum, **values)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


@pytest.mark.parametrize(
    ("inputs", "options", "code", "message"),
    [
        ({"text": ["a"]}, {"name": "zzz"}, "NOT_FOUND", "Servable not found for request: Latest(zzz)"),
        ({"text": ["a"]}, {"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(texts, 9)"),
        ({"text": ["a"]}, {"label": "new"}, "INVALID_ARGUMENT", "Unrecognized servable version label: new"),
        ({"text": ["a"]}, {"name": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified"),
        ({"text": ["a"]}, {"signature": "zzz"}, "FAILED_PRECONDITION", 'Serving signature key "zzz" not found.'),
        ({"text": ["a"]}, {"outputs": ["zzz"]}, "INVALID_ARGUMENT", "output tensor alias not found in signature: zzz"),
        ({"text": ["a"]}, {"outputs": ["score", "score"]}, "INVALID_ARGUMENT", "duplicate output tensor alias: score"),
        ({}, {}, "INVALID_ARGUMENT", "Missing but required: {text}"),
        ({"text": ["a"], "more": [1]}, {}, "INVALID_ARGUMENT", "Sent extra: {more}"),
        ({"wrong": ["a"]}, {}, "INVALID_ARGUMENT", "Sent extra: {wrong}. Missing but required: {text}"),
        ({"text": [1.0]}, {}, "INVALID_ARGUMENT", "expected string, got float32"),
        ({"text": [["a"]]}, {}, "INVALID_ARGUMENT", "shape [1, 1] does not fit the signature's (None,)"),
        ({"text": proto("string", [2**40], string_val=[b"a"])}, {}, "INVALID_ARGUMENT", "larger than"),
        ({"text": proto("string", [-1], string_val=[b"a"])}, {}, "INVALID_ARGUMENT", "not fully known"),
        ({"text": proto("float32", [3], tensor_content=b"abc")}, {}, "INVALID_ARGUMENT", "tensor parsing error: text"),
        ({"text": proto("int64", [1], int64_val=[1, 2])}, {}, "INVALID_ARGUMENT", "tensor parsing error: text"),
        ({"text": proto("resource", [])}, {}, "INVALID_ARGUMENT", "tensor parsing error: text"),
    ],
)
def test_bad_predict(stub, inputs, options, code, message):
    got_code, details = fails(stub.Predict, predict_request(**{"name": "texts", "inputs": inputs, **options}))
    assert got_code == code
    assert message in details


def test_missing_model_spec(stub):
    assert fails(stub.Predict, predict_pb2.PredictRequest()) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_tensorflows_own_errors_keep_their_code(stub):
    code, details = fails(stub.Predict, predict_request("numbers", {"x": [-1.0]}, "fails"))
    assert code == "INVALID_ARGUMENT"
    assert "x must be positive" in details


def test_classify(stub):
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, "texts", "classify")
    request.input.example_list.examples.extend([example(text=b"good"), example(text=b"no")])
    response = stub.Classify(request)
    assert response.model_spec.signature_name == "classify"
    assert response.model_spec.version.value == 1
    rows = [[(entry.label, entry.score) for entry in row.classes] for row in response.result.classifications]
    assert rows[0] == [("negative", pytest.approx(0.6)), ("positive", pytest.approx(0.4))]
    assert len(rows) == 2


def test_classify_with_context(stub):
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, "texts", "classify")
    request.input.example_list_with_context.context.CopyFrom(example(boost=0.5))
    request.input.example_list_with_context.examples.append(example(text=b"good"))
    assert stub.Classify(request).result.classifications[0].classes[1].score == pytest.approx(0.9)


def test_classify_errors(stub):
    request = classification_pb2.ClassificationRequest()
    fill_spec(request.model_spec, "texts", "classify")
    assert fails(stub.Classify, request) == ("INVALID_ARGUMENT", "Input is empty.")
    request.input.example_list.examples.append(example(text=b"good"))
    request.model_spec.signature_name = ""
    code, details = fails(stub.Classify, request)
    assert code == "INVALID_ARGUMENT"
    assert "method_name to be tensorflow/serving/classify" in details


def test_regress(stub):
    request = regression_pb2.RegressionRequest()
    fill_spec(request.model_spec, "texts", "regress")
    request.input.example_list.examples.extend([example(x=1.5), example(x=-1.0)])
    response = stub.Regress(request)
    assert [entry.value for entry in response.result.regressions] == [4.0, -1.0]


def test_multi_inference(stub):
    request = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        fill_spec(task.model_spec, "texts", method)
    request.input.example_list.examples.append(example(text=b"good", x=2.0))
    response = stub.MultiInference(request)
    assert response.results[0].classification_result.classifications[0].classes[1].label == "positive"
    assert response.results[1].regression_result.regressions[0].value == 5.0
    request.tasks[1].CopyFrom(request.tasks[0])
    assert fails(stub.MultiInference, request) == ("INVALID_ARGUMENT", "Duplicate evaluation of signature: classify")


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "texts"
    response = stub.GetModelMetadata(request)
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["classify"].method_name == "tensorflow/serving/classify"
    assert signatures.signature_def["serving_default"].inputs["text"].dtype == tf.string.as_datatype_enum
    request.metadata_field[:] = ["graph"]
    assert fails(stub.GetModelMetadata, request) == ("INVALID_ARGUMENT", "Metadata field graph is not supported")
    request.metadata_field[:] = []
    assert fails(stub.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"


def test_status(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "texts"
    entry = models.GetModelStatus(request).model_version_status[0]
    assert (entry.version, entry.state, entry.status.error_code) == (1, entry.AVAILABLE, 0)
    request.model_spec.version.value = 9
    assert fails(models.GetModelStatus, request) == ("NOT_FOUND", "Could not find version 9 of model texts")
    request.model_spec.name = "zzz"
    assert fails(models.GetModelStatus, request)[0] == "NOT_FOUND"


def test_reload_config_is_unimplemented(models):
    assert fails(models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())[0] == "UNIMPLEMENTED"
