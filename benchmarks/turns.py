"""Sides of a comparison as processes that compute only in their turn. Standard library only: every environment runs it.

A worker is started as `python -m benchmarks.turns MODULE:CLASS OPTIONS`, makes one object of the class and calls its
methods on request. Parent and worker exchange one line of JSON a message; what libraries print on a worker's stdout goes
to its stderr, which is kept and shown when the worker fails.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Longer than anything here takes: training to the end on a slow machine.
TIMEOUT_SECONDS = 4 * 3600.0
SETTLE_SECONDS = 0.5


class WorkerError(RuntimeError):
    """A worker that failed, with its name and the end of what it wrote to stderr."""


class Worker:
    """A process that holds one side; also a context manager that ends it.

    ```python
    with Worker("counter", sys.executable, "collections:Counter", a=2) as worker:
        worker.call("most_common", n=1)  # [["a", 2]]
    ```

    `python` is the interpreter of the side's environment, `target` the class, `options` its keyword arguments. Raises
    WorkerError when the class cannot be made. `software` is then what is installed there.
    """

    def __init__(self, name: str, python: str | Path, target: str, **options: Any):
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.turns", target, json.dumps(options)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.software: dict[str, Any] = self._answer(TIMEOUT_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def call(self, method: str, *, timeout: float = TIMEOUT_SECONDS, **arguments: Any) -> Any:
        """Returns what the object's method returns. Raises WorkerError when it fails, dies or takes over `timeout` seconds."""
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._ended()) from None
        return self._answer(timeout)

    def close(self) -> None:
        """Ends the process: it leaves by itself when its stdin closes, and is made to when it does not."""
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(self, timeout: float) -> Any:
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready:
            self._process.kill()
            raise WorkerError(f"{self.name}: no answer after {timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._ended())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer["value"]

    def _ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f"{self.name}: its process ended with code {code}\n{said[-3000:]}"


class Player(NamedTuple):
    """Who takes a turn: `play(turn)` computes and returns numbers; `pids` are the processes that work for it."""

    play: Callable[[int], Mapping[str, Any]]
    pids: Sequence[int] = ()


def take_turns(
    players: Mapping[str, Player], turns: int, *, settle: float = SETTLE_SECONDS
) -> dict[str, list[dict[str, Any]]]:
    """Lets the players compute in turns, A B A B ..., one at a time, and returns each one's numbers, turn by turn.

    Before each turn come `settle` seconds in which whoever ran last comes to rest: PyTorch's threads spin for a moment,
    tf.data fills its buffers.

    To a turn's numbers it adds `others_cpu`: the share of the machine's cores that all other processes used meanwhile,
    which is near 0 when the machine was quiet (None where the system does not say).
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in players}
    for turn in range(turns):
        for name, player in players.items():
            time.sleep(settle)
            meter = CpuMeter(player.pids or [os.getpid()])
            numbers = dict(player.play(turn))
            results[name].append({**numbers, "others_cpu": meter.others()})
            progress(f"turn {turn + 1} of {turns}: {name}")
    return results


class CpuMeter:
    """How much of the machine all processes but some used since it was made; from Linux's /proc."""

    def __init__(self, pids: Sequence[int]):
        self._pids = pids
        self._start = self._read()

    def others(self) -> float | None:
        """Returns the share, 0 to 1, of all cores' time; None without /proc."""
        end = self._read()
        if self._start is None or end is None or end[0] <= self._start[0]:
            return None
        total, busy, own = (after - before for before, after in zip(self._start, end, strict=True))
        return round(max(busy - own, 0) / total, 3)

    def _read(self) -> tuple[int, int, int] | None:
        """Returns, in ticks: the cores' time, how much of it was busy, and how much of that is the processes' own."""
        try:
            # user nice system idle iowait irq softirq steal; guests' time is part of user's.
            ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            # After the command's name in brackets: state, 10 fields, and the ticks in user and in kernel mode.
            own = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in self._pids]
        except OSError:
            return None
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], sum(int(field) for pair in own for field in pair)


def timed(function: Callable, *arguments: Any) -> float:
    """Returns how many seconds a call takes."""
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def latencies(answer: Callable[[list[str]], Any], batches: Sequence[list[str]]) -> dict[str, Any]:
    """Returns the median `milliseconds` of a call, and `texts_per_second` over all calls, one after the other."""
    seconds = [timed(answer, batch) for batch in batches]
    texts = sum(map(len, batches))
    return {
        "seconds": sum(seconds),
        "texts": texts,
        "milliseconds": statistics.median(seconds) * 1e3,
        "texts_per_second": texts / sum(seconds),
    }


def progress(message: str) -> None:
    """Says on stderr how far a benchmark is."""
    print(message, file=sys.stderr, flush=True)


def installed() -> dict[str, Any]:
    """Returns this interpreter's version and the versions of all installed packages."""
    packages = {entry.metadata["Name"]: entry.version for entry in metadata.distributions() if entry.metadata["Name"]}
    return {"python": platform.python_version(), "packages": dict(sorted(packages.items(), key=lambda p: p[0].lower()))}


def _work(target: str, options: Mapping[str, Any]) -> None:
    """A worker's life: make the object, then answer calls until stdin closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(make: Callable[[], Any]) -> bool:
        try:
            message = {"value": make()}
        except Exception as error:  # whatever it is, the parent shows it
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = {"error": f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"}
        answers.write(json.dumps(message) + "\n")
        answers.flush()
        return "value" in message

    side = None

    def begin() -> dict[str, Any]:
        nonlocal side
        module, _, name = target.partition(":")
        side = getattr(importlib.import_module(module), name)(**options)
        return installed()

    if not answer(begin):
        return
    for line in sys.stdin:
        request = json.loads(line)
        answer(lambda request=request: getattr(side, request["method"])(**request["arguments"]))


if __name__ == "__main__":
    _work(sys.argv[1], json.loads(sys.argv[2]))
