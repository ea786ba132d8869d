"""The client gives the same answers over both protocols."""

import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

import serving.client
from serving.client import Client, RequestError, VersionStatus
from serving.server import Server


@pytest.fixture(params=["rest", "grpc"])
def client(request, server):
    options = {"url": server.url} if request.param == "rest" else {"grpc": server.grpc_address}
    with Client(**options) as client:
        yield client


def test_predict(client):
    outputs = client.predict("texts", {"text": ["good", "no"]})
    assert sorted(outputs) == ["classes", "label", "score", "scores"]
    assert outputs["label"].tolist() == ["positive", "negative"]
    assert outputs["score"].dtype == np.float32
    np.testing.assert_allclose(outputs["scores"], [[0.6, 0.4], [0.8, 0.2]], rtol=1e-6)
    assert outputs["classes"].shape == (2, 2)


def test_the_only_input_needs_no_name(client):
    assert client.predict("texts", ["good"], "shout")["loud"].tolist() == ["GOOD"]
    assert client.predict("texts", np.array(["good", "ü"], object), "shout", version=1)["loud"].shape == (2,)
    with pytest.raises(ValueError, match="expected a mapping with count, weights"):
        client.predict("numbers", [1], "two")


def test_bytes_go_and_come(client):
    outputs = client.predict("texts", [b"\x00a", "b"], "raw")
    assert outputs["image_bytes"].tolist() == [b"\x00a", b"b"]
    assert outputs["caption"].tolist() == ["\x00a", "b"]


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint64", "bool"])
def test_arrays_keep_dtype_and_shape(client, dtype, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(tf.as_dtype(dtype).as_numpy_dtype)
    back = client.predict("numbers", {"x": array}, dtype)["y"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_not_numbers_survive(client):
    values = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    np.testing.assert_array_equal(client.predict("numbers", values, "float32")["y"], values)


def test_python_numbers_take_the_signatures_dtype(client):
    outputs = client.predict("numbers", {"weights": [[1, 2.5]], "count": [2]}, "two")
    assert (outputs["total"].tolist(), outputs["count"].dtype) == ([7.0], np.int32)


def test_classify(client):
    rows = client.classify("texts", [{"text": "good"}, {"text": [b"no"]}], "classify")
    assert [[label for label, _ in row] for row in rows] == [["negative", "positive"]] * 2
    assert rows[0][1][1] == pytest.approx(0.4)
    rows = client.classify("texts", [{"text": "good", "rank": True}], "classify", 1, context={"boost": 0.5})
    assert rows[0][1][1] == pytest.approx(1.9)


def test_regress(client):
    assert client.regress("texts", [{"x": 1.5}, {"x": np.array([-1.0])}], "regress") == [4.0, -1.0]


def test_status_and_metadata(client):
    expected = [VersionStatus(1, "AVAILABLE", "OK", "")]
    assert client.status("texts") == client.status("texts", 1) == expected
    metadata = client.metadata("texts")
    assert metadata["model_spec"]["version"] == "1"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["text"]["dtype"] == "DT_STRING"


def test_wait_until_ready(client):
    client.wait_until_ready("texts", timeout=5)
    with pytest.raises(TimeoutError, match=r"model 'zzz' is not served after 0.2 s: .*Could not find any versions"):
        client.wait_until_ready("zzz", timeout=0.2)


@pytest.mark.parametrize(
    ("call", "message", "statuses"),
    [
        (lambda c: c.predict("zzz", ["a"]), "Servable not found for request: Latest", (404, "NOT_FOUND")),
        (lambda c: c.predict("texts", ["a"], version=9), "Specific", (404, "NOT_FOUND")),
        (lambda c: c.predict("texts", {"txt": ["a"]}), "text", (400, "INVALID_ARGUMENT")),
        (lambda c: c.predict("texts", [["a"]]), "does not fit the signature", (400, "INVALID_ARGUMENT")),
        (lambda c: c.predict("numbers", [-1.0], "fails"), "x must be positive", (400, "INVALID_ARGUMENT")),
        (lambda c: c.classify("texts", [{"text": "a"}]), "classify. Was:", (400, "INVALID_ARGUMENT")),
        (lambda c: c.status("zzz"), "Could not find any versions of model zzz", (404, "NOT_FOUND")),
    ],
)
def test_errors_carry_the_servers_words(client, call, message, statuses):
    with pytest.raises(RequestError, match=message) as caught:
        call(client)
    assert caught.value.status in statuses
    assert message.split(" ")[0] in caught.value.message


def test_a_wrong_signature_names_the_right_ones(client):
    with pytest.raises(ValueError, match=r"has no 'zzz', only classify, raw, regress, serving_default, shout, wait"):
        client.predict("texts", ["a"], "zzz")


@pytest.mark.parametrize("options", [{"url": "http://127.0.0.1:9"}, {"grpc": "127.0.0.1:9"}])
def test_no_server(options):
    with Client(**options, timeout=5) as client, pytest.raises(RequestError) as caught:
        client.status("texts")
    assert caught.value.status == "UNAVAILABLE"


def test_an_answer_that_is_not_a_servers(server):
    # gRPC's port speaks HTTP/2: anything that is not the API must end as a RequestError too.
    with Client(f"http://{server.grpc_address}", timeout=5) as client, pytest.raises(RequestError):
        client.status("texts")


def test_threads_share_a_client(client):
    wrong = []

    def run(number):
        for i in range(30):
            text = f"t{number}x{i}"
            if client.predict("texts", [text], "shout")["loud"].tolist() != [text.upper()]:
                wrong.append(text)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_the_client_does_not_import_tensorflow():
    # Loaded by its path: what its package imports is not this module's doing.
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('alone', {serving.client.__file__!r})\n"
        "module = sys.modules['alone'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print('tensorflow' in sys.modules, 'grpc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_outputs_of_a_version_that_came_since(tmp_path, version_models, model_bases):
    base = tmp_path / "model"
    shutil.copytree(version_models[1], base / "1")
    with Server({"m": base}, port=0, grpc_port=0, poll_seconds=0.05) as server, Client(server.url) as client:
        assert client.predict("m", ["a"])["version"].tolist() == [1]
        shutil.copytree(model_bases["texts"] / "1", base / "2")
        deadline = time.monotonic() + 30
        while client.status("m")[0].state != "AVAILABLE" or client.status("m")[0].version != 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.predict("m", {"text": ["good"]})["label"].tolist() == ["positive"]
