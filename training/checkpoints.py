"""A run's checkpoints: whole or not there, written beside the training, checked when read.

checkpoints/step-N/   all that a later process needs to go on after step N
checkpoints/best-N/   the weights after step N, which validated best

Each is a directory of state.safetensors (arrays by name) and state.json (everything else, and a checksum of the arrays). It
is made under another name, synced to the disk, and renamed: a process that is killed at any moment, or a full disk, leaves the
older ones as they are. Arrays are whole whatever devices they were spread over, so that other devices can go on.

The training waits while its variables are copied to memory, and not for the disk.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import keras
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from garden.layers.mesh import whole
from garden.tasks import Task
from training.output import ASIDE, write_whole

logger = logging.getLogger(__name__)

ARRAYS, FACTS = "state.safetensors", "state.json"
VERSION = 1
_STEP, _BEST = "step", "best"


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written."""


class Checkpoints:
    """Saves and restores a run.

    Args:
        model: compiled. Its weights, their averages, its optimiser and the running sums of its metrics are the arrays.
        directory: of all checkpoints. Workers share it; one of them writes.
        config: the run's, kept in each for whoever finds it.
        keep: how many of the newest training states stay; older ones are removed once a newer one is whole.
        keep_every: training states of steps that this divides stay for good; None: of none.
        active: whether this process writes.
    """

    def __init__(
        self,
        model: Task,
        directory: Path,
        *,
        config: Mapping[str, Any] | None = None,
        keep: int = 2,
        keep_every: int | None = None,
        active: bool = True,
    ):
        self._model, self._directory, self._config = model, directory, dict(config or {})
        self._keep, self._keep_every, self._active = keep, keep_every, active
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future | None = None
        self._tell: Callable[[], dict[str, Any]] = dict
        if active and directory.is_dir():
            for path in directory.glob(f"{ASIDE}*"):  # of a process that was killed as it wrote
                shutil.rmtree(path)

    def of(self, tell: Callable[[], dict[str, Any]]) -> None:
        """Sets what gives the facts of a training state beside its arrays: plain values, by name."""
        self._tell = tell

    # Saving.

    def save_state(self, step: int) -> None:
        """Saves what a later process needs to go on after `step`; every worker calls it, since reading takes all of them."""
        self._save(_STEP, step, _copied(self._state()), {**self._tell(), "config": self._config})

    def save_best(self, step: int) -> None:
        """Saves the weights as the best so far."""
        self._save(_BEST, step, _copied(self._weights()), {})

    def wait(self) -> None:
        """Returns when all is on the disk, or has failed and was told of."""
        if self._writing is not None:
            self._writing.result()

    def _save(self, kind: str, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        if self._active:
            # One at a time: a disk that is slower than the training slows it, instead of filling the memory.
            self.wait()
            self._writing = self._writer.submit(self._write, kind, step, arrays, facts)

    def _write(self, kind: str, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        def write(aside: Path) -> None:
            aside.mkdir()
            save_file(arrays, aside / ARRAYS)
            known = {
                "version": VERSION,
                "step": step,
                "arrays": len(arrays),
                "crc32c": _checksum(aside / ARRAYS),
                **facts,
            }
            (aside / FACTS).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            for path in (aside / ARRAYS, aside / FACTS, aside):
                _sync(path)

        path = self._directory / _name(kind, step)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if path.exists():  # written again by a run that went on from an older one
                shutil.rmtree(path)
            write_whole(path, write)
            _sync(self._directory)
            self._prune()
        except (OSError, SafetensorError) as error:
            older = ", ".join(_name(kind, step) for step in self._steps(kind)) or "none"
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            logger.warning("%s: not saved (%s); older ones that stay: %s; the run goes on", path, reason, older)

    def _prune(self) -> None:
        """Removes what no later process can need."""
        states, best = self._steps(_STEP), self._steps(_BEST)
        kept = {step for step in states if self._keep_every and step % self._keep_every == 0} | set(
            states[-self._keep :]
        )
        # Whoever goes on after a step may need the best weights until then.
        needed = {max(earlier) for step in kept if (earlier := [other for other in best if other <= step])}
        needed |= set(best[-1:])
        for kind, steps, wanted in ((_STEP, states, kept), (_BEST, best, needed)):
            for step in steps:
                if step not in wanted:
                    try:
                        shutil.rmtree(self._directory / _name(kind, step))
                    except OSError as error:
                        logger.warning(
                            "%s: not removed (%s)", self._directory / _name(kind, step), error.strerror or error
                        )

    # Restoring.

    def restore_state(self) -> dict[str, Any]:
        """Restores the newest training state that is whole, and returns its facts: `step`, and what was told of it.

        Without any, the step is 0 and nothing happens. A damaged one is passed over with a warning. Raises ValueError when
        all are damaged, or are another network's.
        """
        problems: dict[Path, str] = {}
        for step in reversed(self._steps(_STEP)):
            path = self._directory / _name(_STEP, step)
            try:
                facts = self._restore(path, self._state())
            except DamagedCheckpointError as error:
                problems[path] = str(error)
                continue
            for damaged, problem in problems.items():
                logger.warning("%s; going on from %s, the one before", problem, path.name)
                if self._active:  # out of the way of what is written from here on, and kept for a look
                    aside = damaged.with_name(f"{damaged.name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    damaged.rename(aside)
            return facts
        if problems:
            raise ValueError(
                f"{next(iter(problems.values()))}; no other one is whole: remove {self._directory}, and the run starts anew"
            )
        return {"step": 0}

    def has_best(self, step: int) -> bool:
        """Returns whether the weights after `step` are kept as the best, or are being written."""
        self.wait()
        return step in self._steps(_BEST)

    def restore_best(self, step: int) -> None:
        """Restores the weights that were best after `step`; raises ValueError when they are not there or damaged."""
        path = self._directory / _name(_BEST, step)
        if not path.is_dir():
            raise ValueError(f"{path}: the best weights are missing; the last ones are kept with training.keep=last")
        self._restore(path, self._weights())

    def _restore(self, path: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
        facts, arrays = read_checkpoint(path)
        if set(arrays) != set(variables):
            odd = sorted(set(arrays) ^ set(variables))
            raise ValueError(
                f"{path}: another network's or optimiser's state ({len(arrays)} arrays, expected {len(variables)}; first "
                f"difference: {odd[0]}); give another directory: output=..."
            )
        for name, variable in variables.items():
            if tuple(variable.shape) != arrays[name].shape:
                raise ValueError(f"{path}: {name} has shape {arrays[name].shape}, expected {tuple(variable.shape)}")
        for name, variable in variables.items():
            variable.assign(arrays[name])
        return facts

    # What is saved.

    def _weights(self) -> dict[str, Any]:
        return _named("weights", whole(self._model.weights))

    def _state(self) -> dict[str, Any]:
        model = self._model
        metrics = [variable for metric in model.metrics for variable in metric.variables]
        return {
            **self._weights(),
            **_named("optimizer", whole(model.optimizer.variables)),
            **_named(
                "averages", whole(model.averages.variables, like=model.trainable_variables) if model.averages else ()
            ),
            **_named("metrics", metrics),
        }

    def _steps(self, kind: str) -> list[int]:
        """Returns the steps of the checkpoints that there are, rising."""
        if not self._directory.is_dir():
            return []
        names = (re.fullmatch(rf"{kind}-(\d+)", path.name) for path in self._directory.iterdir())
        return sorted(int(name[1]) for name in names if name)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a checkpoint's facts and arrays; raises DamagedCheckpointError when they are not what was written."""
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        found = _checksum(path / ARRAYS)
        if found != facts["crc32c"]:
            raise DamagedCheckpointError(f"{path}: damaged ({ARRAYS} has checksum {found}, expected {facts['crc32c']})")
        return facts, load_file(path / ARRAYS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, DamagedCheckpointError):
            raise
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise DamagedCheckpointError(f"{path}: damaged ({reason})") from None


def _named(kind: str, variables) -> dict[str, Any]:
    """Returns variables by their places, with names for whoever looks: Keras's, less what differs between processes."""
    return {
        f"{kind}/{index:05d}/{re.sub(r'_[0-9]+', '', getattr(each, 'path', each.name))}": (
            each.value if isinstance(each, keras.Variable) else each
        )
        for index, each in enumerate(variables)
    }


def _copied(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # A copy: what `numpy()` gives may be the variable's own memory, which the next step writes to.
    return {name: np.array(tf.convert_to_tensor(variable)) for name, variable in variables.items()}


def _name(kind: str, step: int) -> str:
    return f"{kind}-{step}"


def _checksum(path: Path) -> str:
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum.update(block)
    return checksum.hexdigest().decode()


def _sync(path: Path) -> None:
    """Returns when a file's or directory's content is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
