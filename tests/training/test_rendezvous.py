"""Workers that meet: they compare what they run, wait for each other, and learn when one is lost. Without TensorFlow."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from training.launch import free_ports
from training.rendezvous import LOST, differences

WORKER = """
import json, sys, time
from training import rendezvous
from training.cluster import resolve
from training.preemption import Preempted
options = json.loads(sys.argv[1])
rendezvous.BEAT_SECONDS, rendezvous.GRACE_SECONDS, rendezvous.SILENCE_SECONDS = 0.2, 0.5, 2.0
try:
    with rendezvous.together(resolve(), options.get("facts", {}), seconds=options.get("wait", 20)):
        print("met", flush=True)
        if options.get("block"):
            with rendezvous.guarded():
                time.sleep(1)
        time.sleep(options.get("work", 0.3))
        if "raise" in options:
            raise {"value": ValueError, "preempted": lambda text: Preempted(3, text)}[options["raise"]]("a full disk")
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(getattr(error, "exit_code", 2))
"""


@pytest.fixture
def start():
    """Starts workers with these options each, None for one that does not come."""
    started = []

    def start(*options, addresses=None, indices=None):
        addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(len(options))]
        for index, each in enumerate(options):
            index = index if indices is None else indices[index]
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            if each is not None:
                command = [sys.executable, "-c", WORKER, json.dumps(each)]
                environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
                pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
                started.append(subprocess.Popen(command, env=environment, **pipes))
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(processes) -> list[tuple[int, str]]:
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_workers_that_are_alike(start):
    assert ends(start({}, {"work": 1.0}, {})) == [(0, "met\n")] * 3


def test_differences_are_told_on_every_worker(start):
    one, other = {"training.batch_size": "16", "keras": "3.15.1"}, {"training.batch_size": "32", "keras": "3.15.1"}
    line = "ValueError: the workers differ: training.batch_size: 16 (workers 0, 1), 32 (worker 2)\n"
    assert ends(start({"facts": one}, {"facts": one}, {"facts": other})) == [(2, line)] * 3


def test_only_the_first_differences_are_told():
    told = differences({0: {str(key): "1" for key in range(9)}, 1: {str(key): "2" for key in range(8)} | {"8": "1"}})
    assert told.startswith("0: 1 (worker 0), 2 (worker 1); 1: ")
    assert told.endswith("; and 2 more")
    assert differences({0: {"a": "1"}, 1: {}}) == "a: 1 (worker 0), none (worker 1)"
    assert differences({0: {"a": "1"}, 1: {"a": "1"}}) == ""


def test_a_worker_that_does_not_come(start):
    (first, told), (second, too) = ends(start({"wait": 1}, {"wait": 1}, None))
    assert first == second == LOST
    assert told == too
    assert "worker 2 (127.0.0.1:" in told
    assert "did not come within 1 s (GARDEN_START_SECONDS)" in told


def test_the_first_worker_does_not_come(start):
    ((code, told),) = ends(start(None, {"wait": 1}))
    assert code == LOST
    assert "worker 0 (127.0.0.1:" in told
    assert "did not come within 1 s" in told


def test_two_processes_of_one_number(start):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    for code, told in ends(start({}, {}, {}, addresses=addresses, indices=[0, 2, 2])):
        assert code == 2
        assert "two processes are worker 2" in told or "cannot be used" in told


@pytest.mark.parametrize("killed", [0, 2])
def test_a_killed_worker_ends_the_others(start, killed):
    """Their own threads sleep, as in a collective of TensorFlow."""
    workers = start({"work": 60}, {"work": 60}, {"work": 60})
    for worker in workers:
        assert worker.stdout.readline() == "met\n"
    workers[killed].kill()
    began = time.monotonic()
    for index, (code, told) in enumerate(ends(workers)):
        if index != killed:
            assert code == LOST
            assert f"worker {killed} (127.0.0.1:" in told
            assert "is lost: " in told
            assert "all go on from the checkpoint" in told
    assert time.monotonic() - began < 10


def test_a_silent_worker_ends_the_others(start):
    workers = start({"work": 60}, {"work": 60})
    for worker in workers:
        assert worker.stdout.readline() == "met\n"
    workers[1].send_signal(signal.SIGSTOP)
    ((code, told),) = ends(workers[:1])
    assert code == LOST
    assert "it was silent for 2 s" in told


def test_what_one_fails_of_the_others_tell(start):
    (code, told), (other, too) = ends(start({"raise": "value"}, {"work": 60}))
    assert (code, told) == (2, "met\nValueError: a full disk\n")
    assert other == LOST
    assert " ended: a full disk" in too


def test_a_preempted_worker_is_not_lost(start):
    (code, _), (other, told) = ends(start({"raise": "preempted"}, {"work": 1.5}))
    assert code == 75
    assert (other, told) == (0, "met\n")


def test_others_that_knock_are_ignored(start):
    import socket

    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = start({}, None, addresses=addresses)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            knocking = socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1])))
            break
        time.sleep(0.05)
    with knocking:
        knocking.sendall(b"GET / HTTP/1.1\r\n\r\n")
        start({}, addresses=addresses, indices=[1])
        assert ends(workers) == [(0, "met\n")] * 2


def test_the_guard_leaves_no_process(start):
    assert ends(start({"block": True}, {"block": True})) == [(0, "met\n")] * 2
