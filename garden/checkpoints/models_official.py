"""Checkpoints of TensorFlow Model Garden (tf-models-official), which TensorFlow 2 wrote: BERT's encoder and pretrainer.

The paths of the variables depend on which class of encoder was saved, inside of what and as what (`encoder/...`,
`model/...`), their names hardly do: they are read by name. Fine-tuned sentence classifiers are read too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from garden.checkpoints.bert_sources import Source, bert_source, dense, norm, read_json_config
from garden.checkpoints.tensorflow_checkpoints import (
    Checkpoint,
    Renaming,
    find_checkpoint,
    open_checkpoint,
    renamed,
    renaming,
)

PARAMS_FILE = "params.yaml"
_GELU = "gelu_new"  # what Model Garden calls "gelu" is the tanh approximation
_LAYER, _BLOCK = r"transformer/layer_(\d+)/", r"bert.encoder.layer.\1."
_RENAMINGS = [
    renaming("word_embeddings/embeddings", "bert.embeddings.word_embeddings.weight"),
    renaming("position_embedding/embeddings", "bert.embeddings.position_embeddings.weight"),
    renaming("type_embeddings/embeddings", "bert.embeddings.token_type_embeddings.weight"),
    *norm("embeddings/layer_norm", "bert.embeddings.LayerNorm"),
    *dense(f"{_LAYER}self_attention/query", f"{_BLOCK}attention.self.query"),
    *dense(f"{_LAYER}self_attention/key", f"{_BLOCK}attention.self.key"),
    *dense(f"{_LAYER}self_attention/value", f"{_BLOCK}attention.self.value"),
    *dense(f"{_LAYER}self_attention/attention_output", f"{_BLOCK}attention.output.dense", inputs=2),
    *norm(f"{_LAYER}self_attention_layer_norm", f"{_BLOCK}attention.output.LayerNorm"),
    *dense(f"{_LAYER}intermediate", f"{_BLOCK}intermediate.dense"),
    *dense(f"{_LAYER}output", f"{_BLOCK}output.dense"),
    *norm(f"{_LAYER}output_layer_norm", f"{_BLOCK}output.LayerNorm"),
    *dense("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
    *norm("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
    renaming("cls/predictions/output_bias/bias", "cls.predictions.bias"),
]
_POOLER = dense("pooler_transform", "bert.pooler.dense")
# Heads over the sentence read the encoder's pooler, or have one of their own, in whose favour the encoder's is unused.
_CLASSIFIER = dense("sentence_prediction/logits", "classifier")
_CLASSIFIER_POOLER = dense("sentence_prediction/pooler_dense", "bert.pooler.dense")
_NEXT_SENTENCE = dense("next_sentence/logits", "cls.seq_relationship")
_QUERY_KERNEL = re.compile(rf"(?:.*/)?{_LAYER}self_attention/query/kernel")
_UNKNOWN = re.compile(rf"(.*/)?({_LAYER}.*|embedding_projection/.*)")
_ENCODER_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_activation": "hidden_act",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}


def open_models_official(path: str | os.PathLike, given: Mapping[str, Any]) -> Source:
    """Open a TensorFlow 2 checkpoint of a Model Garden BERT; `given` holds fields of a config.json that it does not show.

    The default activation is Model Garden's: the tanh approximation of GELU, which config.json calls "gelu_new".
    """
    checkpoint = open_checkpoint(find_checkpoint(path))
    if not checkpoint.object_based:
        raise ValueError(f"{checkpoint.prefix}: was written by TensorFlow 1; convert it with --from google-bert")
    return models_official_source(checkpoint, given)


def models_official_source(checkpoint: Checkpoint, given: Mapping[str, Any]) -> Source:
    """What `open_models_official` makes of an open checkpoint."""
    weights, left = renamed(checkpoint, [*_RENAMINGS, *_pooled(checkpoint)])
    if strange := [name for name in left if _UNKNOWN.fullmatch(name)]:
        raise ValueError(f"{checkpoint.prefix}: has {strange[0]}, which BERT has not; other encoders are not supported")
    where = str(checkpoint.prefix)
    given = {"hidden_act": _GELU, **given}
    left = [name for name in left if "/" in name]  # the others are counters: save_counter, global_step
    return bert_source(weights, left, heads=_heads(checkpoint), given=given, where=where)


def _pooled(checkpoint: Checkpoint) -> list[Renaming]:
    """The renamings of the pooler and of what reads it."""

    def has(wanted: Iterable[Renaming]) -> bool:
        return any(each.pattern.fullmatch(name) for each in wanted for name in checkpoint.variables)

    if has(_CLASSIFIER):
        return [*_CLASSIFIER, *(_CLASSIFIER_POOLER if has(_CLASSIFIER_POOLER) else _POOLER)]
    if has(_NEXT_SENTENCE) and not has(dense("next_sentence/pooler_dense", "")):
        return [*_NEXT_SENTENCE, *_POOLER]
    return _POOLER


def _heads(checkpoint: Checkpoint) -> int:
    """How many attention heads: kernels are [width, heads, head width]."""
    for name, tensor in checkpoint.variables.items():
        if _QUERY_KERNEL.fullmatch(name) and len(tensor.shape) == 3:
            return tensor.shape[1]
    raise ValueError(f"{checkpoint.prefix}: not a checkpoint of Model Garden's BERT, it lacks .../self_attention/query")


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a config.json that Model Garden's bert_config.json or params.yaml gives.

    Raises FileNotFoundError, and ValueError for anything else and an encoder that is not BERT.
    """
    fields = _read_params(path) if path.suffix in (".yaml", ".yml") else read_json_config(path)
    if fields.get("hidden_act") == "gelu":
        fields["hidden_act"] = _GELU
    return fields


def _read_params(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    encoder = _encoder(values)
    if encoder is None:
        raise ValueError(f'{path}: has no "encoder"; give a params.yaml of Model Garden, or a bert_config.json')
    kind = encoder.get("type", "bert")
    fields = encoder.get(kind, encoder)
    if kind != "bert" or not isinstance(fields, dict):
        raise ValueError(f'{path}: encoder type "{kind}" is not supported; supported: bert')
    if fields.get("norm_first"):
        raise ValueError(f"{path}: norm_first: only false is supported")
    if fields.get("embedding_size") not in (None, fields.get("hidden_size")):
        raise ValueError(f"{path}: embedding_size: only the hidden size is supported, got {fields['embedding_size']}")
    return {ours: fields[theirs] for theirs, ours in _ENCODER_FIELDS.items() if fields.get(theirs) is not None}


def _encoder(values: Any) -> dict[str, Any] | None:
    """The object under "encoder", at whatever depth the kind of run has it."""
    if isinstance(values, dict):
        if isinstance(values.get("encoder"), dict):
            return values["encoder"]
        for value in values.values():
            if (found := _encoder(value)) is not None:
                return found
    return None
