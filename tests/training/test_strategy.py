"""Strategies: refusals by name, and runs on two replicas and two workers that end as one device's does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.cluster import check_batch
from training.config import make_config
from training.output import read_metrics
from training.strategy import strategy

RUN = """
import json, os, sys
import tensorflow as tf
if sys.argv[1] == "mirrored":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
from training.config import make_config
from training.run import run
print(json.dumps(run(make_config(json.loads(sys.argv[2]), ["strategy=" + sys.argv[1], "output=" + sys.argv[3]]))))
"""


def config_of(tiny_bert, tiny_data) -> str:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = json.loads((tiny_bert / "config.json").read_text()) | dropout
    directory = tiny_data["train"].parent / "without_dropout"
    if not directory.exists():
        directory.mkdir()
        for path in tiny_bert.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        (directory / "config.json").write_text(json.dumps(values))
    return json.dumps(
        {
            "task": "text-classification",
            "model": {"pretrained": str(directory)},
            "data": {"train": str(tiny_data["train"]), "validation": str(tiny_data["test"])},
            "training": {"learning_rate": 0.003, "batch_size": 16, "steps": 6, "validation_steps": 3, "log_steps": 2},
        }
    )


def start(name, config, output, **environment):
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, name, config, str(output)],
        env={**os.environ, **quiet, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tiny_bert, tiny_data, tmp_path_factory):
    """The run on one device: directory and result."""
    output = tmp_path_factory.mktemp("alone") / "run"
    return output, result_of(start("one_device", config_of(tiny_bert, tiny_data), output))


def assert_same_run(alone, output, result):
    expected, given = read_metrics(alone[0]), read_metrics(output)
    assert [line["step"] for line in given] == [line["step"] for line in expected]
    for a, b in zip(expected, given, strict=True):
        for name in a.keys() - {"real_tokens_per_second"}:
            assert b[name] == pytest.approx(a[name], abs=1e-4), (name, a["step"])
    assert result["report"]["confusion_matrix"] == alone[1]["report"]["confusion_matrix"]
    a, b = (load_file(path / "model" / "model.safetensors") for path in (alone[0], output))
    assert all(np.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.slow
def test_two_replicas_end_as_one_device_does(alone, tiny_bert, tiny_data, tmp_path):
    output = tmp_path / "run"
    assert_same_run(alone, output, result_of(start("mirrored", config_of(tiny_bert, tiny_data), output)))


@pytest.mark.slow
def test_two_workers_end_as_one_device_does_and_only_the_chief_writes(alone, tiny_bert, tiny_data, tmp_path):
    output = tmp_path / "run"
    ports = []
    with socket.socket() as first, socket.socket() as second:
        for held in (first, second):
            held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    workers = [
        start(
            "multi_worker",
            config_of(tiny_bert, tiny_data),
            output,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]
    chief, other = (result_of(worker) for worker in workers)
    assert_same_run(alone, output, chief)
    assert other["report"] == chief["report"]


def test_names_that_are_none():
    with pytest.raises(ValueError, match='strategy "fast": expected one_device'):
        strategy("fast")


def test_no_tpu(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(ValueError, match=r"strategy tpu: no TPU at this machine .*; give its name or address") as error:
        strategy("tpu")
    assert "\n" not in str(error.value)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ValueError, match=f'no TPU at "{address}" .*refused'):
            strategy("tpu", tpu=address)


def test_devices_that_are_not_there():
    with pytest.raises(ValueError, match="devices: no GPU:7 here; there are CPU:0"):
        strategy("mirrored", devices=["CPU:0", "GPU:7"])
    with pytest.raises(ValueError, match='devices: "cpu" is not a device'):
        strategy("mirrored", devices=["cpu"])
    with pytest.raises(ValueError, match="each once"):
        strategy("mirrored", devices=["CPU:0", "CPU:0"])
    assert strategy("mirrored", devices=["CPU:0"]).num_replicas_in_sync == 1


def test_batches_that_replicas_do_not_divide():
    check_batch(6, 3, "replicas")
    with pytest.raises(ValueError, match=r"training.batch_size: 16 examples .* each of 3 replicas; try 15 or 18"):
        check_batch(16, 3, "replicas")


def test_keys_of_other_strategies(tiny_bert, tiny_data, tmp_path):
    values = {**json.loads(config_of(tiny_bert, tiny_data)), "output": str(tmp_path / "run")}
    for override, message in (("devices=[CPU:0]", "devices: only for strategy mirrored"), ("tpu=a", "tpu: only for")):
        with pytest.raises(ValueError, match=message):
            make_config(values, [override])


@pytest.mark.parametrize("config", [None, "", "no JSON", "{}", '{"cluster": {}}', '{"cluster": {}, "task": {}}', "[1]"])
def test_several_workers_need_a_cluster(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=r'TF_CONFIG.*"cluster"'):
        strategy("multi_worker")
