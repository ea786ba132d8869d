"""What every network family shares: a config, a network, and a map to and from published weights.

A family is one file that defines a `Family`. `FAMILIES` says which file serves which `model_type` of a config.json.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import keras
import tensorflow as tf

from garden.checkpoints import huggingface
from garden.checkpoints.weight_map import Rule, dump, load
from garden.checkpoints.weights import Weights, modern_names, strip_prefix
from garden.layers.positions import segment_positions

logger = logging.getLogger(__name__)

FAMILIES = {"bert": "garden.models.bert"}
"""Module of each family, by the `model_type` that its config.json has. Modules are imported when they are needed."""


@dataclass(frozen=True)
class Family:
    """One architecture: what to build for a config.json, and what its checkpoints call things."""

    model_type: str
    config: type
    backbone: type[Backbone]
    prefix: str  # of the backbone's tensors in checkpoints that have a head: "bert."
    heads: Mapping[str, Callable[..., keras.layers.Layer]]  # task -> its head
    architectures: Mapping[str, str]  # task -> the reference implementation's class name
    foreign: tuple[str, ...] = ()  # regular expressions of tensors that checkpoints may hold without being needed
    tied: Callable[[Any], tuple[str, ...]] = field(default=lambda config: ())  # further ones, by config


def family_of(config: Mapping[str, Any], where: str | Path = "config.json") -> Family:
    """Returns the family that a config.json's `model_type` names; ValueError lists the known ones."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f'{where}: model_type "{model_type}" is not supported; supported: {known}')
    return importlib.import_module(FAMILIES[model_type]).FAMILY


class Config:
    """Base of the families' frozen dataclasses, whose fields are called as in config.json."""

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Fields of config.json that the family supports with this one value only."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path = "config.json") -> Config:
        """Reads a config.json's object. Fields that do not shape the network are left aside.

        Raises ValueError for a missing field, a wrong type, and a `fixed` field with another value.
        """
        for name, only in cls.fixed.items():
            if values.get(name, only) != only:
                raise ValueError(f"{where}: {name}: only {only!r} is supported, got {values[name]!r}")
        known = {f.name: f for f in dataclasses.fields(cls)}
        chosen = {name: values[name] for name in known if values.get(name) is not None}
        required = [f.name for f in known.values() if f.default is dataclasses.MISSING and f.name not in chosen]
        if required:
            raise ValueError(f"{where}: {', '.join(required)} must be given")
        types = get_type_hints(cls)
        for name, value in chosen.items():
            chosen[name] = _typed(value, types[name], f"{where}: {name}")
        try:
            return cls(**chosen)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, called as in config.json."""
        return dataclasses.asdict(self)


def _typed(value: Any, declared: Any, where: str) -> Any:
    """Returns `value` as the declared field type, perhaps one of `type | None`."""
    wanted = next((kind for kind in get_args(declared) if kind is not type(None)), declared)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{where}: expected {wanted.__name__}, got {value!r}")
    return value


class Backbone(keras.Model):
    """A network without a head. `Backbone.from_pretrained` opens any supported family.

    Called with a dictionary of tensors (garden's words: `token_ids` [B,T] and, optionally, `segment_ids`, `positions` and what the
    family adds), it returns a dictionary with at least `sequence`, the last hidden states [B,T,D].
    """

    family: ClassVar[Family]
    input_names: ClassVar[tuple[str, ...]] = ("token_ids", "segment_ids", "positions")

    def __init__(self, config: Config, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, dtype: str | None = None, strict: bool = True, **parts: Any
    ) -> Backbone:
        """Builds the network that a directory's config.json describes and loads its weights.

        Args:
            directory: Hugging Face layout: config.json beside model.safetensors, or an index and its shards.
            dtype: a Keras dtype policy, such as "mixed_bfloat16"; default: the global one.
            strict: whether missing and unknown tensors are errors.
            parts: the family's own options, such as BERT's `pooler`.

        Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
        """
        values = huggingface.read_config(directory)
        where = Path(directory) / huggingface.CONFIG_FILE
        family = family_of(values, where)
        if not issubclass(family.backbone, cls):
            raise ValueError(f'{where}: model_type "{family.model_type}" is not a {cls.__name__}')
        config = family.config.from_dict(values, where)
        with open_weights(directory, family) as weights:
            backbone = family.backbone(config, dtype=dtype, **family.backbone.parts_in(weights, parts))
            load_weights(backbone, {}, weights, strict=strict, ignore=head_tensors(weights, backbone))
        return backbone

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the constructor's options for a checkpoint: those asked for, then what its tensors show."""
        return dict(parts)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json and model.safetensors so that the reference implementation opens them."""
        huggingface.write_weights(directory, dump(named_variables(self), self.rules()))
        huggingface.write_config(directory, self.config_dict())

    def config_dict(self) -> dict[str, Any]:
        """Returns what config.json says of the network."""
        return {"model_type": self.family.model_type, **self.config.to_dict()}

    def rules(self) -> list[Rule]:
        """Returns how each variable is made of a checkpoint's tensors (without the family's prefix)."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its weights are called")

    def standardised(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the inputs as int32, with `segment_ids` (default: one segment a row) and `positions` filled in."""
        if not isinstance(inputs, Mapping) or "token_ids" not in inputs:
            got = ", ".join(sorted(inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(f'inputs: expected a dictionary with "token_ids", got {got}')
        taken = {name: tf.cast(inputs[name], tf.int32) for name in self.input_names if inputs.get(name) is not None}
        taken.setdefault("segment_ids", tf.ones_like(taken["token_ids"]))
        if "positions" not in taken:
            taken["positions"] = segment_positions(taken["segment_ids"])
        return taken

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            **self.config.to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict) -> Backbone:
        values = dict(config)
        kwargs = {"name": values.pop("name", None), "dtype": values.pop("dtype", None)}
        if isinstance(kwargs["dtype"], dict):
            kwargs["dtype"] = keras.saving.deserialize_keras_object(kwargs["dtype"])
        return cls(cls.family.config.from_dict(values), **kwargs)


def open_weights(directory: str | Path, family: Family) -> Weights:
    """Opens a checkpoint with its tensors called as in the family's bare network."""
    return strip_prefix(modern_names(huggingface.open_weights(directory)), family.prefix)


def head_tensors(weights: Weights, backbone: Backbone) -> list[str]:
    """Returns patterns for a checkpoint's tensors that the backbone may leave unread: heads', buffers'."""
    return [*backbone.family.foreign, *backbone.family.tied(backbone.config)]


def load_weights(
    backbone: Backbone,
    heads: Mapping[str, keras.layers.Layer],
    weights: Weights,
    *,
    strict: bool,
    ignore: Iterable[str] = (),
) -> None:
    """Loads a network and its heads (name -> layer with `rules()`) together, so that shapes are checked before any change."""
    load(*combined(backbone, heads), weights, strict=strict, ignore=ignore)


def combined(backbone: Backbone, heads: Mapping[str, keras.layers.Layer]) -> tuple[dict, list[Rule]]:
    """Returns the variables and rules of a backbone and its heads under one naming."""
    variables, rules = {}, []
    for root, part in {"backbone": backbone, **heads}.items():
        variables |= {f"{root}/{path}": variable for path, variable in named_variables(part).items()}
        rules += [dataclasses.replace(rule, variable=f"{root}/{rule.variable}") for rule in part.rules()]
    return variables, rules


def named_variables(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the trainable variables by their path below `layer`: `blocks/0/attention/query_key_value/kernel`."""
    return {variable.path.split("/", 1)[1]: variable for variable in layer.trainable_variables}
