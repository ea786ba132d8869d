"""What the families' configs share: frozen dataclasses, whose fields are called as in config.json, read and checked."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from garden.checkpoints.weights import Weights


class Config:
    """Base of the families' frozen dataclasses, whose fields are called as in config.json."""

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Fields of config.json that the family supports with this one value only."""

    sizes: ClassVar[Sequence[str]] = ()
    """Fields that have to be positive numbers."""

    heads: ClassVar[tuple[str, str]] = ("num_attention_heads", "hidden_size")
    """The field that must divide the other one; empty where none does."""

    decoder_begins_with: ClassVar[str | None] = "pad_token_id"
    """The field that names the token which decoders of new networks begin with; None where targets say it."""

    def __post_init__(self):
        for name in self.sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.heads:
            heads, width = self.heads
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{heads}: {getattr(self, heads)} heads do not divide {width} {getattr(self, width)}")

    @property
    def longest(self) -> int | None:
        """Most tokens of a text; None where positions have no end."""
        return getattr(self, "max_position_embeddings", None)

    @property
    def head_dropout(self) -> float:
        """The rate of dropout in classification heads."""
        return 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path = "config.json") -> Config:
        """Reads a config.json's object. Fields that do not shape the network are left aside.

        Raises ValueError for a missing field, a wrong type, and a `fixed` field with another value.
        """
        for name, only in {"pruned_heads": {}, "quantization_config": None, **cls.fixed}.items():
            if values.get(name) not in (None, only):
                raise ValueError(f"{where}: {name}: only {only!r} is supported, got {values[name]!r}")
        known = {f.name: f for f in dataclasses.fields(cls)}
        declared = get_type_hints(cls)
        # A null is a value where a field may be None (no sliding window), and else as good as nothing.
        chosen = {
            name: values[name]
            for name in known
            if values.get(name) is not None or (name in values and types.NoneType in get_args(declared[name]))
        }
        required = [f.name for f in known.values() if f.default is dataclasses.MISSING and f.name not in chosen]
        if required:
            raise ValueError(f"{where}: {', '.join(required)} must be given")
        for name, value in chosen.items():
            chosen[name] = _typed(value, declared[name], f"{where}: {name}")
        try:
            return cls(**chosen)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def settled(self, weights: Weights) -> Config:
        """Returns the config with what only a checkpoint's tensors tell, such as whether a head has a table of its own."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, called as in config.json."""
        return dataclasses.asdict(self)


def _typed(value: Any, declared: Any, where: str) -> Any:
    """Returns `value` as the declared field type, perhaps a union such as `int | None`."""
    several = get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    if value is None and types.NoneType in several:
        return None
    wanted = [get_origin(kind) or kind for kind in several if kind is not types.NoneType]
    if type(value) in wanted:
        return value
    if float in wanted and type(value) is int:
        return float(value)
    raise ValueError(f"{where}: expected {' or '.join(kind.__name__ for kind in wanted)}, got {value!r}")
