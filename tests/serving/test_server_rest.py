"""The REST API against TF Serving's documented behaviour: https://www.tensorflow.org/tfx/serving/api_rest"""

import base64
import gzip
import json
import math
import socket

import numpy as np
import pytest


def b64(data: bytes) -> dict:
    return {"b64": base64.b64encode(data).decode()}


# Predict


def test_row_form_of_scalars(rest):
    status, body = rest.post("texts:predict", {"instances": ["good", "bad"]})
    assert status == 200
    first, second = body["predictions"]
    assert first == {"label": "positive", "score": 0.4, "scores": [0.6, 0.4], "classes": ["negative", "positive"]}
    assert second["label"] == "negative"


def test_row_form_of_objects(rest):
    status, body = rest.post("texts:predict", {"instances": [{"text": "good"}, {"text": "no"}]})
    assert status == 200
    assert [row["label"] for row in body["predictions"]] == ["positive", "negative"]


def test_row_form_of_several_inputs(rest):
    instances = [{"weights": [1.5, 2], "count": 2}, {"weights": [0, 1], "count": -3}]
    status, body = rest.post("numbers:predict", {"signature_name": "two", "instances": instances})
    assert (status, body) == (200, {"predictions": [{"count": 2, "total": 7.0}, {"count": -3, "total": -3.0}]})


def test_one_output_is_a_bare_value(rest):
    request = {"signature_name": "shout", "instances": ["a", "ü"]}
    assert rest.post("texts:predict", request) == (200, {"predictions": ["A", "ü"]})
    request = {"signature_name": "shout", "inputs": ["a"]}
    assert rest.post("texts:predict", request) == (200, {"outputs": ["A"]})


def test_column_form(rest):
    status, body = rest.post("texts:predict", {"inputs": {"text": ["good", "no"]}})
    assert status == 200
    assert body["outputs"]["label"] == ["positive", "negative"]
    assert np.shape(body["outputs"]["scores"]) == (2, 2)
    assert rest.post("texts:predict", {"inputs": ["good", "no"]}) == (status, body)


def test_column_form_lets_batch_sizes_differ(rest):
    request = {"signature_name": "shapes", "inputs": {"x": 1.5, "table": [[1], [2], [3]]}}
    assert rest.post("numbers:predict", request) == (200, {"outputs": {"x": 1.5, "table": [[1], [2], [3]]}})


def test_empty_batch_in_columns(rest):
    status, body = rest.post("texts:predict", {"inputs": {"text": []}})
    assert (status, body) == (200, {"outputs": {"label": [], "score": [], "scores": [], "classes": []}})


def test_version_in_path(rest):
    assert rest.post("texts/versions/1:predict", {"instances": ["good"]})[0] == 200


@pytest.mark.parametrize("value", ["plain", b64(b"plain"), {"b64": "cGxh\naW4"}])
def test_strings_may_come_in_base64(rest, value):
    status, body = rest.post("texts:predict", {"signature_name": "raw", "instances": [value, "x"]})
    assert status == 200
    assert body["predictions"][0] == {"caption": "plain", "image_bytes": b64(b"plain")}


def test_bytes_outputs_leave_in_base64(rest):
    data = bytes(range(256))
    status, body = rest.post("texts:predict", {"signature_name": "raw", "inputs": [b64(data[:128])]})
    assert status == 200
    assert body["outputs"]["image_bytes"] == [b64(data[:128])]
    assert body["outputs"]["caption"] == [data[:128].decode()]


def test_an_output_that_is_not_utf8_is_refused_by_name(rest):
    status, body = rest.post("texts:predict", {"signature_name": "shout", "inputs": [b64(b"\xff")]})
    assert status == 400
    assert "output loud: a string in it is not UTF-8; an output named loud_bytes" in body["error"]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [0.2, 1.0, -3.5e-20, 3.4028234e38, 16777215, 123456789.0]),
        ("float64", [0.1, 1e300, -2.5, 9007199254740991]),
        ("int8", [-128, 127]),
        ("int16", [-32768, 32767]),
        ("int32", [-(2**31), 2**31 - 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint8", [0, 255]),
        ("uint32", [0, 2**32 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("bool", [True, False]),
        ("string", ["", 'a\nb"\\', "日本", "\u0000", "😀"]),
    ],
)
def test_values_come_back_as_they_went(rest, dtype, values):
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        status, body = rest.post("numbers:predict", {"signature_name": dtype, key: values})
        assert status == 200, body
        expected = [float(np.float32(v)) for v in values] if dtype == "float32" else values
        got = [float(np.float32(v)) for v in body[answer]] if dtype == "float32" else body[answer]
        assert got == expected
        nested = [[values, values]]
        status, body = rest.post("numbers:predict", {"signature_name": dtype, key: nested})
        assert np.shape(body[answer]) == (1, 2, len(values))


def test_floats_are_written_as_tf_serving_writes_them(rest):
    connection = rest.connection
    body = b'{"signature_name": "float32", "instances": [0.2, 3, 1e20, NaN, Infinity, -Infinity, 0.123456789, 1e-5]}'
    connection.request("POST", "/v1/models/numbers:predict", body=body)
    text = connection.getresponse().read().decode()
    assert text == '{"predictions": [0.2, 3.0, 1e+20, NaN, Infinity, -Infinity, 0.123456791, 1e-05]}'
    assert math.isnan(json.loads(text)["predictions"][3])


@pytest.mark.parametrize("shape", [(0,), (2, 0), (2, 0, 3), (3, 1, 2), (1, 1, 1, 1)])
def test_shapes_come_back(rest, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    status, body = rest.post("numbers:predict", {"signature_name": "float32", "inputs": array.tolist()})
    assert status == 200
    # Nothing nested in an empty list can be told from JSON, on either side.
    known = shape[: shape.index(0) + 1] if 0 in shape else shape
    assert np.shape(body["outputs"]) == known


BAD_PREDICTS = [
    ("texts", b"", "document is empty"),
    ("texts", b"  \n", "document is empty"),
    ("texts", b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("texts", b"hello", "JSON Parse error: Invalid value"),
    ("texts", b'{"instances": ["a"]} x', "must not be followed by other values"),
    ("texts", b'{"instances": ["\xff"]}', "Invalid encoding in string"),
    ("texts", b'{"instances": ["\\ud800"]}', "surrogate pair in string is invalid"),
    ("texts", b"[" * 100_000, "nested too deeply"),
    ("texts", b'{"instances": [' + b"9" * 5000 + b"]}", "Number too big"),
    ("texts", [1, 2], "Is not object"),
    ("texts", {}, "Missing 'inputs' or 'instances' key"),
    ("texts", {"instances": ["a"], "inputs": ["a"]}, "only one of 'inputs' or 'instances'"),
    ("texts", {"instances": "a"}, "to be an list/array"),
    ("texts", {"instances": []}, "No values in 'instances' array"),
    ("texts", {"instances": ["a"], "signature_name": 5}, "'signature_name' key must be a string value"),
    ("texts", {"instances": ["a"], "signature_name": "zzz"}, 'Serving signature name: "zzz" not found'),
    ("texts", {"instances": ["a", {"text": "b"}]}, "Expecting value/list but got object at item 1"),
    ("texts", {"instances": [{"text": "b"}, "a"]}, "Expecting object but got list at item 1"),
    ("texts", {"instances": [{"text": "b"}, {"txt": "a"}]}, "keys must be equal to: text"),
    ("texts", {"instances": [{"text": "b", "more": 1}]}, "keys must be equal to: text"),
    ("texts", {"instances": [{}]}, "keys must be equal to: text"),
    ("texts", {"instances": [5]}, "JSON Value: 5 Type: Number is not of expected type: string"),
    ("texts", {"instances": [None]}, "JSON Value: null Type: Null is not of expected type: string"),
    ("texts", {"instances": [["a"]]}, "shape [1, 1] does not fit the signature's (None,)"),
    ("texts", {"instances": ["a", ["b"]]}, "Failed to process element: 1 of 'instances' list"),
    ("texts", {"instances": [{"b64": "!!!"}]}, "Unable to base64 decode"),
    ("texts", {"instances": [{"b64": 3}]}, "keys must be equal to: text"),
    ("texts", {"inputs": "a"}, "shape [] does not fit"),
    ("texts", {"inputs": {}}, "Missing named input: text in 'inputs' object."),
    ("texts", {"inputs": {"text": ["a"], "txt": ["a"]}}, 'Unknown named input: "txt"'),
    ("texts", {"inputs": {"text": {"b65": "a"}}}, "not formatted correctly for base64 data"),
    ("numbers", {"signature_name": "two", "instances": [[1, 2]]}, "instances is a plain list"),
    ("numbers", {"signature_name": "two", "inputs": [[1, 2]]}, "inputs is a plain value/list"),
    ("numbers", {"signature_name": "two", "inputs": {"weights": [[1, 2]]}}, "Missing named input: count"),
    (
        "numbers",
        {"signature_name": "two", "instances": [{"weights": [1, 2], "count": 1}, {"weights": [1], "count": 1}]},
        "element: 1 key: weights of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
    ),
    (
        "numbers",
        {"signature_name": "two", "inputs": {"weights": [[1, 2], [3]], "count": [1, 2]}},
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    ("numbers", {"signature_name": "two", "inputs": {"weights": [[1, 2, 3]], "count": [1]}}, "shape [1, 3]"),
    ("numbers", {"signature_name": "int32", "inputs": [2**31]}, "JSON Value: 2147483648 Type: Number is not of"),
    ("numbers", {"signature_name": "int32", "inputs": [1.0]}, "JSON Value: 1.0 Type: Number is not of expected type"),
    ("numbers", {"signature_name": "int32", "inputs": [True]}, "Type: True is not of expected type: int32"),
    ("numbers", {"signature_name": "int8", "inputs": [128]}, "is not of expected type: int8"),
    ("numbers", {"signature_name": "uint64", "inputs": [-1]}, "is not of expected type: uint64"),
    ("numbers", {"signature_name": "int64", "inputs": [2**63]}, "is not of expected type: int64"),
    ("numbers", {"signature_name": "bool", "inputs": [0]}, "is not of expected type: bool"),
    ("numbers", {"signature_name": "float32", "inputs": [True]}, "is not of expected type: float"),
    ("numbers", {"signature_name": "float32", "inputs": ["1"]}, "Type: String is not of expected type: float"),
    ("numbers", {"signature_name": "float32", "inputs": [{"b64": "AA=="}]}, "Type: Object is not of expected type"),
    ("numbers", {"signature_name": "float32", "inputs": [16777216]}, "16777216 to float without loss of precision"),
    ("numbers", {"signature_name": "float32", "inputs": [1e39]}, "to float without loss of precision"),
    ("numbers", b'{"signature_name": "float64", "inputs": [1e999]}', "to double without loss of precision"),
    ("numbers", {"signature_name": "float64", "inputs": [2**53]}, "to double without loss of precision"),
    ("numbers", {"signature_name": "float32", "inputs": [1, [2]]}, "Encountered list at unexpected level: 1"),
    ("numbers", {"signature_name": "float32", "inputs": [[1], 2]}, "found at incorrect level: 2"),
    ("numbers", {"signature_name": "float16", "instances": [1.0]}, "UNIMPLEMENTED: Conversion of JSON Value: 1.0 to"),
    ("numbers", {"signature_name": "halves", "instances": [1.0]}, "Failed to write JSON value for tensor type: half"),
    ("numbers", {"signature_name": "total", "instances": [1.0]}, "Tensor name: sum has no shape information"),
    ("numbers", {"signature_name": "fails", "instances": [-1.0]}, "x must be positive"),
]


@pytest.mark.parametrize(("model", "body", "message"), BAD_PREDICTS)
def test_bad_predict_is_400_and_says_why(rest, model, body, message):
    status, answer = rest.post(f"{model}:predict", body)
    assert (status, list(answer)) == (400, ["error"])
    assert message in answer["error"]


def test_unreadable_dtype_in_columns_is_unimplemented(rest):
    status, body = rest.post("numbers:predict", {"signature_name": "bfloat16", "inputs": [1.0]})
    assert (status, body) == (501, {"error": "Conversion of JSON Value: 1.0 to type: bfloat16"})


def test_rows_need_one_batch_size(rest):
    request = {"signature_name": "uneven", "instances": [1.0, 2.0]}
    status, body = rest.post("numbers:predict", request)
    assert (status, body) == (400, {"error": "Tensor name: y has inconsistent batch size: 1 expecting: 2"})
    request = {"signature_name": "uneven", "inputs": [1.0, 2.0]}
    assert rest.post("numbers:predict", request) == (200, {"outputs": {"x": [1.0, 2.0], "y": [1.0]}})


def test_an_error_repeats_only_the_start_of_a_large_value(rest):
    status, body = rest.post("texts:predict", {"nothing": ["x" * 10**6]})
    assert status == 400
    status, body = rest.post("texts:predict", ["x" * 10**6])
    assert status == 400
    assert len(body["error"]) < 1000


# Classify and regress


def test_classify(rest):
    request = {"signature_name": "classify", "examples": [{"text": "good"}, {"text": ["no"]}]}
    status, body = rest.post("texts:classify", request)
    assert status == 200
    assert body == {
        "results": [[["negative", 0.6], ["positive", 0.4]], [["negative", 0.8], ["positive", 0.2]]],
    }


def test_context_is_shared_by_all_examples(rest):
    request = {"signature_name": "classify", "context": {"boost": 0.5}, "examples": [{"text": "good"}, {"text": "no"}]}
    status, body = rest.post("texts:classify", request)
    assert status == 200
    assert [row[1][1] for row in body["results"]] == pytest.approx([0.9, 0.7])


def test_feature_kinds_follow_the_json(rest):
    example = {"text": b64(b"good"), "boost": 1.0, "rank": True}
    status, body = rest.post("texts:classify", {"signature_name": "classify", "examples": [example]})
    assert status == 200
    assert body["results"][0][1][1] == pytest.approx(2.4)


def test_regress(rest):
    request = {"signature_name": "regress", "examples": [{"x": 1.5}, {"x": -1.0}]}
    assert rest.post("texts:regress", request) == (200, {"results": [4.0, -1.0]})
    assert rest.post("texts/versions/1:regress", request)[0] == 200


BAD_EXAMPLES = [
    ({"examples": [{"text": "a"}]}, "method_name to be tensorflow/serving/classify. Was: tensorflow/serving/predict"),
    ({"signature_name": "regress", "examples": [{"x": 1.0}]}, "Was: tensorflow/serving/regress"),
    ({"signature_name": "zzz", "examples": [{"text": "a"}]}, "No signature was found with the name: zzz"),
    ({"signature_name": "classify"}, "key 'examples' is expected and was not found"),
    ({"signature_name": "classify", "examples": {}}, "Expecting 'examples' value to be an list/array"),
    ({"signature_name": "classify", "examples": []}, "'examples' value is an empty array"),
    ({"signature_name": "classify", "examples": ["a"]}, "Example must be JSON object but got JSON String"),
    ({"signature_name": "classify", "examples": [{"text": None}]}, "unexpected JSON type: Null"),
    ({"signature_name": "classify", "examples": [{"text": [["a"]]}]}, "unexpected JSON type: Array"),
    ({"signature_name": "classify", "examples": [{"text": {"a": 1}}]}, "unexpected JSON type: Object"),
    ({"signature_name": "classify", "examples": [{"text": ["a", 1]}]}, "expecting type: bytes"),
    ({"signature_name": "classify", "examples": [{"rank": [1, 1.5]}]}, "expecting type: int64"),
    ({"signature_name": "classify", "examples": [{"rank": 2**63}]}, "has uint64 element"),
    ({"signature_name": "classify", "examples": [{"boost": 1e39}]}, "without loss of precision"),
    ({"signature_name": "classify", "examples": [{"text": {"b64": "!"}}]}, "Unable to base64 decode"),
    ({"signature_name": "classify", "context": 3, "examples": [{"text": "a"}]}, "Example must be JSON object"),
    ({"signature_name": "classify", "examples": [{"wrong": "a"}]}, "text"),
]


@pytest.mark.parametrize(("body", "message"), BAD_EXAMPLES)
def test_bad_classify_is_400_and_says_why(rest, body, message):
    status, answer = rest.post("texts:classify", body)
    assert (status, list(answer)) == (400, ["error"])
    assert message in answer["error"]


# Status, metadata and paths


def test_status(rest):
    entry = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert rest.get("texts") == (200, {"model_version_status": [entry]})
    assert rest.get("texts/versions/1") == (200, {"model_version_status": [entry]})


def test_metadata(rest):
    status, body = rest.get("texts/metadata")
    assert status == 200
    assert body["model_spec"] == {"name": "texts", "signature_name": "", "version": "1"}
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"
    text = signatures["serving_default"]["inputs"]["text"]
    assert text["dtype"] == "DT_STRING"
    assert text["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert rest.get("texts/versions/1/metadata") == (status, body)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "Not Found"),
        ("GET", "/v2/models/texts", 404, "Not Found"),
        ("GET", "/v1/models/zzz", 404, "Could not find any versions of model zzz"),
        ("GET", "/v1/models/texts/versions/9", 404, "Could not find version 9 of model texts"),
        ("GET", "/v1/models/zzz/metadata", 404, "Servable not found for request: Latest(zzz)"),
        ("GET", "/v1/models/texts/versions/9/metadata", 404, "Servable not found for request: Specific(texts, 9)"),
        ("POST", "/v1/models/zzz:predict", 404, "Servable not found for request: Latest(zzz)"),
        ("POST", "/v1/models/zzz/versions/3:predict", 404, "Servable not found for request: Specific(zzz, 3)"),
        ("POST", "/v1/models/texts/versions/9:predict", 404, "Servable not found for request: Specific(texts, 9)"),
        ("POST", "/v1/models/texts/labels/new:predict", 400, "Unrecognized servable version label: new"),
        ("GET", "/v1/models/texts/labels/new", 400, "Unrecognized servable version label: new"),
        ("POST", "/v1/models/texts/versions/99999999999999999999:predict", 400, "Failed to convert version"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/texts:predict", 400, "Malformed request: GET /v1/models/texts:predict"),
        ("POST", "/v1/models/texts", 400, "Malformed request: POST /v1/models/texts"),
        ("POST", "/v1/models/texts:explain", 400, "Malformed request"),
        ("PUT", "/v1/models/texts:predict", 400, "Malformed request"),
        ("DELETE", "/v1/models/texts", 400, "Malformed request"),
        ("POST", "/v1/models/texts/versions/x:predict", 400, "Malformed request"),
    ],
)
def test_paths(rest, method, path, status, message):
    body = {"instances": ["a"]} if method in ("POST", "PUT") else None
    got, answer = rest.send(method, path, body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"]


def test_paths_ignore_case_and_decode_names(rest):
    assert rest.send("POST", "/V1/Models/texts:PREDICT", {"instances": ["a"]})[0] == 200
    assert rest.send("GET", "/v1/models/te%78ts")[0] == 200


def test_body_over_the_limit_is_413(server, connect):
    connection = connect(server.port).connection
    connection.putrequest("POST", "/v1/models/texts:predict")
    connection.putheader("Content-Length", str(300 * 2**20))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "error" in json.loads(response.read())


def test_bodies_may_be_compressed(rest):
    body = gzip.compress(json.dumps({"instances": ["good"]}).encode())
    for data, status in ((body, 200), (b"not gzip", 400)):
        rest.connection.request("POST", "/v1/models/texts:predict", data, {"Content-Encoding": "gzip"})
        response = rest.connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == status
        assert list(answer) == (["predictions"] if status == 200 else ["error"])
        rest.connection.close()


def test_broken_http_and_clients_that_leave_are_no_errors_of_ours(server, rest, caplog):
    head = b"POST /v1/models/texts:predict HTTP/1.1\r\nHost: a\r\n"
    for data in (
        b"\x00\x01\r\n\r\n",
        head + b"Content-Length: 50\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(data)
    assert rest.post("texts:predict", {"instances": ["good"]})[0] == 200
    assert caplog.text == ""
