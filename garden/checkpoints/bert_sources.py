"""What checkpoints of BERT from elsewhere become: tensors under published names and the config.json that they belong to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garden.checkpoints.tensorflow_checkpoints import Renaming, renaming
from garden.checkpoints.weights import Weights

PREFIX = "bert."  # of the network's tensors in checkpoints that have a head
_QUERY = re.compile(re.escape(PREFIX) + r"encoder\.layer\.(\d+)\.attention\.self\.query\.weight")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_SIZES += ("max_position_embeddings", "type_vocab_size")
# Options of a config.json that tensors do not show; the defaults are those of all of BERT's first releases.
_OPTIONS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}


@dataclass(frozen=True)
class Source:
    """A checkpoint, as the Hugging Face layout would have it."""

    config: dict[str, Any]
    weights: Weights
    left_out: tuple[str, ...] = ()  # variables that have no place there


def dense(variable: str, tensor: str, *, inputs: int = 1) -> list[Renaming]:
    """A dense layer's kernel and bias."""
    return [
        renaming(f"{variable}/kernel", f"{tensor}.weight", inputs=inputs),
        renaming(f"{variable}/bias", f"{tensor}.bias", inputs=0),
    ]


def norm(variable: str, tensor: str) -> list[Renaming]:
    """A layer norm's scale and bias."""
    return [renaming(f"{variable}/gamma", f"{tensor}.weight"), renaming(f"{variable}/beta", f"{tensor}.bias")]


def bert_source(
    weights: Weights, left_out: Sequence[str], *, heads: int | None, given: Mapping[str, Any], where: str
) -> Source:
    """Work out config.json: sizes from the tensors, what they do not show from `given` (fields of a config.json).

    `heads` is how many attention heads the tensors show, None if they do not. Raises ValueError when the tensors are not
    those of a BERT, or of other sizes than `given` says.
    """
    sizes = _sizes(weights, where)
    heads = heads or given.get("num_attention_heads")
    if not heads:
        raise ValueError(f"{where}: how many attention heads there are must be given (num_attention_heads in --config)")
    sizes["num_attention_heads"] = heads
    for name in _SIZES:
        if given.get(name, sizes[name]) != sizes[name]:
            raise ValueError(f"{where}: {name} is {sizes[name]} in the checkpoint, {given[name]} in its configuration")
    options = {name: given.get(name, default) for name, default in _OPTIONS.items()}
    kept = {"layer_norm_eps": 1e-12, "pad_token_id": 0, "tie_word_embeddings": True}
    architecture, head = _architecture(weights)
    if architecture == "BertModel":
        weights = weights.rename(lambda name: name.removeprefix(PREFIX))
    config = {"architectures": [architecture], "model_type": "bert", **sizes, **options, **kept, **head}
    return Source(config, weights, tuple(left_out))


def _sizes(weights: Weights, where: str) -> dict[str, int]:
    needed = {
        "words": f"{PREFIX}embeddings.word_embeddings.weight",
        "positions": f"{PREFIX}embeddings.position_embeddings.weight",
        "types": f"{PREFIX}embeddings.token_type_embeddings.weight",
        "inner": f"{PREFIX}encoder.layer.0.intermediate.dense.weight",
    }
    if missing := [name for name in needed.values() if name not in weights]:
        raise ValueError(f"{where}: not a checkpoint of BERT, it lacks {', '.join(missing)}")
    shapes = {part: weights.shape(name) for part, name in needed.items()}
    if wrong := [needed[part] for part, shape in shapes.items() if len(shape) != 2]:
        raise ValueError(f"{where}: {wrong[0]} has shape {list(weights.shape(wrong[0]))}, expected a matrix")
    layers = sorted(int(match[1]) for name in weights if (match := _QUERY.fullmatch(name)))
    if layers != list(range(len(layers))):
        raise ValueError(f"{where}: has layers {layers}, expected 0 to {len(layers) - 1}")
    return {
        "vocab_size": shapes["words"][0],
        "hidden_size": shapes["words"][1],
        "num_hidden_layers": len(layers),
        "intermediate_size": shapes["inner"][0],
        "max_position_embeddings": shapes["positions"][0],
        "type_vocab_size": shapes["types"][0],
    }


def _architecture(weights: Weights) -> tuple[str, dict[str, Any]]:
    """The reference implementation's class for these tensors, and what config.json says of its head."""
    if "cls.predictions.bias" in weights:
        return ("BertForPreTraining" if "cls.seq_relationship.weight" in weights else "BertForMaskedLM"), {}
    if "qa_outputs.weight" in weights:
        return "BertForQuestionAnswering", {}
    if "classifier.weight" in weights:
        labels = {str(index): f"LABEL_{index}" for index in range(weights.shape("classifier.weight")[0])}
        return "BertForSequenceClassification", {
            "id2label": labels,
            "label2id": {label: int(index) for index, label in labels.items()},
        }
    return "BertModel", {}


def read_json_config(path: Path) -> dict[str, Any]:
    """The object in a bert_config.json; FileNotFoundError, or ValueError when it is something else."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
