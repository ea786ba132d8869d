"""Checkpoints from elsewhere into the Hugging Face layout: config.json, model.safetensors and the tokenizer's files."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from garden.checkpoints import google_bert, huggingface, models_official, tf_hub
from garden.checkpoints.bert_sources import Source
from garden.checkpoints.tensorflow_checkpoints import find_checkpoint, open_checkpoint
from garden.checkpoints.weights import Weights, modern_names
from garden.layers.activations import activation as known_activation
from garden.models.backbone import Backbone, family_of
from garden.tokenizers.tf_hub import tokenizer_from_tf_hub, tokenizer_of_vocabulary
from garden.tokenizers.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

KINDS = ("huggingface", "google-bert", "models-official", "tf-hub")
"""What can be converted."""

VOCABULARY_FILE = "vocab.txt"
# All files of tokenizers in the Hugging Face layout, and what else belongs to a model.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    VOCABULARY_FILE,
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
)
_COMPANIONS = ("chat_template.jinja", "generation_config.json", "preprocessor_config.json")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a source may not say of itself; None: as it says, or as is usual."""

    config: Path | None = None  # bert_config.json or params.yaml
    vocabulary: str | None = None  # vocab.txt, or a preprocessing SavedModel
    lower_case: bool | None = None
    activation: str | None = None  # as config.json calls it

    def given(self) -> tuple[str, ...]:
        """The names of the options that were given."""
        return tuple(name.replace("_", "-") for name, value in vars(self).items() if value is not None)


def convert(
    source: str,
    target: str | os.PathLike,
    *,
    kind: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Converts a checkpoint and returns a report that JSON can hold.

    Args:
        source: a directory, the prefix of a TensorFlow checkpoint's files, or a URL of TF Hub.
        target: the directory to make; nothing is there unless all of it could be written and opens again.
        kind: one of KINDS; default: what the source's files show.
        options: what the source does not say.
        progress: is called with the bytes written so far and in all.

    Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
    """
    target, options = Path(target), options or Options()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{target}: exists already; give a new directory")
    kind = kind or detected(source)
    if kind not in KINDS:
        raise ValueError(f'"{kind}" cannot be converted; known: {", ".join(KINDS)}')
    if options.activation is not None:
        known_activation(options.activation)
    opened = _from_huggingface(Path(source), options) if kind == "huggingface" else _open(kind, source, options)
    tokenizer = None if kind == "huggingface" else _tokenizer(kind, source, opened, options)
    if target.is_dir():
        target.rmdir()  # empty: it appears again when it is whole
    with opened.weights as weights, huggingface.whole_directory(target) as directory:
        huggingface.write_config(directory, opened.config)
        huggingface.write_weights(directory, _reported(weights, progress))
        if kind == "huggingface":
            _copy_companions(Path(source), directory)
        elif tokenizer is not None:
            tokenizer.save_pretrained(directory)
        Backbone.from_pretrained(directory)  # raises for what would not open
        files = sorted(path.name for path in directory.iterdir())
        parameters = sum(math.prod(weights.shape(name)) for name in weights)
    architectures = opened.config.get("architectures") or ["?"]
    return {
        "model": str(target),
        "from": kind,
        "architecture": architectures[0],
        "parameters": parameters,
        "files": files,
        "tokenizer": any(name in _TOKENIZER_FILES for name in files),
        "left_out": list(opened.left_out),
    }


def detected(source: str) -> str:
    """What kind of source this is, by its files; FileNotFoundError or ValueError when it is none."""
    path = Path(source)
    if "://" in source or (path / tf_hub.SAVED_MODEL_FILE).is_file():
        return "tf-hub"
    if (path / huggingface.CONFIG_FILE).is_file():
        names = {file.name for file in path.iterdir()}
        if any({whole, index} & names for whole, index, _ in huggingface.READ_FORMATS):
            return "huggingface"
    if not path.exists() and not path.with_name(path.name + ".index").exists():
        raise FileNotFoundError(f"{source}: no such directory or checkpoint")
    return "models-official" if open_checkpoint(find_checkpoint(path)).object_based else "google-bert"


def _from_huggingface(directory: Path, options: Options) -> Source:
    if options.given():
        raise ValueError(f"--{options.given()[0]}: is not for checkpoints in the Hugging Face layout; edit their files")
    config = huggingface.read_config(directory)
    where = directory / huggingface.CONFIG_FILE
    family_of(config, where).config.from_dict(config, where)
    return Source(config, modern_names(huggingface.open_weights(directory)))


def _open(kind: str, source: str, options: Options) -> Source:
    given = _given(kind, source, options)
    if kind == "tf-hub":
        return tf_hub.open_tf_hub(source, given)
    if kind == "google-bert":
        return google_bert.open_google_bert(source, given)
    return models_official.open_models_official(source, given)


def _given(kind: str, source: str, options: Options) -> dict[str, Any]:
    """Fields of a config.json: of the file that was given or lies beside the checkpoint, then those given alone."""
    path = options.config
    if path is None and kind != "tf-hub":
        beside = _directory(source)
        candidates = [beside / google_bert.CONFIG_FILE, beside / models_official.PARAMS_FILE]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None and kind == "google-bert":
            raise FileNotFoundError(f"{candidates[0]}: no such file; give it with --config")
    fields: dict[str, Any] = {}
    if path is not None:
        fields = (google_bert if kind == "google-bert" else models_official).read_config(path)
    if options.activation is not None:
        fields["hidden_act"] = options.activation
    elif kind == "models-official" and "hidden_act" not in fields:
        logger.warning("the checkpoint does not say its activation: gelu_new is taken; give --config or --activation")
    return fields


def _directory(source: str) -> Path:
    path = Path(source)
    return path if path.is_dir() else path.parent


def _tokenizer(kind: str, source: str, opened: Source, options: Options) -> Tokenizer | None:
    """The tokenizer, None when there is no vocabulary; ValueError when it has more tokens than the network."""
    length = opened.config["max_position_embeddings"]
    given = options.vocabulary
    if given is not None and ("://" in given or Path(given).is_dir()):
        tokenizer = tokenizer_from_tf_hub(given, options.lower_case, length)
    elif given is not None:
        tokenizer = tokenizer_of_vocabulary(given, options.lower_case, length)
    elif kind == "tf-hub":
        try:
            tokenizer = tokenizer_from_tf_hub(source, options.lower_case, length)
        except FileNotFoundError as error:
            return _without_tokenizer(str(error))
    elif (path := _directory(source) / VOCABULARY_FILE).is_file():
        tokenizer = tokenizer_of_vocabulary(path, options.lower_case, length)
    else:
        return _without_tokenizer(f"{path}: no such file")
    size = opened.config["vocab_size"]
    if tokenizer.vocabulary_size > size:
        raise ValueError(
            f"{given or source}: the vocabulary has {tokenizer.vocabulary_size} tokens, the network only {size}; "
            "give the one that it was trained with (--vocabulary)"
        )
    return tokenizer


def _without_tokenizer(reason: str) -> None:
    logger.warning("no tokenizer is written: %s; give one with --vocabulary", reason)


def _reported(weights: Weights, progress: Progress | None) -> Iterator[tuple[str, np.ndarray]]:
    total = sum(math.prod(weights.shape(name)) * weights.dtype(name).itemsize for name in weights)
    done = 0
    for name in weights:
        array = weights[name]
        yield name, array
        done += array.nbytes
        if progress is not None:
            progress(done, total)


def _copy_companions(source: Path, target: Path) -> None:
    for name in (*_TOKENIZER_FILES, *_COMPANIONS):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
