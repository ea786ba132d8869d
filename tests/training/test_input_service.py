"""Runs whose inputs tf.data services make: the same runs, and what happens without a service."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.config import make_config
from training.input_service import serve
from training.output import read_metrics
from training.run import run

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}


def config_of(tiny_bert, tiny_data, output, **changes):
    training = {"learning_rate": 0.003, "batch_size": 16, "steps": 4, "log_steps": 1, "keep": "last"}
    values = {
        "task": "masked-lm",
        "model": {"pretrained": str(tiny_bert)},
        "data": {"train": str(tiny_data["train"]), "service": changes.pop("service", None)},
        "training": training | changes,
        "output": str(output),
    }
    return make_config(values)


@pytest.fixture(scope="module")
def alone(tiny_bert, tiny_data, tmp_path_factory):
    """A run of masked words, whose masks are drawn with the inputs, that makes its inputs itself."""
    output = tmp_path_factory.mktemp("alone") / "run"
    run(config_of(tiny_bert, tiny_data, output))
    return output


def assert_same(alone, output):
    expected, given = read_metrics(alone), read_metrics(output)
    assert [(line["step"], line["loss"], line["tokens"]) for line in given] == [
        (line["step"], line["loss"], line["tokens"]) for line in expected
    ]
    weights, others = (load_file(path / "model/model.safetensors") for path in (alone, output))
    for name, values in weights.items():
        np.testing.assert_array_equal(others[name], values, err_msg=name)


def test_services_give_the_batches_that_the_run_would_have_made(
    alone, tiny_bert, tiny_data, tmp_path, interrupted_after
):
    with serve(0) as one, serve(0) as two:
        config = config_of(tiny_bert, tiny_data, tmp_path / "run", service=f"{one}, {two}", checkpoint_steps=2)
        with interrupted_after(2):
            run(config)
        run(config)
        gc.collect()  # clients that are left look for their services, and say so, in whatever this process tests next
    assert_same(alone, tmp_path / "run")


def test_no_service(tiny_bert, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("training.input_service.START_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no tf.data service answers at {address}; start one there"):
            run(config_of(tiny_bert, tiny_data, tmp_path / "run", service=address))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["", "data1", "data1:5050,", "data1:0", "grpc://data1:5050"])
def test_no_address(address, tiny_bert, tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r"data\.service: expected host:port, or several with commas"):
        run(config_of(tiny_bert, tiny_data, tmp_path / "run", service=address))


def test_port_in_use():
    with (
        serve(0) as address,
        pytest.raises(ValueError, match=r"cannot be used: .*; end the process that uses it"),
        serve(int(address.rpartition(":")[2])),
    ):
        pytest.fail("two services at one port")


@pytest.fixture
def service_process():
    """Starts `garden data-service`, and returns its process and address."""
    started = []

    def start(port: int = 0):
        process = subprocess.Popen(
            [sys.executable, "-m", "garden.cli", "data-service", "--port", str(port), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | QUIET,
        )
        started.append(process)
        return process, json.loads(process.stdout.readline())["data_service"]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_service_that_ends_ends_the_run(again, alone, tiny_bert, tiny_data, tmp_path, service_process):
    service, address = service_process()
    config = config_of(tiny_bert, tiny_data, tmp_path / "run", service=address, steps=100_000, checkpoint_steps=2)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    trains = subprocess.Popen(
        [sys.executable, "-m", "garden.cli", "train", str(tmp_path / "config.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET,
    )
    while not list((tmp_path / "run/checkpoints").glob("*")):
        assert trains.poll() is None, trains.stderr.read()
        time.sleep(0.2)
    service.kill()
    service.wait()
    if again:
        service_process(int(address.rpartition(":")[2]))
    _, said = trains.communicate(timeout=60)
    assert trains.returncode == 69, said
    told = [line for line in said.splitlines() if line.startswith("garden: ")]
    assert len(told) == 1
    assert f"data.service: {address} is lost" in told[0]


@pytest.mark.slow
def test_the_command_ends_when_told_to(service_process):
    service, _ = service_process()
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0
