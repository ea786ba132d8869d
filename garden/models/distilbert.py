"""DistilBERT (Sanh et al., 2019): half of BERT's layers, neither types nor a pooler, and names of its own.

Checkpoints as the reference implementation (transformers, models/distilbert) writes them.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras

from garden.layers import activation, sinusoidal_table
from garden.models import heads
from garden.models.backbone import Backbone, Family, named_variables
from garden.models.bert import BertBackbone
from garden.models.config import Config


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(Config):
    """DistilBERT's sizes, called as in config.json. The defaults are DistilBERT-base's."""

    vocab_size: int = 30_522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3_072  # inside the feed-forward network
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    qa_dropout: float = 0.1
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False  # whether a new table of positions starts from sines
    initializer_range: float = 0.02  # standard deviation of new weights
    pad_token_id: int = 0
    tie_word_embeddings: bool = True  # whether the masked-LM head multiplies by the token table

    sizes = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings")
    heads = ("n_heads", "dim")
    layer_norm_eps: ClassVar[float] = 1e-12

    def __post_init__(self):
        super().__post_init__()
        activation(self.activation)

    # What BERT calls them.
    hidden_size = embedding_size = property(lambda self: self.dim)
    num_hidden_layers = property(lambda self: self.n_layers)
    num_attention_heads = property(lambda self: self.n_heads)
    intermediate_size = property(lambda self: self.hidden_dim)
    hidden_act = property(lambda self: self.activation)
    hidden_dropout_prob = property(lambda self: self.dropout)
    attention_probs_dropout_prob = property(lambda self: self.attention_dropout)


@keras.saving.register_keras_serializable("garden")
class DistilBertBackbone(BertBackbone):
    """DistilBERT's encoder; inputs and outputs are BERT's without `type_ids` and `pooled`."""

    input_names = Backbone.input_names
    has_types = False
    tensors: ClassVar = {
        **BertBackbone.tensors,
        "layer": "transformer.layer.{}",
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "inner": "ffn.lin1",
        "outer": "ffn.lin2",
        "feed_forward_norm": "output_layer_norm",
    }
    parts_in = Backbone.parts_in

    def __init__(self, config: DistilBertConfig, **kwargs):
        super().__init__(config, pooler=False, **kwargs)
        if config.sinusoidal_pos_embds:
            named_variables(self)["positions/table"].assign(
                sinusoidal_table(config.max_position_embeddings, config.dim)
            )

    def get_config(self) -> dict:
        return {name: value for name, value in super().get_config().items() if name != "pooler"}


class DistilBertTextHead(heads.DenseHead):
    """Dense, ReLU and dense over a text's first token."""

    inner, inner_activation, inner_dropout = "pre_classifier", "relu", False
    dropout_field = "seq_classif_dropout"


class DistilBertTokenHead(heads.DenseHead):
    """Over every token."""

    dropout_field = "dropout"


class DistilBertAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer."""

    dropout_field = "qa_dropout"


class DistilBertMaskedLMHead(heads.MaskedLMHead):
    """Over masked tokens."""

    transform, transform_norm = "vocab_transform", "vocab_layer_norm"
    table, bias = "vocab_projector.weight", "vocab_projector.bias"


FAMILIES = (
    Family(
        model_type="distilbert",
        published="DistilBert",
        config=DistilBertConfig,
        backbone=DistilBertBackbone,
        prefix="distilbert.",
        heads={
            "masked-lm": DistilBertMaskedLMHead,
            "text-classification": DistilBertTextHead,
            "text-embedding": heads.EmbeddingHead,
            "token-classification": DistilBertTokenHead,
            "question-answering": DistilBertAnswerHead,
        },
        foreign=(r"(.*\.)?position_ids", r"vocab_.*", r"pre_classifier\..*", r"classifier\..*", r"qa_outputs\..*"),
    ),
)
