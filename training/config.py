"""Run configs: what a YAML file and `key=value` overrides may say, and what they mean.

`RunConfig` is the whole list of keys: `garden train --help` prints it from the fields below. Importing this module does not
import TensorFlow.
"""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from training import configuration
from training.configuration import key

TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "text-embedding",
    "masked-lm",
    "masked-lm-with-pairs",
    "replaced-token-detection",
    "causal-lm",
    "seq2seq-lm",
)
PROBLEMS = ("single_label", "multi_label", "regression")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu", "model_parallel")
MESH = ("model", "stage")
BATCHING = ("packed", "padded")
KEPT = ("best", "last")
NOT_FINITE = ("stop", "skip")

_TOLD = ("checkpoint_steps", "keep_checkpoints", "keep_checkpoint_steps", "log_steps", "tensorboard")
_SERVED = ("service",)
_DEVICES = ("strategy", "devices", "tpu", "mesh")
"""Keys that a run which another one continues may have other values of: they do not decide its weights."""
OPTIMIZERS = ("adamw", "lamb", "adafactor", "muon")
SCHEDULES = ("linear", "cosine", "inverse_sqrt", "wsd", "constant")
DECAY_SHAPES = ("linear", "sqrt")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is trained: a published checkpoint, or a new network of a family."""

    pretrained: str | None = key("directory of a checkpoint in the Hugging Face layout", None)
    new_head: bool = key("start from a new head even where the checkpoint has one", False)
    family: str | None = key("instead of pretrained: the new network's family, such as bert", None)
    config: dict[str, Any] = key("the new network's sizes, called as in config.json", dict)
    tokenizer: str | None = key("directory of the new network's tokenizer", None)
    generator: dict[str, Any] = key(
        "for replaced-token-detection: sizes of a new generator, called as in config.json; default: a quarter of the width",
        dict,
    )
    pooling: str | None = key(
        "for text-embedding: mean, first or last token's state; default: as the checkpoint says, or the family's", None
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What it learns from: JSONL, CSV or TSV files, gzipped or not, or a corpus."""

    train: str | None = key("file of training examples", None)
    corpus: str | None = key(
        "instead of train, for language models: directory that garden corpus build wrote, or a corpus config (.yaml), whose "
        "files are then read as the training goes",
        None,
    )
    weights: dict[str, float] | None = key(
        "of a corpus: source -> its share of the rows, relative to the others; default: the corpus's", None, above=0
    )
    temperature: float | None = key("of a corpus: of the shares; default: the corpus's", None, above=0)
    shards: int = key(
        "of a corpus: parts of a batch that are read and made apart, each by the worker that computes it alone, and from files "
        "of its own where a source has as many. Workers have to divide it. It decides what a batch has, the workers do not",
        1,
        least=1,
    )
    service: str | None = key(
        "of train: address of a tf.data service that makes the inputs of texts, such as localhost:5050 (garden data-service)",
        None,
    )
    validation_rows: int = key("of a corpus: held-out rows that are validated on during training", 2048, least=1)
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

    epochs: float | None = key(
        "passes over the training data; default 3 unless steps or tokens are given", None, above=0
    )
    steps: int | None = key("instead of epochs: steps in all", None, least=1)
    tokens: float | None = key(
        "instead of epochs: real tokens in all, such as 1e9; padding does not count", None, least=1
    )
    batch_size: int = key("examples in a step, for all replicas together", 32, least=1)
    accumulate: int = key("parts in which a replica computes a step's batch, one after another", 1, least=1)
    recompute: bool = key("compute blocks again in the backward pass, which frees their memory", False)
    optimizer: str = key("how gradients change weights", "adamw", choices=OPTIMIZERS)
    learning_rate: float = key("the highest; the schedule says when", 5e-5, above=0)
    schedule: str = key("how the learning rate falls after the warm-up", "linear", choices=SCHEDULES)
    warmup: float = key("share of the steps (up to 1), or steps, in which the learning rate rises", 0.1, least=0)
    decay: float | None = key("for wsd: share of the steps, or steps, in which it falls; default 0.2", None, above=0)
    decay_shape: str | None = key("for wsd: how it falls: linear (default) or sqrt, steeply at first", None)
    floor: float | None = key(
        "for cosine and wsd: share of the highest rate to end at; default 0", None, least=0, most=1
    )
    weight_decay: float = key(
        "share of a weight, times the rate, taken off a step; norms and biases have none", 0.01, least=0
    )
    betas: list[float] | None = key("two decays of Adam's averages, for all but adafactor; default [0.9, 0.999]", None)
    epsilon: float | None = key("Adam's, for all but adafactor; default 1e-8, lamb 1e-6", None, above=0)
    clip_norm: float | None = key("largest norm of a step's gradient; null: no limit", 1.0, above=0)
    ema: float | None = key(
        "decay of an average of the weights, such as 0.999, which is validated and saved in their place",
        None,
        above=0,
        below=1,
    )
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
    mask_rate: float = key("for masked-lm and its relatives: share of the tokens to predict", 0.15, above=0, below=1)
    temperature: float = key("for text-embedding: what similarities are divided by", 0.05, above=0)
    validation_steps: int | None = key("steps between validations; default: one pass", None, least=1)
    best_metric: str | None = key("metric that says which weights are best; default: accuracy, or else loss", None)
    keep: str = key("weights that model/ gets; best needs validation examples", "best", choices=KEPT)
    early_stopping: int | None = key("validations without a better best_metric before training stops", None, least=1)
    checkpoint_steps: int | None = key("steps between checkpoints to continue an interrupted run from", None, least=1)
    keep_checkpoints: int = key("how many of the newest checkpoints stay", 2, least=1)
    keep_checkpoint_steps: int | None = key("checkpoints of every so many steps stay for good", None, least=1)
    not_finite: str = key(
        "a loss or gradient that is not a finite number: stop the run, or skip the step and count it",
        "stop",
        choices=NOT_FINITE,
    )
    log_steps: int = key("steps between lines of metrics.jsonl", 10, least=1)
    tensorboard: bool = key("write metrics for TensorBoard to tensorboard/ too", False)

    def __post_init__(self):
        lengths = {
            name: getattr(self, name) for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None
        }
        if len(lengths) > 1:
            given = ", ".join(f"{name}: {value:g}" for name, value in lengths.items())
            raise ValueError(f"training: give one of epochs, steps and tokens, not several ({given})")
        for name in ("warmup", "decay"):
            amount = getattr(self, name)
            if amount is not None and amount > 1 and amount != int(amount):
                raise ValueError(
                    f"training.{name}: expected a share up to 1, or a whole number of steps, got {amount:g}"
                )
        for name, kind, kinds in (
            ("decay", "schedule", ("wsd",)),
            ("decay_shape", "schedule", ("wsd",)),
            ("floor", "schedule", ("cosine", "wsd")),
            ("betas", "optimizer", ("adamw", "lamb", "muon")),
            ("epsilon", "optimizer", ("adamw", "lamb", "muon")),
        ):
            if getattr(self, name) is not None and getattr(self, kind) not in kinds:
                known = ", ".join(kinds)
                raise ValueError(f"training.{name}: only for {kind} {known}, and the {kind} is {getattr(self, kind)}")
        if self.decay_shape not in (None, *DECAY_SHAPES):
            raise ValueError(f'training.decay_shape: expected linear or sqrt, got "{self.decay_shape}"')
        if self.betas is not None and (len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"training.betas: expected two numbers of at least 0 and below 1, got {list(self.betas)}")
        if self.accumulate > max(self.batch_size, 1):
            raise ValueError(f"training.accumulate: {self.accumulate} parts of a batch of {self.batch_size} examples")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    task: str = key("what the network is for", choices=TASKS)
    model: ModelConfig = key("pretrained, or family, config and tokenizer")
    data: DataConfig = key("train, and perhaps validation, test and the names of the fields")
    training: TrainingConfig = key("all keys have defaults", TrainingConfig)
    objective: dict[str, Any] = key(
        "of a corpus: what is learnt from it (name), and its options; default: the task's own with its defaults", dict
    )
    strategy: str = key("devices to train on", "one_device", choices=STRATEGIES)
    devices: list[str] | None = key(
        "for mirrored: which, such as [GPU:0, GPU:1] or [CPU:0, CPU:1]; default: all GPUs, or the CPU", None
    )
    tpu: str | None = key("for tpu: its name or address; default: the variable TPU_NAME, or this machine's", None)
    mesh: dict[str, int] | None = key(
        "for model_parallel: devices that each layer is spread over (model), times runs of blocks on devices of their own "
        "(stage), such as {model: 2, stage: 1}",
        None,
        least=1,
    )
    output: str = key("directory of the run: config.yaml, checkpoints/, model/, metrics.jsonl, report.json, plots/")

    def __post_init__(self):
        configuration.check(self)
        model, training = self.model, self.training
        if (model.pretrained is None) == (model.family is None):
            raise ValueError(
                f"model: give either pretrained (a directory) or family, config and tokenizer; got pretrained: "
                f"{configuration.shown(model.pretrained)}, family: {configuration.shown(model.family)}"
            )
        if model.family is not None and model.tokenizer is None:
            raise ValueError("model.tokenizer: a new network needs the directory of a tokenizer")
        self._check_data()
        for name, strategy in (("devices", "mirrored"), ("tpu", "tpu"), ("mesh", "model_parallel")):
            if getattr(self, name) is not None and self.strategy != strategy:
                raise ValueError(f"{name}: only for strategy {strategy}, and the strategy is {self.strategy}")
        if self.strategy == "model_parallel":
            self._check_mesh()
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
            ("model.generator", model.generator, ("replaced-token-detection",)),
            ("model.pooling", model.pooling, ("text-embedding",)),
            ("training.temperature", training.temperature != 0.05, ("text-embedding",)),
            # Of a batch's texts, each is told from all others.
            ("training.accumulate", training.accumulate > 1, tuple(task for task in TASKS if task != "text-embedding")),
        ):
            if value and self.task not in tasks:
                known = " and ".join(f'"{task}"' for task in tasks)
                raise ValueError(f'{name}: only for task {known}, and the task is "{self.task}"')

    def _check_mesh(self) -> None:
        if not self.mesh:
            raise ValueError("mesh: strategy model_parallel needs one, such as mesh: {model: 2, stage: 1}")
        for name in self.mesh:
            if name not in MESH:
                raise ValueError(f"mesh.{name}: no such key; known: {', '.join(MESH)}")
        if self.training.optimizer != "adamw":
            raise ValueError(
                f"training.optimizer: {self.training.optimizer} looks at whole weights, which strategy model_parallel has in "
                "shards; take adamw"
            )

    def _check_data(self) -> None:
        data = self.data
        if data.train is None and data.corpus is None:
            raise ValueError("data.train: missing; file of training examples, or give data.corpus instead")
        if data.train is not None and data.corpus is not None:
            raise ValueError(
                f"data: give either train (a file) or corpus (a directory), not both; got train: {data.train}, "
                f"corpus: {data.corpus}"
            )
        for name, value, needs_corpus in (
            ("data.weights", data.weights, True),
            ("data.temperature", data.temperature, True),
            ("data.shards", data.shards > 1, True),
            ("objective", self.objective, True),
            ("data.validation", data.validation, False),
            ("data.validation_share", data.validation_share, False),
            ("data.test", data.test, False),
            ("data.pair", data.pair, False),
            ("data.label", data.label, False),
        ):
            if value and needs_corpus and data.corpus is None:
                raise ValueError(f"{name}: only for runs that learn from a corpus (data.corpus)")
            if value and not needs_corpus and data.corpus is not None:
                raise ValueError(f"{name}: a corpus has no such thing; it holds out documents by its validation_share")
        if data.service is not None and data.corpus is not None:
            raise ValueError("data.service: makes inputs of texts (data.train); for a corpus give data.shards instead")
        if self.training.batch_size % data.shards:
            raise ValueError(
                f"data.shards: {data.shards} do not divide training.batch_size ({self.training.batch_size})"
            )
        if data.shards > 1 and self.task == "text-embedding":
            raise ValueError(
                "data.shards: texts are told from all others of a batch, which has to be made whole; leave it at 1"
            )

    def same_run(self, other: RunConfig) -> bool:
        """Whether a run of another config continues one of this: all that decides its weights is the same.

        Devices may be others, and what is kept and told of it.
        """

        def essence(config: RunConfig) -> RunConfig:
            training, data = _with_defaults(config.training, _TOLD), _with_defaults(config.data, _SERVED)
            return _with_defaults(dataclasses.replace(config, training=training, data=data), _DEVICES)

        return essence(self) == essence(other)

    @property
    def validates(self) -> bool:
        """Whether there are validation examples."""
        return self.data.validation is not None or self.data.validation_share > 0 or self.data.corpus is not None

    def to_yaml(self) -> str:
        """Returns all keys and values as a config file."""
        return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self)))


def _with_defaults(config, names: Sequence[str]):
    """Returns a config in which the keys with these names have their defaults."""
    fields = (field for field in dataclasses.fields(config) if field.name in names)
    defaults = {
        field.name: field.default if field.default is not dataclasses.MISSING else field.default_factory()
        for field in fields
    }
    return dataclasses.replace(config, **defaults)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file, with `key=value` overrides such as `training.epochs=1` on top; errors as `configuration.read`."""
    return configuration.read(RunConfig, path, overrides, example="configs/sentiment.yaml")


def make_config(values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> RunConfig:
    """Makes a config of nested keys and values and `key=value` overrides; errors as in `read_config`."""
    return configuration.make(RunConfig, values, overrides, where=where)


def key_table() -> list[tuple[str, str]]:
    """Returns all keys with their defaults, and their meanings, for a help page."""
    return configuration.key_table(RunConfig)
