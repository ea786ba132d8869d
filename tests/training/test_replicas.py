"""Each optimiser on two replicas, with parts, recomputation and averages, gives what plain steps on one device give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("steps_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
def test_two_replicas_are_one_device(name, still_bert, tiny_data):
    result = subprocess.run(
        [sys.executable, str(WORKER), name, str(still_bert), str(tiny_data["train"])],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4_000:]
    assert json.loads(result.stdout.splitlines()[-1]) < 1e-5
