"""A run's directory: what lies in it, when a run may write there, and how nothing is ever half written.

config.yaml      all keys and values of the run
metrics.jsonl    a line every few steps, and one a validation
checkpoints/     see `training.checkpoints`
tensorboard/     metrics for TensorBoard, when asked for
model/           the finished model (`save_pretrained`); a run that has one is finished
batch-N.json     what a run learnt from in step N, whose loss was no finite number
report.json      what the model gets right on the test examples
plots/           learning curves, and the report as pictures
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import yaml

from training.config import RunConfig, make_config

CONFIG, METRICS, CHECKPOINTS, TENSORBOARD = "config.yaml", "metrics.jsonl", "checkpoints", "tensorboard"
MODEL, REPORT, PLOTS = "model", "report.json", "plots"
OWNED = (CONFIG, METRICS, CHECKPOINTS, TENSORBOARD, MODEL, REPORT, PLOTS)
ASIDE = ".writing-"
"""How names begin of what is not whole yet."""


def check_output(config: RunConfig, *, overwrite: bool = False) -> None:
    """Raises ValueError, saying what to do, unless a run of this config may write to its output directory.

    It may where nothing is yet, and where an interrupted run of the same config lies: it continues that one. With
    `overwrite` it may also replace another run. A directory of other things is never touched.
    """
    directory = Path(config.output)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output: {directory} is a file; give a directory: output=...")
    if not directory.exists() or not any(directory.iterdir()):
        return
    remedy = "give another directory with output=..., or replace it with --overwrite"
    if not (directory / CONFIG).is_file():
        raise ValueError(f"output: {directory} is not empty and not a run's directory; give another one: output=...")
    if overwrite:
        return
    if (directory / MODEL).exists():
        raise ValueError(f"output: {directory} has a finished run; {remedy}")
    earlier = _read(directory)
    if earlier is None or not earlier.same_run(config):
        raise ValueError(f"output: {directory} has an unfinished run of another config ({CONFIG} in it); {remedy}")


def open_output(config: RunConfig, *, overwrite: bool = False) -> Path:
    """Returns the run's directory, made, and cleared where `overwrite` says so; errors as `check_output`."""
    check_output(config, overwrite=overwrite)
    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    leftovers = [path for path in directory.iterdir() if path.name.startswith(ASIDE)]
    # The config goes last: while it is there, what is left is known as a run's.
    owned = [*directory.glob("batch-*.json"), *(directory / name for name in reversed(OWNED))] if overwrite else []
    for path in [*leftovers, *owned]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_whole(directory / CONFIG, lambda path: path.write_text(config.to_yaml(), encoding="utf-8"))
    return directory


def _read(directory: Path) -> RunConfig | None:
    try:
        return make_config(yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError, yaml.YAMLError):
        return None  # of another version, or edited: not the same config in any case


def write_whole(target: Path, write: Callable[[Path], Any]) -> None:
    """Has `write` make a file or directory aside, then renames it to `target`, where no directory may be yet."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=ASIDE) as aside:
        path = Path(aside) / target.name
        write(path)
        os.replace(path, target)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; a last one that an interruption left incomplete is left out."""
    with contextlib.suppress(FileNotFoundError), open(directory / METRICS, encoding="utf-8") as lines:
        return list(_parsed(lines))
    return []


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


class Metrics:
    """Writes metrics.jsonl, and TensorBoard's events where asked; on other workers than the chief nothing."""

    def __init__(self, directory: Path, *, tensorboard: bool = False, active: bool = True):
        self.lines: list[dict[str, Any]] = []
        self._directory, self._tensorboard, self._active = directory, tensorboard, active
        self._file = self._events = None

    def begin(self, step: int) -> None:
        """Takes the lines up to a step that a run continues after, and opens the files."""
        self.lines = [line for line in read_metrics(self._directory) if line["step"] <= step]
        if self._active:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            path = self._directory / METRICS
            write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open until `close`)
            if self._tensorboard:
                self._events = tf.summary.create_file_writer(str(self._directory / TENSORBOARD))

    def write(self, line: dict[str, Any]) -> None:
        """Writes one line, which has a `step`. What is not a finite number is null: JSON has no word for it."""
        line = {name: value if math.isfinite(value) else None for name, value in line.items()}
        self.lines.append(line)
        if self._file:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        if self._events:
            with self._events.as_default():
                for name, value in line.items():
                    if name != "step" and value is not None:
                        tf.summary.scalar(name, value, step=line["step"])

    def close(self) -> None:
        """Closes the files."""
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
