"""Runs that are killed, asked to end, or go wrong: what they end with is what an undisturbed run ends with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors.numpy import load_file

import garden
from training.callbacks import SaveState, Validate
from training.config import make_config
from training.output import read_metrics
from training.preemption import PREEMPTED, Preempted
from training.run import run

WORKER = Path(__file__).with_name("killed_worker.py")
GARDEN = Path(sys.executable).with_name("garden")


@pytest.fixture(scope="module")
def values(tiny_bert, tiny_data):
    """A run of 12 steps with dropout, averages, validations and checkpoints at different steps."""
    return {
        "task": "text-classification",
        "model": {"pretrained": str(tiny_bert)},
        "data": {"train": str(tiny_data["train"]), "validation": str(tiny_data["test"])},
        "training": {
            "learning_rate": 0.01,
            "batch_size": 16,
            "steps": 12,
            "log_steps": 4,
            "validation_steps": 3,
            "checkpoint_steps": 2,
            "ema": 0.5,
            "seed": 3,
        },
    }


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr("training.plots.draw_learning_curves", lambda lines, directory: None)
    monkeypatch.setattr("training.plots.draw_report", lambda results, directory: None)


@pytest.fixture(scope="module")
def config(values):
    def make(output, **training):
        return make_config({**values, "training": {**values["training"], **training}, "output": str(output)})

    return make


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(config(directory))
    return directory


def same(one: Path, other: Path) -> None:
    """Weights are the same to the last bit, and so is all that was written of the run, but its speed."""
    a, b = (load_file(directory / "model" / "model.safetensors") for directory in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for line, wanted in zip(read_metrics(other), read_metrics(one), strict=True):
        line, wanted = ({k: v for k, v in each.items() if k != "real_tokens_per_second"} for each in (line, wanted))
        assert line == pytest.approx(wanted, rel=1e-6)
    assert json.loads((one / "report.json").read_text()) == json.loads((other / "report.json").read_text())


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed_at_any_moment(values, tmp_path, kills):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "output": "unused"}))
    command = [sys.executable, str(WORKER), str(tmp_path / "run.yaml"), str(kills), "1", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "MPLBACKEND": "agg"})
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == kills
    if kills == 50:
        assert len(set(told["began"])) > 3, "runs went on after many steps"
    undisturbed, *others = map(Path, told["finished"])
    for other in others:
        same(undisturbed, other)


def test_asked_to_end_it_ends_behind_its_step(values, tmp_path):
    path, output = tmp_path / "run.yaml", tmp_path / "run"
    # No checkpoint but the one that it is asked for.
    training = {**values["training"], "checkpoint_steps": None, "log_steps": 1, "steps": 5000, "validation_steps": 4}
    path.write_text(yaml.safe_dump({**values, "training": training, "output": str(output)}))
    process = subprocess.Popen([GARDEN, "train", str(path)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not read_metrics(output) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED == 75, stderr
    assert f"garden: {output}: ended after step " in stderr.splitlines()[-1]
    assert "the same command continues the run" in stderr
    assert not stdout
    (state,) = (output / "checkpoints").glob("step-*")
    assert read_metrics(output)[-1]["step"] <= int(state.name.removeprefix("step-"))
    assert not (output / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a step", "a validation"])
def test_asked_to_end_in_the_middle(config, undisturbed, tmp_path, monkeypatch, moment):
    """SIGTERM comes in step 6's validation, or before step 6 is over, which is validated when the run goes on."""
    save, validate = SaveState.at_step, Validate._validate
    ask = lambda: os.kill(os.getpid(), signal.SIGTERM)

    def asks(self, step, logs):
        if step == 6:
            ask()
        save(self, step, logs)

    def asks_first(self, step):
        if step == 6:
            ask()
        validate(self, step)

    with monkeypatch.context() as patched:
        if moment == "a step":
            patched.setattr(SaveState, "at_step", asks)
        else:
            patched.setattr(Validate, "_validate", asks_first)
        with pytest.raises(Preempted, match=r"ended after step 6, as asked \(SIGTERM\)"):
            run(config(tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(config(tmp_path / "run"))
    same(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way(config, undisturbed, tmp_path, interrupted_after, caplog):
    with interrupted_after(9):
        run(config(tmp_path / "run"))
    arrays = tmp_path / "run" / "checkpoints" / "step-8" / "state.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    # What is told of a run may be other than before.
    run(config(tmp_path / "run", keep_checkpoints=3))
    assert "step-8: damaged" in caplog.text
    assert "going on from step-6, the one before" in caplog.text
    same(undisturbed, tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run_with_its_batch(config, tmp_path):
    with pytest.raises(
        ValueError, match=r"step \d+: the loss is (nan|inf); .*; what it was learning from is in "
    ) as raised:
        run(config(tmp_path / "run", learning_rate=1e30))
    step = int(str(raised.value).split()[1].rstrip(":"))
    batch = json.loads((tmp_path / "run" / f"batch-{step}.json").read_text())
    assert batch["step"] == step
    assert len(batch["text"]) == len(batch["label"]) == 16
    assert all(isinstance(text, str) for text in batch["text"])


@pytest.mark.slow
def test_or_is_skipped_and_counted(config, tmp_path, monkeypatch):
    losses = garden.TextClassifier.weighted_losses

    def sometimes_infinite(self, x, y, y_pred, sample_weight):
        given, weights = losses(self, x, y, y_pred, sample_weight)
        return given * tf.where(self.optimizer.iterations.value % 4 == 1, np.inf, 1.0), weights

    monkeypatch.setattr(garden.TextClassifier, "weighted_losses", sometimes_infinite)
    run(config(tmp_path / "run", not_finite="skip", checkpoint_steps=None, validation_steps=100))
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["skipped_steps"] for line in lines] == [1, 2, 3]
    assert all(0 < line["loss"] < 2 for line in lines)
