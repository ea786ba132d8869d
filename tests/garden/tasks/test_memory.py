"""What recomputed blocks and steps in parts are for: a step in less memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("memory_worker.py")


def megabytes(recompute: str, accumulate: int) -> int:
    result = subprocess.run(
        [sys.executable, str(WORKER), recompute, str(accumulate)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4_000:]
    return int(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_recomputation_and_parts_take_less_memory():
    plain = megabytes("false", 1)
    assert megabytes("true", 1) < 0.6 * plain
    assert megabytes("false", 4) < 0.6 * plain
