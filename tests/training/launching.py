"""`garden launch`, started for a test."""

import os
import subprocess
import sys


def two_workers(config, output, *arguments) -> subprocess.Popen:
    """Starts a run on two workers of this machine, with its results and logs in pipes."""
    command = [sys.executable, "-m", "garden.cli", "launch", "--workers", "2", "--config", str(config)]
    return subprocess.Popen(
        [*command, f"output={output}", *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
