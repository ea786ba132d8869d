"""ELECTRA (Clark et al., 2020): BERT's network on a narrower token table. A small generator fills masks, and a discriminator
tells which tokens it replaced.

Checkpoints as the reference implementation (transformers, models/electra) writes them.
Shapes: B batch, T length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import tensorflow as tf

from garden.models import heads
from garden.models.backbone import Backbone, Family
from garden.models.bert import BertBackbone, BertConfig


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(BertConfig):
    """ELECTRA's sizes, called as in config.json. The defaults are the small discriminator's."""

    embedding_size: int = 128  # of the token table
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1_024

    sizes = (*BertConfig.sizes, "embedding_size")

    def generator(self, size: float = 0.25, **values) -> ElectraConfig:
        """Returns the sizes of a generator that is `size` as wide and as deep as this discriminator; `values` go before.

        As the authors' `get_generator_config`: heads 64 wide, or wider, feed-forward networks four times the width.

        Raises ValueError for a field that does not exist or a value that is not possible.
        """
        known = self.to_dict()
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"generator.{unknown[0]}: no such key; known: {', '.join(known)}")
        width = values.get("hidden_size", round(self.hidden_size * size))
        heads = next((count for count in range(width // 64, 1, -1) if width % count == 0), 1)
        sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
        return type(self).from_dict({**known, **sizes, **values}, "generator")


@keras.saving.register_keras_serializable("garden")
class ElectraBackbone(BertBackbone):
    """ELECTRA's encoder, generator and discriminator alike; inputs and outputs are BERT's without `pooled`."""

    parts_in = Backbone.parts_in

    def __init__(self, config: ElectraConfig, **kwargs):
        super().__init__(config, pooler=False, **kwargs)

    def get_config(self) -> dict:
        return {name: value for name, value in super().get_config().items() if name != "pooler"}


class ElectraTextHead(heads.DenseHead):
    """Dense, GELU and dense over a text's first token."""

    inner, inner_activation, outer = "classifier.dense", "gelu", "classifier.out_proj"


class ElectraTokenHead(heads.DenseHead):
    """Over every token."""


class ElectraAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer."""


class ElectraReplacedTokenHead(heads.DenseHead):
    """The discriminator: one logit for each token, above zero where another one stood before, [B,T]."""

    inner, inner_activation = "discriminator_predictions.dense", None
    outer = "discriminator_predictions.dense_prediction"
    dropout_field = None

    def __init__(self, backbone: Backbone, **kwargs):
        super().__init__(backbone, classes=1, **kwargs)

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return tf.squeeze(super().call(outputs, training), axis=-1)


class ElectraMaskedLMHead(heads.MaskedLMHead):
    """The generator, over masked tokens; its activation is GELU whatever the network's."""

    transform, transform_norm = "generator_predictions.dense", "generator_predictions.LayerNorm"
    transform_activation = "gelu"
    table, bias = "generator_lm_head.weight", "generator_lm_head.bias"


FAMILIES = (
    Family(
        model_type="electra",
        published="Electra",
        config=ElectraConfig,
        backbone=ElectraBackbone,
        prefix="electra.",
        heads={
            "masked-lm": ElectraMaskedLMHead,
            "replaced-token-detection": ElectraReplacedTokenHead,
            "text-embedding": heads.EmbeddingHead,
            "text-classification": ElectraTextHead,
            "token-classification": ElectraTokenHead,
            "question-answering": ElectraAnswerHead,
        },
        foreign=(
            r"(.*\.)?position_ids",
            r"generator_.*",
            r"discriminator_.*",
            r"classifier\..*",
            r"qa_outputs\..*",
        ),
    ),
)
