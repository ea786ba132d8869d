"""Several replicas give what one device gives: losses, metrics, weights and predictions, in one process and in several."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")
SECONDS = 900
SHORT = {"task": "encoder", "examples": 9, "epochs": 1}  # 2 steps
LONG = {"examples": 30, "epochs": 5}  # 20 steps
TASKS = ("encoder", "decoder", "encoder-decoder")


def start(output: Path, environment=None, **options):
    output.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    with (output / "log").open("w") as log:
        command = [sys.executable, str(WORKER), json.dumps({**options, "output": str(output)})]
        return output, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def finish(*started) -> None:
    """Waits for all; as soon as one fails, or time is up, all are stopped."""
    end = time.monotonic() + SECONDS
    processes = [process for _, process in started]
    try:
        while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
            assert time.monotonic() < end, "timed out"
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = "\n".join((output / "log").read_text()[-4_000:] for output, _ in started)
    assert not any(process.returncode for process in processes), logs


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def workers(directory: Path, count: int, **options) -> list[Path]:
    """Runs so many processes of one cluster; returns what each wrote."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    started = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        place = {"environment": {"TF_CONFIG": json.dumps(config)}, "strategies": ["multi_worker"], "workers": count}
        started.append(start(directory / str(index), **place, **options))
    finish(*started)
    return [output / "multi_worker.npz" for output, _ in started]


def compare(path: Path, expected: Path, steps: int):
    given, expected = np.load(path), np.load(expected)
    assert set(given) == set(expected)
    assert given["steps"] == steps
    for name in expected:
        # A perplexity is e to the power of a loss: what the loss may be off by, it may in proportion.
        relative = 1e-5 if "perplexity" in name else 0
        np.testing.assert_allclose(given[name], expected[name], atol=1e-5, rtol=relative, err_msg=name)


@pytest.fixture(scope="module")
def checkpoints(still_bert, tmp_path_factory) -> dict[str, Path]:
    """Networks without dropout, with one vocabulary."""
    import keras

    from garden.models.gpt2 import GPT2Backbone, GPT2Config
    from garden.models.t5 import T5Backbone, T5Config

    place = tmp_path_factory.mktemp("networks")
    vocabulary = (still_bert / "vocab.txt").read_text(encoding="utf-8")
    size = len(vocabulary.splitlines())
    keras.utils.set_random_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    decoder = GPT2Backbone(GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2, **still))
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    both = T5Backbone(T5Config(vocab_size=size, dropout_rate=0.0, **sizes))
    for name, backbone in (("decoder", decoder), ("encoder-decoder", both)):
        backbone.save_pretrained(place / name)
        (place / name / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    return {"encoder": still_bert, "decoder": place / "decoder", "encoder-decoder": place / "encoder-decoder"}


@pytest.fixture(scope="module")
def short(still_bert, tiny_data, tmp_path_factory):
    """What one device and two in one process give, and the options that they were given."""
    options = {**SHORT, "checkpoint": str(still_bert), "data": str(tiny_data["train"])}
    directory = tmp_path_factory.mktemp("short")
    finish(start(directory, strategies=["one", "mirrored"], devices=2, **options))
    return directory, options


def test_two_devices_give_what_one_gives(short):
    compare(short[0] / "mirrored.npz", short[0] / "one.npz", steps=2)


def test_two_processes_give_what_one_gives(short, tmp_path):
    for written in workers(tmp_path, 2, **short[1]):
        compare(written, short[0] / "one.npz", steps=2)


@pytest.fixture(scope="module")
def long(request, checkpoints, tiny_data, tmp_path_factory):
    """What one device gives in 20 steps of a task, and the options that it was given."""
    options = {**LONG, "task": request.param, "checkpoint": str(checkpoints[request.param])}
    options["data"] = str(tiny_data["train"])
    directory = tmp_path_factory.mktemp("one")
    finish(start(directory, strategies=["one"], **options))
    return directory / "one.npz", options


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("long", TASKS, indirect=True)
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_give_what_one_gives_in_twenty_steps(long, devices, tmp_path):
    finish(start(tmp_path / "many", strategies=["mirrored"], devices=devices, **long[1]))
    compare(tmp_path / "many" / "mirrored.npz", long[0], steps=20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("long", TASKS, indirect=True)
@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_what_one_gives_in_twenty_steps(long, count, tmp_path):
    for written in workers(tmp_path, count, **long[1]):
        compare(written, long[0], steps=20)
