"""Names of classes: given by a user, read from a config.json, found for a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def checked_labels(labels: Sequence[str] | None) -> list[str]:
    """Returns the names that a user gives; ValueError unless they are at least two different ones."""
    if isinstance(labels, str) or not labels:
        raise ValueError(f"labels: expected a list of names, got {labels!r}")
    labels = [str(label) for label in labels]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels: expected at least two different names, got {quoted(labels)}")
    return labels


def saved_labels(values: Mapping[str, Any], classes: int) -> list[str]:
    """Returns the names that a config.json's `id2label` has for a head's classes."""
    names = values.get("id2label") or {}
    return [str(names.get(str(index), f"LABEL_{index}")) for index in range(classes)]


def settled_labels(wanted: Sequence[str] | None, saved: Sequence[str], where: Path) -> list[str]:
    """Returns the names for a trained head: the checkpoint's, which may be renamed where they are only numbers.

    Raises ValueError where the user wants others.
    """
    wanted = list(wanted or saved)
    anonymous = all(re.fullmatch(r"LABEL_\d+", name) for name in saved)
    if len(wanted) != len(saved) or (wanted != list(saved) and not anonymous):
        raise ValueError(
            f"labels: {where} has {len(saved)} classes ({quoted(saved)}), asked for {len(wanted)} ({quoted(wanted)}); "
            "leave labels out to keep the checkpoint's, or start a head of your own with new_head=True"
        )
    return wanted


def label_fields(labels: Sequence[str]) -> dict[str, Any]:
    """Returns what config.json says of classes."""
    return {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def class_of(label: Any, labels: Sequence[str], where: str) -> int:
    """Returns a class's id by its name or id. The id may be text, as in CSV files, unless names are numbers too."""
    name = label.decode(errors="replace") if isinstance(label, bytes) else label
    if isinstance(name, str) and name in labels:
        return labels.index(name)
    if isinstance(name, str) and name.isdecimal() and not any(known.isdecimal() for known in labels):
        name = int(name)
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool) and 0 <= name < len(labels):
        return int(name)
    raise ValueError(f"{where}: {label!r} is not one of the {len(labels)} classes ({quoted(labels)})")


def quoted(names: Sequence[str]) -> str:
    """Returns names as an error shows them: the first six."""
    shown = ", ".join(f'"{name}"' for name in names[:6])
    return f"{shown}, and {len(names) - 6} more" if len(names) > 6 else shown
