"""Run configs: what a YAML file and `key=value` overrides may say, and what they mean.

`RunConfig` is the whole list of keys: `garden train --help` prints it from the fields below. Importing this module does not
import TensorFlow.
"""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "masked-lm",
    "causal-lm",
    "seq2seq-lm",
)
PROBLEMS = ("single_label", "multi_label", "regression")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("one_device", "mirrored", "multi_worker")
BATCHING = ("packed", "padded")
KEPT = ("best", "last")


def key(meaning: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Returns a dataclass field with its meaning and the limits of its value: `choices`, `least`, `above`, `most`, `below`."""
    made = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return dataclasses.field(**made, metadata={"meaning": meaning, **limits})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained: a published checkpoint, or a new network of a family."""

    pretrained: str | None = key("directory of a checkpoint in the Hugging Face layout", None)
    new_head: bool = key("start from a new head even where the checkpoint has one", False)
    family: str | None = key("instead of pretrained: the new network's family, such as bert", None)
    config: dict[str, Any] = key("the new network's sizes, called as in config.json", dict)
    tokenizer: str | None = key("directory of the new network's tokenizer", None)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What it learns from: JSONL, CSV or TSV files, gzipped or not."""

    train: str = key("file of training examples")
    validation: str | None = key("file of examples to validate with during training", None)
    validation_share: float = key(
        "without a validation file: share of the training examples held out as one", 0.0, least=0, below=1
    )
    test: str | None = key("file of examples to report on at the end; default: the validation examples", None)
    text: str = key(
        "field that holds the text, for token-classification perhaps a list of words, for question-answering the question",
        "text",
    )
    pair: str | None = key(
        "field that holds the second text of a pair, or a completion; for question-answering the context, default pair",
        None,
    )
    label: str | None = key(
        "field that holds the label; for token-classification a list of one a word, or of spans {start, end, label}; for "
        "question-answering {text, start}; for seq2seq-lm the target, default target; not read for other language models",
        None,
    )
    labels: list[str] | None = key(
        "names of the classes in the order of their ids; default: the checkpoint's, or those in the training data, sorted",
        None,
    )
    problem: str = key("kind of text classification", "single_label", choices=PROBLEMS)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How it learns."""

    epochs: float | None = key("passes over the training data; default 3 unless steps are given", None, above=0)
    steps: int | None = key("instead of epochs: steps in all", None, least=1)
    batch_size: int = key("examples in a step, for all replicas together", 32, least=1)
    learning_rate: float = key("the highest; it rises to it and then falls linearly to zero", 5e-5, above=0)
    warmup: float = key("share of the steps in which the learning rate rises", 0.1, least=0, most=1)
    weight_decay: float = key("AdamW's; norms and biases have none", 0.01, least=0)
    clip_norm: float | None = key("largest norm of a step's gradient; null: no limit", 1.0, above=0)
    precision: str = key("number format of activations; weights stay float32", "float32", choices=PRECISIONS)
    seed: int = key("of new weights, order of examples, dropout and masks", 1, least=0, below=2**31)
    sequence_length: int | None = key("tokens of a text at most; default: what the network allows", None, least=3)
    target_length: int | None = key(
        "for seq2seq-lm: tokens of a target at most; default: as sequence_length", None, least=3
    )
    batching: str = key("several texts in a row (packed) or one (padded)", "packed", choices=BATCHING)
    row_length: int | None = key("with packed: shortest row; default: the task's", None, least=1)
    label_smoothing: float = key("share of the target spread over all classes", 0.0, least=0, below=1)
    class_weight: dict[str, float] | None = key("name of a class -> weight of its examples", None, least=0)
    mask_rate: float = key("for masked-lm: share of the tokens to predict", 0.15, above=0, below=1)
    validation_steps: int | None = key("steps between validations; default: one pass", None, least=1)
    best_metric: str | None = key("metric that says which weights are best; default: accuracy, or else loss", None)
    keep: str = key("weights that model/ gets; best needs validation examples", "best", choices=KEPT)
    early_stopping: int | None = key("validations without a better best_metric before training stops", None, least=1)
    checkpoint_steps: int | None = key("steps between checkpoints to continue an interrupted run from", None, least=1)
    log_steps: int = key("steps between lines of metrics.jsonl", 10, least=1)
    tensorboard: bool = key("write metrics for TensorBoard to tensorboard/ too", False)

    def __post_init__(self):
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"training: give epochs or steps, not both (epochs: {self.epochs:g}, steps: {self.steps})")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    task: str = key("what the network is for", choices=TASKS)
    model: ModelConfig = key("pretrained, or family, config and tokenizer")
    data: DataConfig = key("train, and perhaps validation, test and the names of the fields")
    training: TrainingConfig = key("all keys have defaults", TrainingConfig)
    strategy: str = key("devices to train on", "one_device", choices=STRATEGIES)
    output: str = key("directory of the run: config.yaml, checkpoints/, model/, metrics.jsonl, report.json, plots/")

    def __post_init__(self):
        for name, value, metadata in _values(self):
            _check(name, value, metadata)
        model, training = self.model, self.training
        if (model.pretrained is None) == (model.family is None):
            raise ValueError(
                f"model: give either pretrained (a directory) or family, config and tokenizer; got pretrained: "
                f"{_shown(model.pretrained)}, family: {_shown(model.family)}"
            )
        if model.family is not None and model.tokenizer is None:
            raise ValueError("model.tokenizer: a new network needs the directory of a tokenizer")
        if self.data.validation is not None and self.data.validation_share:
            raise ValueError("data: give validation (a file) or validation_share, not both")
        if not self.validates and training.early_stopping:
            raise ValueError(
                "training.early_stopping: there is nothing to judge by; give data.validation or data.validation_share"
            )
        texts, words, targets = "text-classification", "token-classification", "seq2seq-lm"
        for name, value, tasks in (
            ("data.labels", self.data.labels, (texts, words)),
            ("data.problem", self.data.problem != "single_label", (texts,)),
            ("training.label_smoothing", training.label_smoothing, (texts, targets)),
            ("training.class_weight", training.class_weight, (texts, words)),
            ("training.target_length", training.target_length, (targets,)),
        ):
            if value and self.task not in tasks:
                known = " and ".join(f'"{task}"' for task in tasks)
                raise ValueError(f'{name}: only for task {known}, and the task is "{self.task}"')

    @property
    def validates(self) -> bool:
        """Whether there are validation examples."""
        return self.data.validation is not None or self.data.validation_share > 0

    def to_yaml(self) -> str:
        """Returns all keys and values as a config file."""
        return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self)))


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file, with `key=value` overrides such as `training.epochs=1` on top.

    Raises FileNotFoundError, or ValueError in one line that names the key, the value and what is possible instead.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a run config in YAML, such as configs/sentiment.yaml")
    try:
        read = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        raise ValueError(f"{path}: not a YAML file of keys and values: {_one_line(error)}") from None
    if not isinstance(read, DictConfig):
        raise ValueError(f"{path}: expected keys and values, such as task: text-classification, got a list")
    return make_config(read, overrides, where=str(path))


def make_config(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> RunConfig:
    """Makes a config of nested keys and values and `key=value` overrides; errors as in `read_config`."""
    try:
        return _checked_config(values, overrides)
    except (ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{where}: {_one_line(error)}") from None


def _checked_config(values: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    for override in overrides:
        if not override.partition("=")[0].strip() or "=" not in override:
            raise ValueError(f'override "{override}": expected key=value, such as training.epochs=1')
    given = OmegaConf.merge(values, OmegaConf.from_dotlist(list(overrides)))
    plain = OmegaConf.to_container(given, resolve=True)
    _check_keys(plain, RunConfig)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    except OmegaConfBaseException as error:
        name = error.full_key or ""
        declared, metadata = _field_of(name)
        meaning = metadata.get("meaning", "")
        if not _is_given(plain, name):
            raise ValueError(f"{name}: missing; {meaning}") from None
        value = OmegaConf.select(OmegaConf.create(plain), name)
        raise ValueError(f"{name}: expected {_kind(declared)} ({meaning}), got {_shown(value)}") from None


def key_table() -> list[tuple[str, str]]:
    """Returns all keys with their defaults, and their meanings, for a help page."""
    table = []
    for name, field in _fields(RunConfig):
        default = "REQUIRED" if field.default is dataclasses.MISSING else _shown(field.default)
        default = "{}" if field.default_factory is dict else default
        choices = ", ".join(field.metadata.get("choices", ()))
        table.append((f"{name}: {default}", field.metadata["meaning"] + (f": {choices}" if choices else "")))
    return table


def _fields(section: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    declared = get_type_hints(section)
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(declared[field.name]):
            yield from _fields(declared[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def _values(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, field.metadata


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that is not among the choices or outside the limits of its field."""
    choices = metadata.get("choices")
    if choices and value not in choices:
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
        raise ValueError(f"{prefix.rstrip('.')}: expected keys and values, got {_shown(values)}")
    declared = get_type_hints(section)
    for name, value in values.items():
        if name not in declared:
            known = ", ".join(declared)
            raise ValueError(f"{prefix}{name}: no such key (its value: {_shown(value)}); known: {known}")
        if dataclasses.is_dataclass(declared[name]):
            _check_keys(value, declared[name], f"{prefix}{name}.")
            continue
        # OmegaConf has no message of its own for one kind of container in the place of another.
        kind = _kind(declared[name])
        if isinstance(value, (dict, list)) and kind != {dict: "names and values", list: "a list of names"}[type(value)]:
            raise ValueError(f"{prefix}{name}: expected {kind}, got {_shown(value)}")


def _field_of(name: str) -> tuple[Any, Mapping[str, Any]]:
    """Returns the declared type and the metadata of a dotted key, or of the field it lies in."""
    section, declared, metadata = RunConfig, None, {}
    for part in name.split("."):
        declared = get_type_hints(section).get(part, declared)
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


def _is_given(values: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return values != "???"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    # OmegaConf adds indented lines on its own types.
    return " ".join(str(error).strip().split("\n    ")[0].split())
