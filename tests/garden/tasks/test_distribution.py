"""Two replicas give what one device gives: losses, metrics, weights and predictions, in one process and in two."""

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
SECONDS = 300


def start(strategy, checkpoint, data, output, **environment):
    log = output.with_suffix(".log").open("w")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, str(WORKER), strategy, str(checkpoint), str(data), str(output)]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def finished(*processes) -> None:
    """Waits for all; as soon as one fails, or time is up, all are stopped."""
    end = time.monotonic() + SECONDS
    try:
        while any(process.poll() is None for process in processes):
            assert not any(process.poll() for process in processes)
            assert time.monotonic() < end, "timed out"
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(directory, processes):
    finished(*processes)
    logs = "\n".join(path.read_text()[-4_000:] for path in sorted(directory.glob("*.log")))
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


@pytest.fixture(scope="module")
def one_device(still_bert, tiny_data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    run(directory, [start("one", still_bert, tiny_data["train"], directory / "one.npz")])
    return np.load(directory / "one.npz")


def compare(given, expected):
    assert set(given) == set(expected)
    assert given["steps"] == 6
    for name in expected:
        np.testing.assert_allclose(given[name], expected[name], atol=1e-5, err_msg=name)


def test_mirrored_over_two_devices(one_device, still_bert, tiny_data, tmp_path):
    run(tmp_path, [start("mirrored", still_bert, tiny_data["train"], tmp_path / "mirrored.npz")])
    compare(np.load(tmp_path / "mirrored.npz"), one_device)


def test_multi_worker_of_two_processes(one_device, still_bert, tiny_data, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        output = tmp_path / f"worker{index}.npz"
        workers.append(start("multi_worker", still_bert, tiny_data["train"], output, TF_CONFIG=json.dumps(config)))
    run(tmp_path, workers)
    for index in range(2):
        compare(np.load(tmp_path / f"worker{index}.npz"), one_device)
