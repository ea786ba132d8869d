"""How the workers of a cluster meet before a run, and how each learns that another is lost, which TensorFlow may not tell.

Worker 0 listens on its own address until all others have come; each says what it is about to run. Where all say the same, the
run begins, and TensorFlow takes the port over. The connections stay, and both ends send a sign of life every few seconds.
Messages are JSON, one a line. No TensorFlow here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import os
import platform
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from training.cluster import Cluster, host_and_port, listening, resolve
from training.preemption import Preempted

logger = logging.getLogger(__name__)

LOST = 69
"""Exit code of a worker that ends because another one is lost: EX_UNAVAILABLE. Started again, all of them go on."""
START_SECONDS = 300.0
"""How long workers wait for each other at start, unless the environment variable GARDEN_START_SECONDS says otherwise."""
BEAT_SECONDS, SILENCE_SECONDS = 5.0, 30.0
GRACE_SECONDS = 10.0
"""How long a worker that waits for a lost one may take to fail by itself."""
_LONGEST = 2**22
_GUARD = """
import os, select, signal, sys, time
parent, seconds, *connections = map(int, sys.argv[1:])
waits = select.poll()
waits.register(0, select.POLLHUP)
for connection in connections:
    waits.register(connection, select.POLLRDHUP)
while (events := waits.poll()) and all(which != 0 for which, _ in events):
    if not select.select([0], [], [], seconds)[0] and os.getppid() == parent:
        sys.stderr.write("garden: another worker was lost while the workers connected; this one ends too\\n")
        os.kill(parent, signal.SIGKILL)
    break
"""
_MOST_DIFFERENCES = 6

Result = TypeVar("Result")


class WorkerLostError(RuntimeError):
    """Another worker did not come, ended, or does not answer any more."""

    exit_code = LOST


def as_worker(function: Callable[..., Result]) -> Callable[..., Result]:
    """Returns a function of a run config that, under `multi_worker`, first meets the other workers (see `together`)."""

    @functools.wraps(function)
    def called(config: Any, *args: Any, **options: Any) -> Result:
        if config.strategy != "multi_worker":
            return function(config, *args, **options)
        cluster = resolve()
        os.environ["TF_CONFIG"] = cluster.to_tf_config()
        with together(cluster, facts_of(config)):
            return function(config, *args, **options)

    return called


def facts_of(config: Any) -> dict[str, str]:
    """Returns what has to be the same on every worker: a config's keys, and the versions of what computes."""
    versions = {name: importlib.metadata.version(name) for name in ("tf-garden", "tensorflow", "keras")}
    return {**versions, "python": platform.python_version(), **_flat(dataclasses.asdict(config))}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str)
    return flat


def differences(facts: Mapping[int, Mapping[str, str]]) -> str:
    """Returns in one line what differs between workers' facts; empty where nothing does."""
    told = []
    for name in dict.fromkeys(name for each in facts.values() for name in each):
        by_value: dict[str, list[int]] = {}
        for index, each in sorted(facts.items()):
            by_value.setdefault(each.get(name, "none"), []).append(index)
        if len(by_value) > 1:
            told.append(f"{name}: " + ", ".join(f"{value} ({_workers(which)})" for value, which in by_value.items()))
    more = len(told) - _MOST_DIFFERENCES
    return "; ".join(told[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _workers(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:4])) + (", ..." if len(indices) > 4 else "")
    return f"worker{'s' if len(indices) > 1 else ''} {shown}"


@contextlib.contextmanager
def together(cluster: Cluster, facts: Mapping[str, str], *, seconds: float | None = None) -> Iterator[None]:
    """Meets the other workers; within the block, this one ends with them.

    Where another worker is lost in the block, the block's own failure becomes a WorkerLostError; a block that waits for the
    lost one without end is ended with its process, and exit code `LOST`. Other failures are told to the other workers.

    Args:
        facts: what has to be the same on every worker, by name.
        seconds: how long to wait for workers that have not come; default: `START_SECONDS`.

    Raises, on every worker, ValueError with the differences where facts differ, and WorkerLostError where one does not come;
    ValueError where another process uses this worker's port.
    """
    facts = {**facts, "cluster": " ".join(cluster.addresses)}
    watch = _Watch(cluster, _meet(cluster, facts, _start_seconds() if seconds is None else seconds))
    _watches.append(watch)
    try:
        yield
    except Preempted:
        watch.leave()
        raise
    except BaseException as error:
        lost = watch.lost_by(error)
        if lost:
            raise WorkerLostError(lost) from error
        watch.leave(" ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        _watches.remove(watch)
    watch.leave()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Ends the process where another worker is lost in the block, even if the block keeps Python from running.

    TensorFlow does while workers connect: no thread of this process could end it then, so that a small process of its own
    watches the connections.
    """
    lines = [line.socket.fileno() for watch in _watches for line in watch.lines.values()]
    if not lines:
        yield
        return
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), str(int(GRACE_SECONDS)), *map(str, lines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=lines) as guard:
        yield
        guard.stdin.close()


def _start_seconds() -> float:
    given = os.environ.get("GARDEN_START_SECONDS", START_SECONDS)
    try:
        return float(given)
    except ValueError:
        raise ValueError(f'GARDEN_START_SECONDS: expected seconds, got "{given}"') from None


class _Line:
    """A connection to another worker, of messages."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(BEAT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self._rest, self.heard = connection, b"", time.monotonic()

    def send(self, **message: Any) -> None:
        """Sends a message, or nothing where nobody listens any more: that shows when reading."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Returns the messages that have come, waiting a few seconds for a part of one.

        Raises EOFError at the end of the connection, and where the other end does not speak this language.
        """
        try:
            data = self.socket.recv(2**16)
        except TimeoutError:
            return []
        except OSError as error:
            raise EOFError(os.strerror(error.errno or 0)) from None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            raise EOFError("it is no worker of Garden") from None
        if not data or len(self._rest) > _LONGEST or not all(isinstance(message, dict) for message in messages):
            raise EOFError("its connection closed")
        return messages

    def close(self) -> None:
        self.socket.close()


def _meet(cluster: Cluster, facts: Mapping[str, str], seconds: float) -> dict[int, _Line]:
    """Returns connections to the other workers by their index: worker 0's to all, the others' to worker 0."""
    if cluster.index:
        cluster.check_port()
        return {0: _come(cluster, facts, seconds)}
    return _gather(cluster, facts, seconds)


def _gather(cluster: Cluster, facts: Mapping[str, str], seconds: float) -> dict[int, _Line]:
    """Waits, as worker 0, for all others."""
    said: dict[int, Mapping[str, str]] = {0: facts}
    lines: dict[int, _Line] = {}
    everyone = range(1, len(cluster.addresses))
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as failing, selectors.DefaultSelector() as selector:
        failing.callback(lambda: [line.close() for line in lines.values()])
        with listening(cluster.address) as listener:
            selector.register(listener, selectors.EVENT_READ)
            beat = 0.0
            while missing := [index for index in everyone if index not in lines]:
                now = time.monotonic()
                if now > end:
                    names = ", ".join(cluster.name(index) for index in missing[:8])
                    text = f"{names} did not come within {seconds:g} s (GARDEN_START_SECONDS)"
                    _stop(lines, text, retry=True)
                    raise WorkerLostError(text)
                if now > beat:
                    beat = now + BEAT_SECONDS
                    for line in lines.values():
                        line.send(beat=True)
                for key, _ in selector.select(timeout=min(1.0, end - now + 0.01)):
                    if key.fileobj is listener:
                        line = _Line(listener.accept()[0])
                        selector.register(line.socket, selectors.EVENT_READ, line)
                        continue
                    line = key.data
                    try:
                        for message in line.receive():
                            if "index" in message:
                                _enter(cluster, line, message, lines, said)
                    except EOFError:  # it may come again
                        selector.unregister(line.socket)
                        line.close()
                        for index in [index for index, known in lines.items() if known is line]:
                            del lines[index], said[index]
        differ = differences(said)
        if differ:
            text = f"the workers differ: {differ}"
            _stop(lines, text)
            raise ValueError(text)
        for line in lines.values():
            line.send(start=True)
        failing.pop_all()
    return lines


def _enter(cluster: Cluster, line: _Line, message: dict[str, Any], lines: dict[int, _Line], said: dict) -> None:
    index = message["index"]
    text = None
    if not isinstance(index, int) or not 0 < index < len(cluster.addresses):
        text = f"one process is worker {index}, and {cluster.name(0)} knows of {len(cluster.addresses)} workers"
    elif index in lines and time.monotonic() - lines[index].heard < 3 * BEAT_SECONDS:
        text = f"two processes are worker {index}; give each its own index"
    if text:
        _stop({**lines, -1: line}, text)
        raise ValueError(text)
    lines[index], said[index] = line, message.get("facts", {})


def _stop(lines: Mapping[int, _Line], text: str, *, retry: bool = False) -> None:
    for line in lines.values():
        line.send(stop=text, retry=retry)


def _come(cluster: Cluster, facts: Mapping[str, str], seconds: float) -> _Line:
    """Waits, as another worker than the first, for worker 0's word; it is worker 0 that waits for the others."""
    end = time.monotonic() + seconds
    why = "nobody answers"
    while time.monotonic() < end:
        try:
            connection = socket.create_connection(host_and_port(cluster.addresses[0]), timeout=BEAT_SECONDS)
        except OSError as error:
            why = error.strerror or str(error)
            time.sleep(0.3)
            continue
        line = _Line(connection)
        line.send(index=cluster.index, facts=dict(facts))
        try:
            while time.monotonic() < max(end, line.heard + SILENCE_SECONDS):
                for message in line.receive():
                    if "start" in message:
                        return line
                    if "stop" in message:
                        line.close()
                        raise (WorkerLostError if message.get("retry") else ValueError)(str(message["stop"]))
                line.send(beat=True)
            why = "it is silent"
        except EOFError as error:  # of a run that is just ending, perhaps
            why = str(error)
            time.sleep(0.3)
        line.close()
    raise WorkerLostError(f"{cluster.name(0)} did not come within {seconds:g} s (GARDEN_START_SECONDS): {why}")


_watches: list[_Watch] = []


class _Watch(threading.Thread):
    """Sends signs of life, and ends the process when another worker's stay away and nothing else ends it."""

    def __init__(self, cluster: Cluster, lines: dict[int, _Line]):
        super().__init__(name="workers", daemon=True)
        self.cluster, self.lines = cluster, lines
        self.lost = ""
        self._lost, self._left = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        if lines:
            self.start()

    def run(self) -> None:
        lines, beat = dict(self.lines), 0.0
        with selectors.DefaultSelector() as selector:
            for index, line in lines.items():
                line.heard = time.monotonic()
                selector.register(line.socket, selectors.EVENT_READ, index)
            while lines and not self.lost and not self._left.is_set():
                now = time.monotonic()
                if now > beat:
                    beat = now + BEAT_SECONDS
                    self._tell(lines, beat=True)
                for key, _ in selector.select(timeout=0.5):
                    if self._hear(key.data, lines[key.data]):
                        selector.unregister(lines.pop(key.data).socket)
                for index, line in lines.items():
                    if time.monotonic() - line.heard > SILENCE_SECONDS:
                        self._lose(f"{self.cluster.name(index)} is lost: it was silent for {SILENCE_SECONDS:g} s")
        if self.lost and not self._left.wait(GRACE_SECONDS):
            self._end()

    def _hear(self, index: int, line: _Line) -> bool:
        """Returns whether a worker has left, as at the end of a run."""
        try:
            for message in line.receive():
                if "bye" in message:
                    return True
                if "stop" in message:
                    text = str(message["stop"])
                    self._lose(text if message.get("retry") else f"{self.cluster.name(index)} ended: {text}")
        except EOFError as error:
            if not self._left.is_set():
                self._lose(f"{self.cluster.name(index)} is lost: {error}")
        return False

    def _lose(self, text: str) -> None:
        if not self.lost:
            self.lost = text
            if not self.cluster.index:
                self._tell(self.lines, stop=text, retry=True)
            self._lost.set()

    def _tell(self, lines: Mapping[int, _Line], **message: Any) -> None:
        with self._lock:
            for line in lines.values():
                line.send(**message)

    def _end(self) -> None:
        # The main thread is inside of TensorFlow, which waits for the lost worker and hears no signals.
        logger.error("garden: %s", self._message())
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(LOST)

    def _message(self) -> str:
        return f"{self.lost}; {self.cluster.name(self.cluster.index)} ends too; started again, all go on from the checkpoint"

    def lost_by(self, error: BaseException) -> str:
        """Returns what was lost, where a failure of the run comes from it; else nothing."""
        of_tensorflow = type(error).__module__.startswith("tensorflow")
        # TensorFlow may know before the silence of the other is heard here.
        if of_tensorflow and self.lines:
            self._lost.wait(2 * BEAT_SECONDS)
        self._left.set()
        return self._message() if self.lost and of_tensorflow else ""

    def leave(self, failure: str = "") -> None:
        """Ends watching: the others are told that this one has left, or what it failed of."""
        self._left.set()
        self._tell(self.lines, **({"stop": failure} if failure else {"bye": True}))
        if self.is_alive() and not self.lost:
            self.join(2 * BEAT_SECONDS)
        for line in self.lines.values():
            line.close()
