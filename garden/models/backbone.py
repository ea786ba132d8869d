"""What every network family shares: a config, a network, and a map to and from published weights.

A family is one file that defines a `Family`. `FAMILIES` says which file serves which `model_type` of a config.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from garden.checkpoints import huggingface
from garden.checkpoints.weight_map import Rule, copy, dump, load, transposed
from garden.checkpoints.weights import Weights, alias, modern_names, strip_prefix
from garden.layers.mesh import current_mesh, whole
from garden.layers.positions import segment_positions
from garden.models.config import Config

logger = logging.getLogger(__name__)

FAMILIES = {
    "bahdanau": "garden.models.bahdanau",
    "bart": "garden.models.bart",
    "bert": "garden.models.bert",
    "camembert": "garden.models.roberta",
    "elman": "garden.models.recurrent",
    "distilbert": "garden.models.distilbert",
    "electra": "garden.models.electra",
    "gpt2": "garden.models.gpt2",
    "gru": "garden.models.recurrent",
    "llama": "garden.models.llama",
    "lstm": "garden.models.recurrent",
    "mbart": "garden.models.bart",
    "mistral": "garden.models.llama",
    "mt5": "garden.models.t5",
    "qwen2": "garden.models.llama",
    "qwen3": "garden.models.llama",
    "roberta": "garden.models.roberta",
    "t5": "garden.models.t5",
    "transformer": "garden.models.transformer",
    "umt5": "garden.models.t5",
    "xlm-roberta": "garden.models.roberta",
}
"""Module of each family, by the `model_type` that its config.json has. Modules are imported when they are needed."""

ARCHITECTURES = {
    "backbone": "Model",
    "masked-lm": "ForMaskedLM",
    "masked-lm-with-pairs": "ForPreTraining",
    "causal-lm": "ForCausalLM",
    "seq2seq-lm": "ForConditionalGeneration",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "text-embedding": "Model",
    "question-answering": "ForQuestionAnswering",
    "replaced-token-detection": "ForPreTraining",
}
"""How the reference implementation's class names end, by task."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture: what to build for a config.json, and what its checkpoints call things.

    Variants are `dataclasses.replace(FAMILY, model_type=..., ...)`. Making one sets `backbone.family`.
    """

    model_type: str
    published: str  # how the reference implementation's class names begin: "Bert"
    config: type[Config]
    backbone: type[Backbone]
    prefix: str  # of the backbone's tensors in checkpoints that have a head: "bert."
    heads: Mapping[str, type]  # task -> its head, a `garden.models.heads.Head`
    renamed: Mapping[str, str] = field(default_factory=dict)  # task -> class name, where it is not the usual one
    prefixes: Mapping[str, str] = field(default_factory=dict)  # task -> prefix, where it is not the usual one
    foreign: tuple[str, ...] = ()  # regular expressions of tensors that checkpoints may hold without being needed
    aliases: tuple[tuple[str, str], ...] = ()  # (name, the tensor that stands for it where it is missing)

    def __post_init__(self):
        self.backbone.family = self

    @property
    def architectures(self) -> dict[str, str]:
        """The reference implementation's class name for the backbone and for each task."""
        names = {task: self.published + ARCHITECTURES[task] for task in ("backbone", *self.heads)}
        return names | dict(self.renamed)

    def prefix_of(self, task: str) -> str:
        """Returns how the backbone's tensors begin in a task's checkpoints; none where they are the bare network's."""
        bare = self.architectures[task] == self.architectures["backbone"]
        return "" if bare else self.prefixes.get(task, self.prefix)

    def tasks_named(self, config: Mapping[str, Any]) -> list[str]:
        """Returns the tasks that the `architectures` of a config.json name."""
        names = config.get("architectures")
        names = names if isinstance(names, list) else []
        # What embeds texts is a bare network too: `checkpoints.sentence_transformers` tells them apart.
        bare = self.architectures["backbone"]
        return [task for task, published in self.architectures.items() if published in names and published != bare]


def family_of(config: Mapping[str, Any], where: str | Path = "config.json") -> Family:
    """Returns the family that a config.json's `model_type` names; ValueError lists the known ones."""
    return family_called(config.get("model_type"), f"{where}: model_type")


def family_called(model_type: str, where: str = "model_type") -> Family:
    """Returns the family of a `model_type`; ValueError lists the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f'{where} "{model_type}" is not supported; supported: {known}')
    families = importlib.import_module(FAMILIES[model_type]).FAMILIES
    return next(family for family in families if family.model_type == model_type)


_blank: ContextVar[bool] = ContextVar("garden_blank_weights", default=False)


@contextlib.contextmanager
def blank_weights() -> Iterator[None]:
    """Within it, `initializer` gives memory as it comes: `load_weights` has to fill what is made of it.

    Drawing numbers, or only writing zeros, would cost the time and the memory of a second set of weights.
    """
    token = _blank.set(True)
    try:
        yield
    finally:
        _blank.reset(token)


def blank() -> bool:
    """Returns whether this is within `blank_weights`."""
    return _blank.get()


def initializer(stddev: float) -> keras.initializers.Initializer:
    """Returns the one that networks start from: normal, cut at two standard deviations."""
    return Unwritten() if blank() else keras.initializers.TruncatedNormal(stddev=stddev)


@keras.saving.register_keras_serializable("garden")
class Unwritten(keras.initializers.Initializer):
    """Tables and kernels in memory that nobody has touched yet; vectors are zeros."""

    unwritten = True

    def __call__(self, shape, dtype=None):
        dtype = tf.as_dtype(dtype or keras.config.floatx())
        return tf.zeros(shape, dtype) if len(shape) < 2 else tf.raw_ops.Empty(shape=list(shape), dtype=dtype)


class Backbone(keras.Model):
    """A network without a head. `Backbone.from_pretrained` opens any supported family.

    Called with a dictionary of tensors (garden's words: `token_ids` [B,T] and, optionally, `segment_ids`, `positions`
    and what the family adds), it returns a dictionary with at least `sequence`, the last hidden states [B,T,D].
    """

    family: ClassVar[Family]

    words: keras.layers.Layer
    """The token table, a `garden.layers.Embedding`: heads may be tied to it."""

    input_names: ClassVar[tuple[str, ...]] = ("token_ids", "segment_ids", "positions")

    spreads: ClassVar[bool] = False
    """Whether it is made of attention blocks, which a mesh of devices divides: see `garden.layers.mesh`."""

    bounded: ClassVar[bool] = True
    """Whether there is nothing for positions from the config's `longest` on: a table ends, rotations do not."""

    def __init__(self, config: Config, **kwargs):
        super().__init__(**kwargs)
        if current_mesh() and not self.spreads:
            raise ValueError(
                f'mesh: a network of the family "{self.family.model_type}" is not made of attention blocks, which alone are '
                "spread over devices; train it on one_device, mirrored or multi_worker"
            )
        self.config = config
        self.blank = blank()

    @property
    def foreign(self) -> tuple[str, ...]:
        """Regular expressions of tensors that checkpoints may hold without being needed."""
        return self.family.foreign

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(without_lists(inputs), *args, **kwargs)

    @property
    def width(self) -> int:
        """D, of the hidden states."""
        return self.config.hidden_size

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
            config = config.settled(weights)
            with blank_weights():
                backbone = family.backbone(config, dtype=dtype, **family.backbone.parts_in(weights, parts))
            load_weights(backbone, {}, weights, strict=strict)
        return backbone

    @classmethod
    def from_tf_hub(
        cls, handle: str | Path, *, dtype: str | None = None, strict: bool = True, **parts: Any
    ) -> Backbone:
        """Builds the network of a BERT encoder's SavedModel, as tf-models-official exports them, and loads its weights.

        Args:
            handle: the SavedModel's directory, or a URL of TF Hub.
            dtype, strict, parts: as `from_pretrained` takes them.

        Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
        """
        from garden.models.tf_hub import backbone_from_tf_hub

        backbone = backbone_from_tf_hub(handle, dtype=dtype, strict=strict, **parts)
        if not isinstance(backbone, cls):
            raise ValueError(f"{handle}: a {type(backbone).__name__}, not a {cls.__name__}")
        return backbone

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the constructor's options for a checkpoint: those asked for, then what its tensors show."""
        return dict(parts)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json and model.safetensors so that the reference implementation opens them."""
        with huggingface.whole_directory(directory) as target:
            huggingface.write_weights(target, dump(named_variables(self), self.rules()))
            huggingface.write_config(target, self.config_dict())

    def config_dict(self) -> dict[str, Any]:
        """Returns what config.json says of the network."""
        return {
            "architectures": [self.family.architectures["backbone"]],
            "model_type": self.family.model_type,
            **self.config.to_dict(),
        }

    def rules(self) -> list[Rule]:
        """Returns how each variable is made of a checkpoint's tensors (without the family's prefix)."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its weights are called")

    def standardised(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the inputs as int32, with `segment_ids` (default: one segment a row) and `positions` filled in."""
        if not isinstance(inputs, Mapping) or "token_ids" not in inputs:
            got = ", ".join(sorted(inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(f'inputs: expected a dictionary with "token_ids", got {got}')
        taken = {name: tf.cast(inputs[name], tf.int32) for name in self.input_names if inputs.get(name) is not None}
        length, limit = taken["token_ids"].shape[1], self.config.longest
        bounded = self.bounded and length and limit
        if bounded and length > limit and not {"segment_ids", "positions"} & set(taken):
            raise ValueError(f"token_ids: {length} tokens a row, the network has positions for {limit}; truncate them")
        taken.setdefault("segment_ids", tf.ones_like(taken["token_ids"]))
        if "positions" not in taken:
            # 0 for padding, of which a row may have more than a table of positions has rows.
            real = tf.cast(taken["segment_ids"] > 0, tf.int32)
            taken["positions"] = segment_positions(taken["segment_ids"]) * real
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
        known = {field.name for field in dataclasses.fields(cls.family.config)}
        kwargs = {name: values.pop(name) for name in list(values) if name not in known}
        if isinstance(kwargs.get("dtype"), dict):
            kwargs["dtype"] = keras.saving.deserialize_keras_object(kwargs["dtype"])
        return cls(cls.family.config.from_dict(values), **kwargs)


def without_lists(inputs: Any) -> Any:
    """Returns a dictionary of inputs with arrays for lists, in which Keras would see several inputs each."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {
        name: np.asarray(values) if isinstance(values, (list, tuple)) else values for name, values in inputs.items()
    }


def open_weights(directory: str | Path, family: Family) -> Weights:
    """Opens a checkpoint with its tensors called as in the family's bare network."""
    weights = modern_names(huggingface.open_weights(directory))
    for prefix in sorted({family.prefix, *family.prefixes.values()}):
        weights = strip_prefix(weights, prefix)
    for name, existing in family.aliases:
        weights = alias(weights, name, existing)
    return weights


def load_weights(
    backbone: Backbone,
    heads: Mapping[str, keras.layers.Layer],
    weights: Weights,
    *,
    strict: bool,
    optional: Iterable[str] = (),
) -> None:
    """Loads a network and its heads (name -> layer with `rules()`); all shapes are checked before any change.

    Tensors that match a pattern of `optional` may be missing: their variables stay as they are. Without `strict` others may be
    too: theirs are drawn as a new network's, and a warning names them.
    """
    variables, rules = combined(backbone, heads)
    options = {"ignore": backbone.foreign, "optional": optional, "untouched": backbone.blank}
    report = load(variables, rules, weights, strict=strict, **options)
    draw = keras.initializers.TruncatedNormal(stddev=getattr(backbone.config, "initializer_range", 0.02))
    for rule in rules if backbone.blank else ():
        unwritten = rule.variable.startswith("backbone/") and len(variables[rule.variable].shape) > 1
        if unwritten and not set(report.missing).isdisjoint(rule.tensors):
            variable = variables[rule.variable]
            variable.assign(draw(variable.shape, variable.dtype))
    if not strict:
        for what, names in (("lacks", report.missing), ("has, and nothing reads,", report.unexpected)):
            if names:
                logger.warning("%s: the checkpoint %s %s", weights.path, what, ", ".join(names))
    backbone.blank = False


def combined(backbone: Backbone, heads: Mapping[str, keras.layers.Layer]) -> tuple[dict, list[Rule]]:
    """Returns the variables and rules of a backbone and its heads under one naming."""
    variables, rules = {}, []
    for root, part in {"backbone": backbone, **heads}.items():
        variables |= {f"{root}/{path}": variable for path, variable in named_variables(part).items()}
        rules += [dataclasses.replace(rule, variable=f"{root}/{rule.variable}") for rule in part.rules()]
    return variables, rules


def named_variables(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the weights, frozen ones too, by their path below `layer`: `block_0/attention/query_key_value/kernel`.

    Those in shards are told as the one that they are pieces of: see `garden.layers.mesh`.
    """
    return {variable.path.split("/", 1)[1]: variable for variable in whole(layer.weights)}


def dense(variable: str, tensor: str, *, bias: bool = True) -> list[Rule]:
    """Returns the rules of a `Dense` layer that PyTorch calls `tensor`."""
    rules = [transposed(f"{variable}/kernel", f"{tensor}.weight")]
    return [*rules, copy(f"{variable}/bias", f"{tensor}.bias")] if bias else rules


def norm(variable: str, tensor: str, *, bias: bool = True) -> list[Rule]:
    """Returns the rules of a norm that PyTorch calls `tensor`."""
    rules = [copy(f"{variable}/scale", f"{tensor}.weight")]
    return [*rules, copy(f"{variable}/bias", f"{tensor}.bias")] if bias else rules
