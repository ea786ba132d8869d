"""What sentence-transformers writes beside a network: how its states become a text's vector.

modules.json lists the steps: the network, pooling (1_Pooling/config.json), perhaps normalisation.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES_FILE, LENGTH_FILE = "modules.json", "sentence_bert_config.json"
POOLING_DIRECTORY, NORMALIZE_DIRECTORY = "1_Pooling", "2_Normalize"
_KIND = "sentence_transformers.models."
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
_OTHER_MODES = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True, kw_only=True)
class Modules:
    """How a text's vector is made of a network's states."""

    pooling: str  # "mean", "first" or "last"
    normalize: bool  # to length 1
    sequence_length: int | None = None  # tokens of a text at most


def embeds_texts(directory: str | os.PathLike) -> bool:
    """Returns whether a model's directory says how its network embeds texts."""
    return (Path(directory) / MODULES_FILE).is_file()


def read_modules(directory: str | os.PathLike) -> Modules | None:
    """Returns what a directory says, None where it has no modules.json; ValueError for steps that are not supported."""
    directory = Path(directory)
    if not embeds_texts(directory):
        return None
    where = directory / MODULES_FILE
    modules = _read(where)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{where}: expected a list of modules, got {type(modules).__name__}")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"{where}: only Transformer, Pooling and Normalize are supported, got {', '.join(kinds)}")
    pooling = directory / str(modules[1].get("path", POOLING_DIRECTORY)) / "config.json"
    values = _read(pooling)
    chosen = [name for name in (*_MODES, *_OTHER_MODES) if values.get(name)]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise ValueError(f"{pooling}: expected one of {', '.join(_MODES)}, got {', '.join(chosen) or 'none'}")
    length = _read(directory / LENGTH_FILE).get("max_seq_length") if (directory / LENGTH_FILE).is_file() else None
    return Modules(pooling=_MODES[chosen[0]], normalize="Normalize" in kinds, sequence_length=length)


def write_modules(directory: Path, modules: Modules, width: int) -> None:
    """Writes the files; `width` is D of the vectors."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if modules.normalize else [])]
    paths = ["", POOLING_DIRECTORY, NORMALIZE_DIRECTORY]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": _KIND + step}
        for index, (path, step) in enumerate(zip(paths, steps, strict=False))
    ]
    for path in paths[1 : len(steps)]:
        (directory / path).mkdir(exist_ok=True)
    modes = {name: _MODES.get(name) == modules.pooling for name in (*_MODES, *_OTHER_MODES)}
    _write(directory / POOLING_DIRECTORY / "config.json", {"word_embedding_dimension": width, **modes})
    if modules.sequence_length:
        _write(directory / LENGTH_FILE, {"max_seq_length": modules.sequence_length, "do_lower_case": False})
    _write(directory / MODULES_FILE, listed)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; {MODULES_FILE} names it") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
