"""Runs of so many tokens, with another schedule, averages and an interruption."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.budget import Length, length_of
from training.config import TrainingConfig, make_config
from training.output import read_metrics
from training.run import run

TOKENS = 600


@pytest.fixture
def config(tiny_bert, tiny_data):
    def make(output, **training):
        return make_config(
            {
                "task": "text-classification",
                "model": {"pretrained": str(tiny_bert)},
                "data": {"train": str(tiny_data["train"]), "validation": str(tiny_data["test"])},
                "training": {
                    "tokens": TOKENS,
                    "betas": [0.9, 0.98],
                    "schedule": "wsd",
                    "warmup": 2,
                    "decay": 0.5,
                    "decay_shape": "sqrt",
                    "floor": 0.1,
                    "ema": 0.8,
                    "learning_rate": 0.01,
                    "batch_size": 16,
                    "log_steps": 2,
                    "checkpoint_steps": 3,
                    "validation_steps": 100,
                    **training,
                },
                "output": str(output),
            }
        )

    return make


@pytest.mark.slow
def test_a_run_ends_with_its_tokens_and_an_interrupted_one_is_the_same(
    config, tmp_path, monkeypatch, interrupted_after
):
    monkeypatch.setattr("training.plots.draw_learning_curves", lambda lines, directory: None)
    monkeypatch.setattr("training.plots.draw_report", lambda results, directory: None)
    whole = run(config(tmp_path / "whole"))
    lines = read_metrics(tmp_path / "whole")
    training = [line for line in lines if "loss" in line]
    assert training[-1]["step"] == whole["steps"]
    assert training[-1]["tokens"] >= TOKENS > training[-2]["tokens"]
    assert lines[-1]["step"] == whole["steps"], "it validates at its end"
    assert training[0]["learning_rate"] == pytest.approx(0.01), "the second step ends the warm-up"

    with interrupted_after(3):
        run(config(tmp_path / "parts"))
    parts = run(config(tmp_path / "parts"))
    assert parts["steps"] == whole["steps"]
    assert read_metrics(tmp_path / "parts")[-2]["tokens"] == training[-1]["tokens"]
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    # What is validated is what is saved.
    assert whole["report"]["accuracy"] == pytest.approx(lines[-1]["validation_accuracy"])


def test_lengths_in_steps():
    def length(**options):
        return length_of(TrainingConfig(**options), per_pass=7, tokens_per_step=lambda: 1000.0)

    assert length() == Length(21, 21)
    assert length(epochs=0.5) == Length(4, 4)
    assert length(steps=5) == Length(5, 5)
    assert length(tokens=1e6 + 1) == Length(1001, 1001 + 110)
    assert math.ceil(1e6 / 1000) == length(tokens=1e6).planned
