"""The model of a run: a checkpoint or a new network, made a task; and saved tasks, opened as what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from garden.checkpoints import huggingface
from garden.checkpoints.sentence_transformers import embeds_texts
from garden.models.backbone import family_called, family_of, open_weights
from garden.models.config import Config
from garden.tasks import TASKS, Examples, Task
from garden.tasks.question_answerer import answers_of
from garden.tokenizers import Tokenizer
from training.config import RunConfig
from training.paths import located


def open_task(directory: str | Path, **options: Any) -> Task:
    """Opens a saved model as the task that its config.json's `architectures` names.

    Args:
        directory: what `save_pretrained` or another tool wrote, Hugging Face layout.
        options: as the task's `from_pretrained` takes them.

    Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
    """
    directory = located(directory)
    return task_class(directory).from_pretrained(directory, **options)


def task_class(directory: Path) -> type[Task]:
    """Returns the class of the task that a directory's config.json names."""
    if not (directory / huggingface.CONFIG_FILE).exists() and (directory / "model" / huggingface.CONFIG_FILE).exists():
        raise FileNotFoundError(f"{directory}: the directory of a run; its model is in {directory / 'model'}")
    values = huggingface.read_config(directory)
    where = directory / huggingface.CONFIG_FILE
    family = family_of(values, where)
    named = family.tasks_named(values)
    # Embedders are bare networks, or have heads that nothing reads.
    for task in ["text-embedding", *named] if embeds_texts(directory) else named:
        if task in TASKS and task in family.heads:
            return TASKS[task]
    bare, published = family.architectures["backbone"], family.architectures
    known = ", ".join(name for task, name in published.items() if task in TASKS and name != bare)
    raise ValueError(
        f"{where}: architectures {values.get('architectures')} has no trained task ({known}); train one with garden train "
        "and this directory as model.pretrained"
    )


def build_task(config: RunConfig, examples: Examples | None = None) -> Task:
    """Makes the model of a run, untrained as far as its checkpoint leaves it; call it in the strategy's scope.

    `examples` are the training examples: where neither config nor checkpoint name the classes, their labels do. Who learns from
    a corpus has none.
    """
    task, training = TASKS[config.task], config.training
    options = {"seed": training.seed, "batching": training.batching}
    for name in ("sequence_length", "row_length"):
        if getattr(training, name) is not None:
            options[name] = getattr(training, name)
    if config.task in ("masked-lm", "masked-lm-with-pairs", "replaced-token-detection"):
        options["mask_rate"] = training.mask_rate
    if config.task == "replaced-token-detection" and config.model.generator:
        options["generator"] = config.model.generator
    if config.task == "text-embedding":
        options["temperature"] = training.temperature
        if config.model.pooling:
            options["pooling"] = config.model.pooling
    if config.task == "seq2seq-lm":
        options |= {"label_smoothing": training.label_smoothing, "target_length": training.target_length}
    if config.task == "text-classification":
        options |= _classes(config, examples)
    if config.task == "token-classification":
        chosen = config.data.labels or _has_classes(config)
        options["labels"] = (
            config.data.labels if chosen else word_labels_in(examples.labels, config.data.label or "label")
        )
    if config.task == "question-answering":
        options["answerless"] = any(not answers_of(label) for label in examples.labels)
    if config.model.pretrained is not None:
        return task.from_pretrained(
            located(config.model.pretrained), dtype=training.precision, new_head=config.model.new_head, **options
        )
    tokenizer = Tokenizer.from_pretrained(located(config.model.tokenizer))
    family = family_called(config.model.family, "model.family")
    if config.task not in family.heads:
        raise ValueError(f'model.family: "{family.model_type}" has no head for {config.task}')
    sizes = {"vocab_size": tokenizer.vocabulary_size, **special_ids(tokenizer, family.config), **config.model.config}
    unknown = [name for name in config.model.config if name not in family.config.__dataclass_fields__]
    if unknown:
        known = ", ".join(family.config.__dataclass_fields__)
        raise ValueError(f"model.config.{unknown[0]}: no such key; known: {known}")
    parts = family.heads[config.task].backbone_parts
    backbone = family.backbone(family.config.from_dict(sizes, "model.config"), dtype=training.precision, **parts)
    return task.build_on(backbone, tokenizer, **options)


def special_ids(tokenizer: Tokenizer, config: type[Config]) -> dict[str, int | None]:
    """Returns what a new network's config says of the special tokens of its tokenizer, by field.

    BERT's [CLS] and [SEP] stand for begin and end where a tokenizer has no such tokens; the end, behind each document, begins
    the next one where it has no token for that.
    """
    end = tokenizer.sep_id if tokenizer.eos_id is None else tokenizer.eos_id
    begin = next((token for token in (tokenizer.bos_id, tokenizer.cls_id) if token is not None), end)
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": begin, "eos_token_id": end}
    if config.decoder_begins_with is not None:
        start = ids[config.decoder_begins_with]
        ids["decoder_start_token_id"] = end if start is None else start
    return {name: token for name, token in ids.items() if name in config.__dataclass_fields__}


def _classes(config: RunConfig, examples: Examples) -> dict[str, Any]:
    options: dict[str, Any] = {"label_smoothing": config.training.label_smoothing}
    if _has_classes(config):
        if config.data.problem != "single_label":
            options["problem"] = config.data.problem
        return {**options, "labels": config.data.labels}
    options["problem"] = config.data.problem
    if config.data.problem != "regression":
        options["labels"] = config.data.labels or labels_in(examples.labels, config.data.label or "label")
    elif config.data.labels:
        raise ValueError("data.labels: a regression has none")
    return options


def _has_classes(config: RunConfig) -> bool:
    """Whether the run starts from a checkpoint whose head for the task is trained."""
    if config.model.pretrained is None or config.model.new_head:
        return False
    directory = located(config.model.pretrained)
    values, where = huggingface.read_config(directory), directory / huggingface.CONFIG_FILE
    family = family_of(values, where)
    with open_weights(directory, family) as weights:
        sizes = family.config.from_dict(values, where)
        return config.task in family.heads and family.heads[config.task].trained_in(weights, sizes)


def word_labels_in(labels: Sequence[Any], field: str = "label") -> list[str]:
    """Returns the names of the classes that occur in texts' labels, one a word, "O" first; of spans `B-` and `I-` of each."""
    labels = [label.split() if isinstance(label, str) else label for label in labels]
    several = [each for label in labels for each in (label if isinstance(label, list) else [label])]
    if any(isinstance(each, dict) for each in several):
        names = {str(each.get("label")) for each in several if isinstance(each, dict)}
        return ["O", *(f"{letter}-{name}" for name in sorted(names) for letter in "BI")]
    return sorted(labels_in(labels, field), key=lambda name: name != "O")


def labels_in(labels: Sequence[Any], field: str = "label") -> list[str]:
    """Returns the names of the classes that occur in labels (or lists of them), sorted; of ids, "0", "1", ..."""
    found = {name for label in labels for name in (label if isinstance(label, list) else [label])}
    if all(isinstance(name, int) and not isinstance(name, bool) for name in found):
        return [str(index) for index in range(max(found, default=-1) + 1)]
    others = [name for name in found if not isinstance(name, str)]
    if others:
        raise ValueError(f'field "{field}": expected all labels to be names, or all to be ids, got {others[0]!r} too')
    return sorted(found)
