"""Google's original releases of BERT: `bert_model.ckpt` of TensorFlow 1, `bert_config.json` and `vocab.txt`.

What fine-tuning with the same code adds is read too: the classifier of run_classifier.py, the answers of run_squad.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from garden.checkpoints.bert_sources import Source, bert_source, dense, norm, read_json_config
from garden.checkpoints.tensorflow_checkpoints import find_checkpoint, open_checkpoint, renamed, renaming

CONFIG_FILE = "bert_config.json"
_LAYER, _BLOCK = r"bert/encoder/layer_(\d+)/", r"bert.encoder.layer.\1."
_RENAMINGS = [
    renaming("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight"),
    renaming("bert/embeddings/position_embeddings", "bert.embeddings.position_embeddings.weight"),
    renaming("bert/embeddings/token_type_embeddings", "bert.embeddings.token_type_embeddings.weight"),
    *norm("bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm"),
    *dense(f"{_LAYER}attention/self/query", f"{_BLOCK}attention.self.query"),
    *dense(f"{_LAYER}attention/self/key", f"{_BLOCK}attention.self.key"),
    *dense(f"{_LAYER}attention/self/value", f"{_BLOCK}attention.self.value"),
    *dense(f"{_LAYER}attention/output/dense", f"{_BLOCK}attention.output.dense"),
    *norm(f"{_LAYER}attention/output/LayerNorm", f"{_BLOCK}attention.output.LayerNorm"),
    *dense(f"{_LAYER}intermediate/dense", f"{_BLOCK}intermediate.dense"),
    *dense(f"{_LAYER}output/dense", f"{_BLOCK}output.dense"),
    *norm(f"{_LAYER}output/LayerNorm", f"{_BLOCK}output.LayerNorm"),
    *dense("bert/pooler/dense", "bert.pooler.dense"),
    *dense("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
    *norm("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm"),
    renaming("cls/predictions/output_bias", "cls.predictions.bias"),
    # These were written as [classes, width] already.
    renaming("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
    renaming("cls/seq_relationship/output_bias", "cls.seq_relationship.bias"),
    renaming("cls/squad/output_weights", "qa_outputs.weight"),
    renaming("cls/squad/output_bias", "qa_outputs.bias"),
    renaming("output_weights", "classifier.weight"),
    renaming("output_bias", "classifier.bias"),
]
_TRAINING = re.compile(r".*/(adam_[mv]|Adam(_1)?)|(.*/)?(global_step|beta[12]_power|good_steps|loss_scale)")


def open_google_bert(path: str | os.PathLike, given: Mapping[str, Any]) -> Source:
    """Open a TensorFlow 1 checkpoint of BERT; `given` holds the fields of its bert_config.json.

    The activation that these files call "gelu" is the exact one, as in all published conversions.
    """
    checkpoint = open_checkpoint(find_checkpoint(path))
    if checkpoint.object_based:
        raise ValueError(f"{checkpoint.prefix}: was written by TensorFlow 2; convert it with --from models-official")
    weights, left = renamed(checkpoint, _RENAMINGS)
    left = [name for name in left if not _TRAINING.fullmatch(name)]
    return bert_source(weights, left, heads=None, given=given, where=str(checkpoint.prefix))


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a bert_config.json, which are called as in config.json; FileNotFoundError or ValueError."""
    return read_json_config(path)
