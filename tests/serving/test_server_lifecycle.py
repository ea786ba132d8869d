"""Versions come and go under load; the process starts and stops as an operator expects."""

import gc
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.server import ModelLoadError, PortInUseError, Server, serve
from serving.server.manager import ModelManager

ROOT = Path(__file__).parents[2]
POLL = 0.05


@pytest.fixture
def base(tmp_path, version_models):
    """A base directory with version 1."""
    shutil.copytree(version_models[1], tmp_path / "model" / "1")
    return tmp_path / "model"


def start(base, **options):
    return Server({"m": base}, port=0, grpc_port=0, poll_seconds=POLL, **options)


def states(server, rest):
    _, body = rest.get("m")
    return {entry["version"]: entry["state"] for entry in body["model_version_status"]}


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ask(connection, text="a", path="m:predict"):
    return connection.post(path, {"instances": [text]})


# Versions


def test_a_new_version_takes_over_under_load_without_a_failure(base, version_models, connect):
    with start(base) as server:
        answers, errors, stop = [], [], threading.Event()

        def over_rest(number):
            connection, count = connect(server.port), 0
            while not stop.is_set():
                text, count = f"{number}-{count}", count + 1
                status, body = ask(connection, text)
                row = body["predictions"][0] if status == 200 else None
                (answers if row and row["echo"] == text else errors).append(row["version"] if row else body)

        def over_grpc(number):
            with grpc.insecure_channel(server.grpc_address) as channel:
                stub, count = prediction_service_pb2_grpc.PredictionServiceStub(channel), 0
                while not stop.is_set():
                    text, count = f"{number}-{count}".encode(), count + 1
                    request = predict_pb2.PredictRequest()
                    request.model_spec.name = "m"
                    request.inputs["text"].CopyFrom(tf.make_tensor_proto([text]))
                    try:
                        response = stub.Predict(request, timeout=30)
                    except grpc.RpcError as error:
                        errors.append(error)
                        continue
                    same = response.outputs["echo"].string_val[0] == text
                    version = response.outputs["version"].int64_val[0]
                    agrees = version == response.model_spec.version.value
                    (answers if same and agrees else errors).append(version)

        threads = [threading.Thread(target=over_rest, args=(i,)) for i in range(4)]
        threads += [threading.Thread(target=over_grpc, args=(i,)) for i in range(4, 7)]
        for thread in threads:
            thread.start()
        rest = connect(server.port)
        wait_for(lambda: len(answers) > 100)
        shutil.copytree(version_models[2], base / "2")
        wait_for(lambda: states(server, rest) == {"2": "AVAILABLE", "1": "END"})
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 100)
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert set(answers[:50]) == {1}
        assert set(answers[-50:]) == {2}
        assert ask(rest, path="m/versions/1:predict")[0] == 404
        assert ask(rest, path="m/versions/2:predict")[0] == 200


def test_the_highest_number_is_served_and_other_names_are_not_versions(base, version_models, connect):
    shutil.copytree(version_models[2], base / "00000010")
    shutil.copytree(version_models[1], base / "11.tmp")
    shutil.copytree(version_models[1], base / ".12")
    (base / "13").write_text("a file")
    (base / "14").mkdir()
    with start(base) as server:
        rest = connect(server.port)
        assert states(server, rest) == {"10": "AVAILABLE"}
        assert ask(rest)[1]["predictions"][0]["version"] == 2


def test_a_directory_is_left_alone_until_its_copy_is_complete(base, version_models, connect):
    with start(base) as server:
        rest = connect(server.port)
        shutil.copytree(version_models[2], base / "2", ignore=shutil.ignore_patterns("saved_model.pb"))
        time.sleep(6 * POLL)
        assert states(server, rest) == {"1": "AVAILABLE"}
        shutil.copy(version_models[2] / "saved_model.pb", base / "2")
        wait_for(lambda: states(server, rest) == {"2": "AVAILABLE", "1": "END"})


def test_a_version_that_fails_is_reported_and_tried_again_when_it_changes(base, version_models, connect):
    with start(base) as server:
        rest = connect(server.port)
        shutil.copytree(version_models[2], base / "2", ignore=shutil.ignore_patterns("variables"))
        wait_for(lambda: states(server, rest).get("2") == "END")
        _, body = rest.get("m/versions/2")
        failure = body["model_version_status"][0]["status"]
        assert failure["error_code"] != "OK"
        assert str(base / "2") in failure["error_message"]
        assert ask(rest)[1]["predictions"][0]["version"] == 1
        assert ask(rest, path="m/versions/2:predict")[0] == 404
        shutil.copytree(version_models[2] / "variables", base / "2" / "variables")
        wait_for(lambda: states(server, rest) == {"2": "AVAILABLE", "1": "END"})


def test_removing_the_newest_version_goes_back_to_the_one_before(base, version_models, connect):
    shutil.copytree(version_models[2], base / "2")
    with start(base) as server:
        rest = connect(server.port)
        shutil.rmtree(base / "2")
        wait_for(lambda: states(server, rest) == {"2": "END", "1": "AVAILABLE"})
        assert ask(rest)[1]["predictions"][0]["version"] == 1
        shutil.rmtree(base / "1")
        time.sleep(4 * POLL)
        assert ask(rest)[0] == 200, "nothing to take its place: the last version stays in service"


def test_a_retired_version_leaves_memory_when_its_last_request_ends(base, version_models):
    class Loaded:
        def __init__(self, version):
            self.version, self.itself = version, self  # a cycle, as a loaded SavedModel has

    manager = ModelManager({"m": base}, lambda name, version, path: Loaded(version), poll_seconds=POLL)
    manager.start()
    gc.disable()  # only the manager may collect
    try:
        with manager.use("m") as servable:
            retired = weakref.ref(servable)
            shutil.copytree(version_models[2], base / "2")
            wait_for(lambda: [entry.state for entry in manager.status("m")] == ["AVAILABLE", "UNLOADING"])
            assert not manager.is_idle()
        del servable
        assert [entry.state for entry in manager.status("m")] == ["AVAILABLE", "END"]
        wait_for(lambda: retired() is None)
    finally:
        gc.enable()
        assert manager.stop(10)


def test_signatures_under_load_never_mix(base, connect):
    with start(base) as server:
        wrong = []

        def run(signature, form):
            connection = connect(server.port)
            for i in range(150):
                body = {"signature_name": signature, "inputs": {"text": [f"{signature}{i}"] * (i % 5 + 1)}}
                status, answer = connection.post("m:predict", body)
                if status != 200 or answer["outputs"]["echo"] != [form.format(f"{signature}{i}")] * (i % 5 + 1):
                    wrong.append(answer)

        threads = [threading.Thread(target=run, args=("serving_default", "{}")) for _ in range(4)]
        threads += [threading.Thread(target=run, args=("reverse", "<{}>")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_two_models(base, model_bases, connect):
    with Server({"m": base, "texts": model_bases["texts"]}, port=0, grpc_port=0) as server:
        rest = connect(server.port)
        assert ask(rest)[0] == 200
        assert ask(rest, path="texts:predict")[1]["predictions"][0]["label"] == "negative"


# Warm-up


def write_warmup(version, *logs):
    directory = version / "assets.extra"
    directory.mkdir()
    with tf.io.TFRecordWriter(str(directory / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log if isinstance(log, bytes) else log.SerializeToString())


def predict_log(text_input="text"):
    request = predict_pb2.PredictRequest()
    request.inputs[text_input].CopyFrom(tf.make_tensor_proto(["warm"]))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def regress_log():
    return prediction_log_pb2.PredictionLog(
        regress_log=prediction_log_pb2.RegressLog(request=regression_pb2.RegressionRequest())
    )


def test_warmup_requests_are_replayed(base, caplog):
    write_warmup(base / "1", predict_log(), predict_log())
    with caplog.at_level("INFO", "serving"), start(base):
        assert "warmed up m version 1: 2 requests" in caplog.text


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ([predict_log(), predict_log("wrong")], "record 2 fails: INVALID_ARGUMENT"),
        ([regress_log()], "record 1 fails: INVALID_ARGUMENT"),
        ([prediction_log_pb2.PredictionLog()], "record 1: unsupported log type"),
        ([b"\xff"], "record 1 is not a PredictionLog"),
        ([predict_log()] * 1001, "more than 1000"),
    ],
)
def test_a_failing_warmup_record_fails_the_load(base, logs, message):
    write_warmup(base / "1", *logs)
    with pytest.raises(ModelLoadError, match=message):
        start(base).start()


def test_a_damaged_warmup_file_fails_the_load(base):
    write_warmup(base / "1", predict_log())
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a record file")
    with pytest.raises(ModelLoadError, match="not a TFRecord file"):
        start(base).start()


# Bad arguments


def test_a_port_in_use_is_said_before_anything_is_loaded(base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use: .* --port"):
            Server({"m": base}, port=port, grpc_port=0).start()
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is in use: .* --grpc-port"):
            Server({"m": base}, port=0, grpc_port=port).start()


def test_two_servers_do_not_share_a_grpc_port(base):
    with start(base) as server, pytest.raises(PortInUseError):
        Server({"m": base}, port=0, grpc_port=server.grpc_port).start()


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ({}, {}, ValueError, "at least one name"),
        ({"a/b": "1"}, {}, ValueError, "model name 'a/b'"),
        ({"a:b": "1"}, {}, ValueError, "model name 'a:b'"),
        ({"m": "missing"}, {}, FileNotFoundError, "missing: no such directory"),
        ({"m": "empty"}, {}, FileNotFoundError, "empty: no version directory in it: expected empty/1/saved_model.pb"),
        ({"m": "1"}, {}, ValueError, "1: is a version directory itself: give its parent"),
        ({"m": "."}, {"port": 70000}, ValueError, "port: expected 0 to 65535, got 70000"),
        ({"m": "."}, {"port": 9, "grpc_port": 9}, ValueError, "two different ports"),
        ({"m": "."}, {"poll_seconds": 0}, ValueError, "poll_seconds"),
    ],
)
def test_bad_arguments(base, monkeypatch, models, options, error, message):
    monkeypatch.chdir(base)
    (base / "empty").mkdir()
    with pytest.raises(error, match=message) as caught:
        Server(models, **{"port": 0, "grpc_port": 0, **options})
    assert "\n" not in str(caught.value)


def test_a_host_that_is_not_ours(base):
    with pytest.raises(ValueError, match=r"host '203\.0\.113\.9'"):
        Server({"m": base}, host="203.0.113.9", port=0, grpc_port=0).start()


@pytest.mark.parametrize("content", [b"", b"\xff\xfenot a protobuf", b"import os"])
def test_what_is_no_saved_model_is_refused(base, content):
    (base / "1" / "saved_model.pb").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"saved_model\.pb: not a SavedModel|no graph tagged"):
        start(base).start()


def test_python_beside_a_model_is_not_run(base, connect):
    for name in ("__init__.py", "model.py", "custom.py"):
        (base / "1" / name).write_text(f"open({str(base / 'ran')!r}, 'w')")
    with start(base) as server:
        assert ask(connect(server.port))[0] == 200
    assert not (base / "ran").exists()


def test_serve_takes_models_or_one_base(base):
    with pytest.raises(ValueError, match="either models"):
        serve()
    with pytest.raises(ValueError, match="either models"):
        serve({"m": base}, model_base=base)


# The process

PROCESS = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from serving.server import serve
report = lambda server: print(json.dumps({"port": server.port, "grpc_port": server.grpc_port}), flush=True)
serve(model_base=sys.argv[1], port=0, grpc_port=0, grace_seconds=float(sys.argv[2]), on_ready=report)
print("returned", flush=True)
"""


@pytest.fixture
def process(model_bases):
    """Starts the server as a program; returns it and its ports."""
    running = []

    def launch(grace):
        program = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(model_bases["texts"]), str(grace)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(program)
        return program, json.loads(program.stdout.readline())

    yield launch
    for program in running:
        program.kill()
        program.communicate()


def send_long_request(connect, port, seconds):
    """A request that is under way when this returns; the list fills when it is answered."""
    answers = []

    def send():
        body = {"signature_name": "wait", "instances": [seconds]}
        try:
            answers.append(connect(port).post("texts:predict", body))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(0.5)
    return thread, answers


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_lets_requests_under_way_finish(process, connect, number):
    program, ports = process(20)
    thread, answers = send_long_request(connect, ports["port"], 2.0)
    program.send_signal(number)
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        connect(ports["port"]).get("texts")
    thread.join()
    assert answers == [(200, {"predictions": [2.0]})]
    out, err = program.communicate(timeout=30)
    assert program.returncode == 0
    assert out == "returned\n"
    assert f"ready: serving texts version 1: REST on http://127.0.0.1:{ports['port']}" in err
    assert "Traceback" not in err


def test_a_request_that_does_not_end_delays_the_stop_by_the_grace_only(process, connect):
    program, ports = process(0.5)
    thread, answers = send_long_request(connect, ports["port"], 60.0)
    start = time.monotonic()
    program.send_signal(signal.SIGTERM)
    _, err = program.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert program.returncode == 1
    assert "still under way after 0.5 s" in err
    thread.join()
    assert isinstance(answers[0], OSError)
