"""`garden launch`: processes with places in a cluster, their lines, their ends, and what is refused before they start."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launching import two_workers
from safetensors.numpy import load_file

from garden.cli import run_command
from training.launch import free_ports, launch
from training.output import read_metrics
from training.preemption import PREEMPTED
from training.rendezvous import LOST

INDEX = 'import json, os, signal, sys, time; index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]; '


def launched(code: str, workers: int = 2, **options) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return (
        launch([sys.executable, "-c", INDEX + code], workers, out=out, err=err, **options),
        out.getvalue(),
        err.getvalue(),
    )


def test_lines_have_their_workers_number():
    code, out, err = launched('print("result", index); print("a\\nb", file=sys.stderr)', 3)
    assert (code, out) == (0, "result 0\n")
    assert sorted(err.splitlines()) == [
        "[0] a",
        "[0] b",
        "[1] a",
        "[1] b",
        "[1] result 1",
        "[2] a",
        "[2] b",
        "[2] result 2",
    ]


def test_each_has_its_place():
    code, out, err = launched('print(os.environ["TF_CONFIG"])')
    places = [json.loads(text) for text in (out, err.removeprefix("[1] "))]
    assert code == 0
    assert [place["task"] for place in places] == [{"type": "worker", "index": index} for index in range(2)]
    assert places[0]["cluster"] == places[1]["cluster"]
    assert len(set(places[0]["cluster"]["worker"])) == 2


def test_one_that_fails_stops_all(monkeypatch):
    monkeypatch.setattr("training.launch.GRACE_SECONDS", 0.3)
    began = time.monotonic()
    assert launched("time.sleep(0.2 if index else 60); sys.exit(7)")[0] == 7
    assert launched("time.sleep(0.2 if index else 60); os.kill(os.getpid(), 9)")[0] == 128 + 9
    assert launched("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60 * index); sys.exit(3)")[0] == 3
    assert time.monotonic() - began < 20


def test_the_first_failure_is_told(monkeypatch):
    assert launched("time.sleep(0.3 * index); sys.exit(5 - index)")[0] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_workers(number):
    worker = (
        INDEX + "take = lambda *_: (print('told', flush=True), sys.exit(75)); signal.signal(signal.SIGTERM, take); "
        "signal.signal(signal.SIGINT, take); print('ready', flush=True); time.sleep(60)"
    )
    code = f"import sys; from training.launch import launch; sys.exit(launch([sys.executable, '-c', {worker!r}], 2))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    assert process.stderr.readline() == "[1] ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (75, "told\n")
    assert "[1] told" in err


def test_workers_end_with_the_launch():
    code = f"import sys; from training.launch import launch; launch([sys.executable, '-c', {INDEX!r} + {SLEEP!r}], 2)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [int(process.stdout.readline()), int(process.stderr.readline().removeprefix("[1] "))]
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and _runs(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


SLEEP = "print(os.getpid(), flush=True); time.sleep(60)"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_pinned_workers_have_cores_of_their_own(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    code, out, _ = launched("print(sorted(os.sched_getaffinity(0)))", 1, pin=True)
    assert (code, json.loads(out)) == (0, cores)
    with pytest.raises(ValueError, match=f"{len(cores) + 1} workers: this machine has {len(cores)} cores"):
        launched("", len(cores) + 1, pin=True)


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    _, out, err = launched('print(os.environ["CUDA_VISIBLE_DEVICES"])')
    assert (out, err) == ("4,5\n", "[1] 6,7\n")
    with pytest.raises(ValueError, match="5 workers: this machine has 4 GPUs"):
        launched("", 5)


def test_ports_are_free_and_different():
    assert len(set(free_ports(20))) == 20


@pytest.fixture(scope="module")
def config(still_bert, tiny_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("launch") / "run.yaml"
    values = {
        "task": "text-classification",
        "model": {"pretrained": str(still_bert)},
        "data": {"train": str(tiny_data["train"]), "labels": ["negative", "positive"]},
        "training": {"batch_size": 16, "steps": 40, "checkpoint_steps": 5, "log_steps": 1, "learning_rate": 0.003},
        "output": str(path.parent / "out"),
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "3"], "16 examples are not the same number for each of 3 workers"),
        (
            ["--workers", "4", "data={train: null, corpus: here, labels: null, shards: 2}", "task=masked-lm"],
            "data.shards: 4 workers do not divide 2",
        ),
        (["--workers", "2", "training.steps=x"], "training.steps: expected a whole number"),
        (["--workers", "0"], "--workers"),
        (["--workers", "2", "--image", "a"], "--image is for --render"),
        (["--workers", "2", "--render", "slurm"], "--render needs --to"),
    ],
)
def test_bad_input_starts_nothing(config, arguments, message, capfd):
    assert run_command(["launch", "--config", str(config), *arguments]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_has_an_example(capsys):
    assert run_command(["launch", "--help"]) == 0
    assert "garden launch --workers 2 --config configs/sentiment.yaml" in capsys.readouterr().out


def until(process: subprocess.Popen, pattern: str) -> str:
    """Reads the log up to a line with the pattern."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            return "".join(seen)
    raise AssertionError("".join(seen))


def worker_pids(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_the_next_launch_continues_it(config, tmp_path):
    """What the two give in the end is what they and one device give without a stop."""
    process = two_workers(config, tmp_path / "run")
    until(process, r"\[0\] step 12 of 40")
    os.kill(worker_pids(process)[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL, err
    assert time.monotonic() - began < 60
    assert re.search(r"\[0\] garden: worker 1 \(127.0.0.1:\d+\) is lost: .*", err), err
    process = two_workers(config, tmp_path / "run", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "continuing an interrupted run after step " in err
    assert json.loads(out)["steps"] == 40
    alone = [sys.executable, "-m", "garden.cli", "train", str(config), f"output={tmp_path / 'alone'}"]
    subprocess.run(alone, check=True, capture_output=True, timeout=300)
    given, expected = (read_metrics(tmp_path / name) for name in ("run", "alone"))
    assert [line["step"] for line in given] == [line["step"] for line in expected]
    for line, other in zip(given, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-5)
    _, err = two_workers(config, tmp_path / "undisturbed").communicate(timeout=300)
    given, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "undisturbed"))
    assert given.keys() == expected.keys(), err
    # What is added to every key alike, softmax does not see: its gradient is rounding, which AdamW makes whole steps of.
    for name in [name for name in given if not name.endswith("key.bias")]:
        np.testing.assert_allclose(given[name], expected[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_workers_of_different_configs_all_say_so(config, tmp_path):
    """As on two machines: each has its own command line."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "garden.cli", "train", str(config), "--strategy", "multi_worker"),
                    *(f"output={tmp_path / 'run'}", f"training.seed={index + 1}"),
                ],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CONFIG": json.dumps(place)},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert worker.returncode == 2
        assert err == "garden: error: the workers differ: training.seed: 1 (worker 0), 2 (worker 1)\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_launch_that_is_told_to_end_saves_and_says_so(config, tmp_path):
    process = two_workers(config, tmp_path / "run")
    until(process, r"\[1\] step 3 of 40")
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, err
    assert LOST != PREEMPTED
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
