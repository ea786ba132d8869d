"""Starts the workers of a run on this machine, shows what they say, and stops all when one fails. No TensorFlow here."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from training.cluster import Cluster

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
GRACE_SECONDS = 45.0
"""How long workers may take to end by themselves when one of them has, before they are told to."""
SAVE_SECONDS = 120.0
"""How long they may take when told to: to finish a step and save."""
# Below the ports that Linux gives to connections, so that none takes a worker's before it starts.
_PORTS = range(20_000, 32_000)
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def launch(
    command: Sequence[str],
    workers: int,
    *,
    pin: bool = False,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Runs a command in several processes, each with its place in a cluster as TF_CONFIG, and returns an exit code.

    Lines of their logs (stderr) begin with the worker's number, such as `[0] `; so do results (stdout) of all but worker 0,
    whose results are the launch's. SIGTERM and SIGINT (Ctrl-C) go to all workers, which are waited for; a second one kills
    them. When one fails, the others are given time to end by themselves, and then stopped.

    Args:
        command: what each worker runs.
        workers: how many. Machines with GPUs give each the same number of them.
        pin: give each worker cores of its own.
        out, err: where results and logs go; default: this process's.

    Returns 0 when all succeed; otherwise the code of the first that failed, 128 + N where signal N killed it.

    Raises ValueError for more workers than there are GPUs, or cores to pin them to.
    """
    cores = _shares(sorted(os.sched_getaffinity(0)), workers, "cores, and --pin gives") if pin else None
    gpus = visible_gpus()
    visible = _shares(gpus, workers, "GPUs, and each worker needs") if gpus else None
    addresses = tuple(f"{HOST}:{port}" for port in free_ports(workers))
    processes: list[subprocess.Popen] = []
    with _forwarded(processes) as given:
        for index in range(workers):
            cluster = Cluster(addresses=addresses, index=index, kind="garden launch")
            environment = {**os.environ, "TF_CONFIG": cluster.to_tf_config(), "PYTHONUNBUFFERED": "1"}
            if visible:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[index])
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # the terminal's Ctrl-C reaches them once, through this process
                    preexec_fn=_prepared(cores[index] if cores else None),
                )
            )
        for number in given:  # while the last ones started
            for process in processes:
                process.send_signal(number)
        readers = list(_readers(processes, out or sys.stdout, err or sys.stderr))
        try:
            code = _waited(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            for reader in readers:
                reader.join(5)
    return code


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody uses now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise ValueError(f"{count} workers need a port each; only {len(ports)} are free")


def visible_gpus() -> list[str]:
    """Returns the GPUs that processes may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _shares(values: list, parts: int, what: str) -> list[list]:
    each = len(values) // parts
    if not each:
        raise ValueError(f"{parts} workers: this machine has {len(values)} {what} one each")
    return [values[part * each : (part + 1) * each] for part in range(parts)]


def _prepared(cores: list[int] | None) -> Callable[[], None]:
    """Returns what a worker's process does first: it stays on its cores, and ends with this one."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if library is not None:
            library.prctl(_DEATH_SIGNAL, signal.SIGTERM)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return prepare


def _readers(processes: Sequence[subprocess.Popen], out: TextIO, err: TextIO) -> Iterator[threading.Thread]:
    lock = threading.Lock()

    def copy(stream: Any, target: TextIO, prefix: str) -> None:
        for line in stream:
            text = prefix + line.decode("utf-8", errors="replace").rstrip("\r\n") + "\n"
            with lock, contextlib.suppress(OSError, ValueError):  # a closed pipe does not end a run
                target.write(text)
                target.flush()

    for index, process in enumerate(processes):
        first = (process.stdout, out, "") if index == 0 else (process.stdout, err, f"[{index}] ")
        for arguments in (first, (process.stderr, err, f"[{index}] ")):
            reader = threading.Thread(target=copy, args=arguments, daemon=True)
            reader.start()
            yield reader


def _waited(processes: Sequence[subprocess.Popen]) -> int:
    """Returns when all have ended: 0, or the first failure's code."""
    code, told, deadline = 0, False, float("inf")
    while running := [process for process in processes if process.poll() is None]:
        failed = next((index for index, process in enumerate(processes) if process.returncode), None)
        if failed is not None and not code:
            code, deadline = _code(processes[failed].returncode), time.monotonic() + GRACE_SECONDS
            logger.warning("worker %d ended with code %d; waiting for the others to end", failed, code)
        if time.monotonic() > deadline:
            deadline = time.monotonic() + (0 if told else GRACE_SECONDS)
            for process in running:
                process.send_signal(signal.SIGKILL if told else signal.SIGTERM)
            told = True
        time.sleep(0.05)
    return code or next((_code(process.returncode) for process in processes if process.returncode), 0)


def _code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


@contextlib.contextmanager
def _forwarded(processes: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Within it, SIGTERM and SIGINT go to the processes, as far as they are there; gives the list of those that came."""
    given: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield given
        return

    def forward(number: int, frame: FrameType | None) -> None:
        given.append(number)
        if len(given) == 1:
            logger.warning("%s: waiting for the workers to end", signal.Signals(number).name)
            killer.start()
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(number if len(given) == 1 else signal.SIGKILL)

    killer = threading.Timer(SAVE_SECONDS, lambda: [process.kill() for process in processes])
    killer.daemon = True
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield given
    finally:
        killer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
