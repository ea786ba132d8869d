"""Configs as frozen dataclasses: what YAML files and `key=value` overrides may say, checked field by field.

A config class has fields made with `key`, which says what each means and which values it takes; sections are dataclasses or
lists of them. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Kind = TypeVar("Kind")


def key(meaning: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Returns a dataclass field with its meaning and the limits of its value: `choices`, `least`, `above`, `most`, `below`."""
    made = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return dataclasses.field(**made, metadata={"meaning": meaning, **limits})


def read(kind: type[Kind], path: str | Path, overrides: Sequence[str] = (), *, example: str) -> Kind:
    """Reads a YAML file as a config of a kind, with `key=value` overrides such as `training.epochs=1` on top.

    `example` is a file of the kind, to name where there is none.

    Raises FileNotFoundError, or ValueError in one line that names the key, the value and what is possible instead.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a config in YAML, such as {example}")
    try:
        values = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        raise ValueError(f"{path}: not a YAML file of keys and values: {_one_line(error)}") from None
    if not isinstance(values, DictConfig):
        raise ValueError(f"{path}: expected keys and values, such as seed: 1, got a list")
    return make(kind, values, overrides, where=str(path))


def make(kind: type[Kind], values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> Kind:
    """Makes a config of a kind of nested keys and values and `key=value` overrides; errors as in `read`."""
    try:
        return _checked_config(kind, values, overrides)
    except (ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{where}: {_one_line(error)}") from None


def _checked_config(kind: type[Kind], values: Mapping[str, Any], overrides: Sequence[str]) -> Kind:
    for override in overrides:
        if not override.partition("=")[0].strip() or "=" not in override:
            raise ValueError(f'override "{override}": expected key=value, such as training.epochs=1')
    given = OmegaConf.merge(values, OmegaConf.from_dotlist(list(overrides)))
    plain = OmegaConf.to_container(given, resolve=True)
    _check_keys(plain, kind)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), plain))
    except OmegaConfBaseException as error:
        name = error.full_key or ""
        declared, metadata = _field_of(kind, name)
        meaning = metadata.get("meaning", "")
        if not _is_given(plain, name):
            raise ValueError(f"{name}: missing; {meaning}") from None
        value = OmegaConf.select(OmegaConf.create(plain), name)
        raise ValueError(f"{name}: expected {_kind(declared)} ({meaning}), got {shown(value)}") from None


def key_table(kind: type) -> list[tuple[str, str]]:
    """Returns all keys with their defaults, and their meanings, for a help page."""
    table = []
    for name, field in _fields(kind):
        default = "REQUIRED" if field.default is dataclasses.MISSING else shown(field.default)
        default = "{}" if field.default_factory is dict else default
        choices = ", ".join(field.metadata.get("choices", ()))
        table.append((f"{name}: {default}", field.metadata["meaning"] + (f": {choices}" if choices else "")))
    return table


def _fields(section: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    declared = get_type_hints(section)
    for field in dataclasses.fields(section):
        inner = _several(declared[field.name])
        if dataclasses.is_dataclass(declared[field.name]):
            yield from _fields(declared[field.name], f"{prefix}{field.name}.")
        elif inner:
            yield from _fields(inner, f"{prefix}{field.name}[].")
        else:
            yield prefix + field.name, field


def check(config: Any) -> None:
    """Raises ValueError for a value that is not among the choices or outside the limits of its field; for `__post_init__`."""
    for name, value, metadata in _values(config):
        _check(name, value, metadata)


def _values(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{prefix}{field.name}.")
        elif _several(get_type_hints(type(section))[field.name]):
            for index, each in enumerate(value):
                yield from _values(each, f"{prefix}{field.name}[{index}].")
        else:
            yield prefix + field.name, value, field.metadata


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that is not among the choices or outside the limits of its field."""
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise ValueError(f'{name}: expected one of {", ".join(choices)}, got "{value}"')
    for number in value.values() if isinstance(value, dict) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{name}: expected a finite number, got {number}")
        if isinstance(number, (int, float)) and any(_is_outside(number, word, metadata) for word in _LIMITS):
            limits = " and ".join(f"{_LIMITS[word]} {metadata[word]}" for word in _LIMITS if word in metadata)
            raise ValueError(f"{name}: expected a number {limits}, got {number}")


_LIMITS = {"least": "of at least", "above": "above", "most": "of at most", "below": "below"}


def _is_outside(number: float, word: str, metadata: Mapping[str, Any]) -> bool:
    if word not in metadata:
        return False
    limit = metadata[word]
    return {"least": number < limit, "above": number <= limit, "most": number > limit, "below": number >= limit}[word]


def _check_keys(values: Any, section: type, prefix: str = "") -> None:
    """Raises ValueError for a key that does not exist, and for a section that is not one."""
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.')}: expected keys and values, got {shown(values)}")
    declared = get_type_hints(section)
    for name, value in values.items():
        if name not in declared:
            known = ", ".join(declared)
            raise ValueError(f"{prefix}{name}: no such key (its value: {shown(value)}); known: {known}")
        if dataclasses.is_dataclass(declared[name]):
            _check_keys(value, declared[name], f"{prefix}{name}.")
            continue
        inner = _several(declared[name])
        if inner:
            if not isinstance(value, list):
                raise ValueError(f"{prefix}{name}: expected a list of keys and values, got {shown(value)}")
            for index, each in enumerate(value):
                _check_keys(each, inner, f"{prefix}{name}[{index}].")
            continue
        # OmegaConf has no message of its own for one kind of container in the place of another.
        kind = _kind(declared[name])
        if isinstance(value, (dict, list)) and kind != {dict: "names and values", list: "a list of names"}[type(value)]:
            raise ValueError(f"{prefix}{name}: expected {kind}, got {shown(value)}")


def _field_of(kind: type, name: str) -> tuple[Any, Mapping[str, Any]]:
    """Returns the declared type and the metadata of a dotted key, or of the field it lies in."""
    section, declared, metadata = kind, None, {}
    for part in name.split("."):
        part = part.partition("[")[0]
        declared = get_type_hints(section).get(part, declared)
        declared = _several(declared) or declared
        field = next((field for field in dataclasses.fields(section) if field.name == part), None)
        metadata = field.metadata if field else metadata
        if not dataclasses.is_dataclass(declared):
            break
        section = declared
    return declared, metadata


def _kind(declared: Any) -> str:
    """Returns what a field's values are, in words."""
    optional = isinstance(declared, types.UnionType)
    kind = next(kind for kind in get_args(declared) if kind is not type(None)) if optional else declared
    return _KINDS.get(get_origin(kind) or kind, "names and values")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", list: "a list of names"}


def _several(declared: Any) -> type | None:
    """Returns the dataclass that a field holds a list of, if it does."""
    inner = get_args(declared)[:1] if get_origin(declared) is list else ()
    return inner[0] if inner and dataclasses.is_dataclass(inner[0]) else None


def _is_given(values: Any, name: str) -> bool:
    for part in name.replace("[", ".").replace("]", "").split("."):
        if isinstance(values, list):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return False
    return values != "???"


def shown(value: Any) -> str:
    """Returns a value as YAML writes it, shortened."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    # OmegaConf adds indented lines on its own types.
    return " ".join(str(error).strip().split("\n    ")[0].split())
