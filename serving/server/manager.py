"""Which versions of which models are served: watches base directories, loads the newest version, retires the old one.

The policy is TF Serving's default, the latest version only. A new version is loaded beside the old one, takes over
in one step, and the old one is dropped when the last request that uses it has ended.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.server.errors import ModelLoadError, StatusError, invalid_argument, not_found
from serving.server.models import SAVED_MODEL_FILE, Servable, is_complete

_log = logging.getLogger(__name__)

_MAX_INT64 = 2**63 - 1

# A load: name, version, directory -> a servable that is ready for requests.
Loader = Callable[[str, int, Path], Servable]


@dataclass(frozen=True)
class VersionStatus:
    """Where one version is in its life: `state` is LOADING, AVAILABLE, UNLOADING or END; `error` is why it failed."""

    version: int
    state: str
    error: StatusError | None = None


@dataclass
class _Version:
    """A version that was seen. `fingerprint` is that of its files when loading them failed."""

    version: int
    state: str = "LOADING"
    error: StatusError | None = None
    servable: Servable | None = None
    users: int = 0
    fingerprint: tuple = ()


class Model:
    """One name with the versions under its base directory."""

    def __init__(self, name: str, base_path: Path, load: Loader):
        self.name = name
        self.base_path = base_path
        self._load = load
        self._lock = threading.Lock()
        self._versions: dict[int, _Version] = {}
        self._current: _Version | None = None
        self._arriving: tuple | None = None
        self._unloaded = False

    @contextlib.contextmanager
    def use(self, version: int | None) -> Iterator[Servable]:
        """Holds the current version, or the one asked for, in memory for the length of a `with` block."""
        with self._lock:
            entry = self._current if version is None else self._versions.get(version)
            if entry is None or entry.state != "AVAILABLE":
                raise _not_served(self.name, version)
            entry.users += 1
            servable = entry.servable
        try:
            yield servable
        finally:
            with self._lock:
                entry.users -= 1
                self._drop_if_unused(entry)

    def is_idle(self) -> bool:
        """Whether no request holds any version."""
        with self._lock:
            return not any(entry.users for entry in self._versions.values())

    def status(self, version: int | None) -> list[VersionStatus]:
        """The states of all versions, newest first, or of one. Raises NOT_FOUND for a version never seen."""
        with self._lock:
            entries = [self._versions[v] for v in sorted(self._versions, reverse=True) if version in (None, v)]
            found = [VersionStatus(entry.version, entry.state, entry.error) for entry in entries]
        if not found and version is None:
            raise not_found(f"Could not find any versions of model {self.name}")
        if not found:
            raise not_found(f"Could not find version {version} of model {self.name}")
        return found

    def refresh(self, *, settle: bool = True) -> None:
        """Loads the newest complete version if it is not the one being served, and makes it the current one.

        With `settle`, a version is loaded only when its files are those of the round before: one whose graph is there
        may still be copying its vocabulary, and would load truncated without an error. Raises ModelLoadError when
        loading fails; the current version then stays, and the failed one is tried again when its files have changed.
        """
        versions = find_versions(self.base_path)
        if not versions:
            return
        newest = max(versions)
        path = versions[newest]
        with self._lock:
            entry = self._versions.get(newest)
        if entry is not None and entry is self._current:
            return
        fingerprint = _fingerprint(path)
        if entry is not None and entry.error is not None and entry.fingerprint == fingerprint:
            return
        if settle and self._arriving != (newest, fingerprint):
            self._arriving = (newest, fingerprint)
            return
        entry = _Version(newest, fingerprint=fingerprint)
        with self._lock:
            self._versions[newest] = entry
        _log.info("loading %s version %d from %s", self.name, newest, path)
        try:
            servable = self._load(self.name, newest, path)
        except Exception as error:  # whatever it is, it is recorded, or every round would try again
            expected = isinstance(error, ModelLoadError)
            code = grpc.StatusCode.INVALID_ARGUMENT if expected else grpc.StatusCode.INTERNAL
            with self._lock:
                entry.state, entry.error = "END", StatusError(code, str(error))
            raise ModelLoadError(f"{self.name} version {newest}: {error}") from error
        with self._lock:
            entry.state, entry.servable = "AVAILABLE", servable
            retired, self._current = self._current, entry
            if retired is not None:
                retired.state = "UNLOADING"
                self._drop_if_unused(retired)
        _log.info("serving %s version %d", self.name, newest)

    def take_unloaded(self) -> bool:
        """Whether a version was dropped since the last call."""
        with self._lock:
            unloaded, self._unloaded = self._unloaded, False
        return unloaded

    def _drop_if_unused(self, entry: _Version) -> None:
        if entry.state == "UNLOADING" and entry.users == 0:
            entry.state, entry.servable = "END", None
            self._unloaded = True
            _log.info("unloaded %s version %d", self.name, entry.version)


class ModelManager:
    """All models of a server, kept up to date by a polling thread between `start` and `stop`."""

    def __init__(self, models: Mapping[str, str | os.PathLike], load: Loader, *, poll_seconds: float = 1.0):
        """Checks names and directories. Raises ValueError or FileNotFoundError, naming the value and the remedy."""
        if not models:
            raise ValueError("models: expected at least one name with its base directory, got none")
        if not poll_seconds > 0:
            raise ValueError(f"poll_seconds: expected a positive number of seconds, got {poll_seconds}")
        self._models = {name: Model(_check_name(name), _check_base(Path(base)), load) for name, base in models.items()}
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="garden-model-poll", daemon=True)

    def start(self) -> None:
        """Loads the newest version of every model. Raises ModelLoadError when one of them cannot be served."""
        for model in self._models.values():
            model.refresh(settle=False)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Stops watching, and returns whether a load under way ended in time; versions in memory stay usable."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def is_idle(self) -> bool:
        """Whether no request holds any version."""
        return all(model.is_idle() for model in self._models.values())

    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> contextlib.AbstractContextManager[Servable]:
        """Holds a version in memory for a `with` block. Raises NOT_FOUND, or INVALID_ARGUMENT for a label."""
        _check_label(label)
        model = self._models.get(name)
        if model is None:
            raise _not_served(name, version)
        return model.use(version)

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """The states of a model's versions, newest first, or of one. Raises NOT_FOUND."""
        _check_label(label)
        if name not in self._models:
            missing = f"version {version}" if version is not None else "any versions"
            raise not_found(f"Could not find {missing} of model {name}")
        return self._models[name].status(version)

    def describe(self) -> str:
        """What is being served, for the log: `sentiment version 3, topics version 1`."""
        served = []
        for name, model in self._models.items():
            served += [f"{name} version {s.version}" for s in model.status(None) if s.state == "AVAILABLE"]
        return ", ".join(served)

    def _poll(self) -> None:
        said: dict[str, str] = {}
        while not self._stopping.wait(self._poll_seconds):
            for model in self._models.values():
                try:
                    model.refresh()
                    said.pop(model.name, None)
                except (ModelLoadError, OSError) as error:
                    if said.get(model.name) != str(error):  # a directory that is gone is gone in every round
                        said[model.name] = str(error)
                        _log.error("keeping the version in service: %s", error)
                except Exception:  # the watch must outlive whatever a strange directory does to one round
                    _log.exception("looking for new versions of %s failed", model.name)
                if model.take_unloaded():
                    # A loaded SavedModel refers to itself: its weights would stay until Python happens to look.
                    gc.collect()


def find_versions(base_path: Path) -> dict[int, Path]:
    """The complete version directories under `base_path`, by number; unfinished copies and other names are left out."""
    found = {}
    for path in sorted(base_path.iterdir()):
        if re.fullmatch(r"[0-9]+", path.name) and int(path.name) <= _MAX_INT64 and is_complete(path):
            found[int(path.name)] = path
    return found


def _check_name(name: str) -> str:
    if not name or "/" in name or ":" in name:
        raise ValueError(f"model name {name!r}: expected a word without '/' and ':', which end it in a URL")
    return name


def _check_base(base_path: Path) -> Path:
    if not base_path.is_dir():
        raise FileNotFoundError(f"{base_path}: no such directory: give the one that holds the version directories")
    if is_complete(base_path):
        raise ValueError(f"{base_path}: is a version directory itself: give its parent, {base_path.resolve().parent}")
    if not find_versions(base_path):
        raise FileNotFoundError(
            f"{base_path}: no version directory in it: expected {base_path / '1' / SAVED_MODEL_FILE}, as an export writes"
        )
    return base_path


def _not_served(name: str, version: int | None) -> StatusError:
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return not_found(f"Servable not found for request: {wanted}")


def _check_label(label: str | None) -> None:
    # Labels are given out by TF Serving's model config file, which this server does not read: there are none.
    if label is not None:
        raise invalid_argument(f"Unrecognized servable version label: {label}")


def _fingerprint(path: Path) -> tuple:
    entries = []
    for directory, _, files in os.walk(path):
        for file in sorted(files):
            with contextlib.suppress(FileNotFoundError):  # a copy under way renames its files
                stat = os.stat(os.path.join(directory, file))
                entries.append((directory, file, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(entries))
