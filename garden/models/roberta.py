"""RoBERTa (Liu et al., 2019), XLM-RoBERTa (Conneau et al., 2020) and CamemBERT (Martin et al., 2020): BERT's network with
positions that count from behind the padding id, and heads without a pooler.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import keras
import tensorflow as tf

from garden.models import heads
from garden.models.backbone import Family
from garden.models.bert import BertBackbone, BertConfig, BertEmbeddingHead


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """RoBERTa's sizes, called as in config.json. The defaults are the reference's, for a config.json that is silent: published
    checkpoints have 514 rows of positions, one type and an epsilon of 1e-5.
    """

    vocab_size: int = 50_265
    max_position_embeddings: int = 512  # rows of the table, of which the first `pad_token_id + 1` hold no position
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2

    @property
    def longest(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


@keras.saving.register_keras_serializable("garden")
class RobertaBackbone(BertBackbone):
    """RoBERTa's encoder; inputs and outputs are BERT's."""

    def embedded(self, inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        # As fairseq's tables have it: position 0 of a text is row `pad_token_id + 1`.
        shifted = inputs["positions"] + self.config.pad_token_id + 1
        return super().embedded({**inputs, "positions": shifted}, training)


@keras.saving.register_keras_serializable("garden")
class XLMRobertaBackbone(RobertaBackbone):
    """XLM-RoBERTa's encoder: RoBERTa's."""


@keras.saving.register_keras_serializable("garden")
class CamembertBackbone(RobertaBackbone):
    """CamemBERT's encoder: RoBERTa's."""


class RobertaTextHead(heads.DenseHead):
    """Dense, tanh and dense over a text's first token."""

    backbone_parts = {"pooler": False}
    inner, outer = "classifier.dense", "classifier.out_proj"


class RobertaTokenHead(heads.DenseHead):
    """Over every token."""

    backbone_parts = {"pooler": False}


class RobertaAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer."""

    backbone_parts = {"pooler": False}


class RobertaMaskedLMHead(heads.MaskedLMHead):
    """Over masked tokens; its activation is GELU whatever the network's."""

    backbone_parts = {"pooler": False}
    transform, transform_norm, transform_activation = "lm_head.dense", "lm_head.layer_norm", "gelu"
    table, bias, untied_bias = "lm_head.decoder.weight", "lm_head.bias", "lm_head.decoder.bias"


ROBERTA = Family(
    model_type="roberta",
    published="Roberta",
    config=RobertaConfig,
    backbone=RobertaBackbone,
    prefix="roberta.",
    heads={
        "masked-lm": RobertaMaskedLMHead,
        "text-classification": RobertaTextHead,
        "text-embedding": BertEmbeddingHead,
        "token-classification": RobertaTokenHead,
        "question-answering": RobertaAnswerHead,
    },
    # Older checkpoints have one of the two.
    aliases=(("lm_head.decoder.bias", "lm_head.bias"), ("lm_head.bias", "lm_head.decoder.bias")),
    foreign=(r"(.*\.)?position_ids", r"lm_head\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)

FAMILIES = (
    ROBERTA,
    replace(ROBERTA, model_type="xlm-roberta", published="XLMRoberta", backbone=XLMRobertaBackbone),
    replace(ROBERTA, model_type="camembert", published="Camembert", backbone=CamembertBackbone),
)
