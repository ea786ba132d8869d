"""Runs of a config, in processes that are killed: python killed_worker.py CONFIG KILLS SEED OUTPUT.

TensorFlow is imported once; each run is a fork of this process, which takes a fraction of the time. A run is killed
(SIGKILL) after a random time, until so many were; when one ends by itself, the next begins in a directory of its own. Then
the last one is left alone. Prints a JSON line: the finished directories, and after which step each run began that went on.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from training.checkpoints import read_checkpoint
from training.config import read_config
from training.run import run


def begin(config) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        run(config)
        code = 0
    finally:
        os._exit(code)


def ended(process: int, seconds: float) -> bool:
    """Waits for the end of a process, at most so long; returns whether it came by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            assert status == 0, f"a run failed with status {status}"
            return True
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def newest(output: Path) -> int:
    """The newest state, all of which have to be whole; 0 without any."""
    paths = (output / "checkpoints").glob("step-*") if (output / "checkpoints").is_dir() else ()
    return max((read_checkpoint(path)[0]["step"] for path in paths), default=0)


def main() -> None:
    path, kills, seed, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    draw, killed, finished, began = random.Random(seed), 0, [], []
    begun = time.monotonic()
    output = directory / "undisturbed"
    assert ended(begin(read_config(path, [f"output={output}"])), 600)
    whole = time.monotonic() - begun
    finished.append(str(output))
    while True:
        output = directory / f"killed-{len(finished)}"
        while not (output / "model").exists():
            began.append(newest(output))
            seconds = draw.uniform(0.1, 1.1) * whole if killed < kills else 600
            if not ended(begin(read_config(path, [f"output={output}"])), seconds):
                killed += 1
        finished.append(str(output))
        if killed >= kills:
            break
    print(json.dumps({"finished": finished, "began": began, "killed": killed}))


if __name__ == "__main__":
    main()
