"""Networks of checkpoints from elsewhere: TF Hub's SavedModels, or anything that is a `Source`."""

from __future__ import annotations

import os
from typing import Any

from garden.checkpoints.bert_sources import Source
from garden.checkpoints.tf_hub import open_tf_hub, saved_model_directory
from garden.checkpoints.weights import strip_prefix
from garden.models.backbone import Backbone, blank_weights, family_of, load_weights


def backbone_from_tf_hub(
    handle: str | os.PathLike, *, dtype: str | None = None, strict: bool = True, **parts: Any
) -> Backbone:
    """Builds the network of a BERT encoder's SavedModel and loads its weights.

    Args:
        handle: a SavedModel's directory as tf-models-official exports it, or a URL of TF Hub.
        dtype: a Keras dtype policy, such as "mixed_bfloat16"; default: the global one.
        strict: whether missing and unknown variables are errors.
        parts: the family's own options, such as BERT's `pooler`.

    Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
    """
    directory = saved_model_directory(handle)
    return backbone_of_source(open_tf_hub(directory), where=str(directory), dtype=dtype, strict=strict, **parts)


def backbone_of_source(
    source: Source, *, where: str, dtype: str | None = None, strict: bool = True, **parts: Any
) -> Backbone:
    """Builds the network of a checkpoint under published names and loads its weights."""
    family = family_of(source.config, where)
    config = family.config.from_dict(source.config, where)
    with strip_prefix(source.weights, family.prefix) as weights:
        with blank_weights():
            backbone = family.backbone(config, dtype=dtype, **family.backbone.parts_in(weights, parts))
        load_weights(backbone, {}, weights, strict=strict)
    return backbone
