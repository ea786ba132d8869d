"""Two replicas give the losses, metrics and weights of one device, where a loss has several parts or candidates elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("pretraining_worker.py")


@pytest.fixture(scope="module")
def results(still_bert, tmp_path_factory):
    output = tmp_path_factory.mktemp("replicas") / "results.npz"
    command = [sys.executable, str(WORKER), str(still_bert), str(output)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-4_000:]
    return np.load(output)


@pytest.mark.parametrize("task", ["pairs", "detector", "embedder"])
def test_two_replicas_are_one_device(results, task):
    names = [name.removeprefix("one/") for name in results if name.startswith(f"one/{task}/")]
    assert len(names) > 10
    for name in names:
        np.testing.assert_allclose(results[f"two/{name}"], results[f"one/{name}"], atol=2e-5, err_msg=name)
    losses = results[f"one/{task}/loss"]
    assert losses[-1] < losses[0]


def test_the_parts_add_up(results):
    for task, factors in (
        ("pairs", {"masked_loss": 1, "pair_loss": 1}),
        ("detector", {"generator_loss": 1, "discriminator_loss": 50}),
    ):
        total = sum(factor * results[f"two/{task}/{name}"] for name, factor in factors.items())
        np.testing.assert_allclose(results[f"two/{task}/loss"], total, rtol=1e-6)
        assert all(results[f"two/{task}/{name}"].min() > 0 for name in factors)


@pytest.mark.parametrize(("precision", "skip", "skipped"), [("float32", "skip", 1), ("mixed_float16", "stop", None)])
def test_a_step_that_overflows_on_one_replica_changes_nothing_on_any(still_bert, precision, skip, skipped):
    command = [sys.executable, str(WORKER.with_name("overflow_worker.py")), str(still_bert), precision, skip]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-4_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"changed": [True, False, True, True], "same": True, "finite": True, "skipped": skipped}
