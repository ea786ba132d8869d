"""BERT (Devlin et al., 2019): a bidirectional post-norm encoder with learned positions and a pooler over the first token.

Checkpoints as the reference implementation (transformers, models/bert) writes them. RoBERTa, DistilBERT and ELECTRA are
this network with differences, which their files state.
Shapes: B batch, T length, P wanted positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, fused
from garden.checkpoints.weights import Weights
from garden.layers import (
    Dense,
    Dropout,
    Embedding,
    EncoderBlock,
    FeedForward,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    activation,
    attention_bias,
    first_positions,
)
from garden.layers.mesh import in_stages
from garden.models import heads
from garden.models.backbone import Backbone, Family, dense, initializer, norm
from garden.models.config import Config


@dataclass(frozen=True, kw_only=True)
class BertConfig(Config):
    """BERT's sizes, called as in config.json. The defaults are BERT-base's."""

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3_072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None  # default: hidden_dropout_prob
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02  # standard deviation of new weights
    pad_token_id: int = 0
    tie_word_embeddings: bool = True  # whether the masked-LM head multiplies by the token table

    fixed: ClassVar[Mapping[str, Any]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    sizes = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    )

    def __post_init__(self):
        super().__post_init__()
        activation(self.hidden_act)

    @property
    def embedding_size(self) -> int:
        """Width of the token table; a dense layer takes it to `hidden_size` where it is another."""
        return self.hidden_size

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


@keras.saving.register_keras_serializable("garden")
class BertBackbone(Backbone):
    """BERT's encoder.

    Inputs: `token_ids` [B,T]; optionally `segment_ids`, `positions`, `type_ids`, each [B,T] int32.
    Outputs: `sequence` [B,T,D]; `pooled` [B,D], of each row's first token that is not padding, when there is a pooler.
    With `read_positions` [B,P] only those places are computed in the last block: `sequence` [B,P,D], `pooled` [B,P,D].
    With `hidden_states=True` also `hidden_states`, a tuple: the embeddings and each block's output.

    Args:
        config: its sizes.
        pooler: whether there is one.
        embeddings: another network, whose tables and their norm this one shares: ELECTRA trains two together.
    """

    spreads = True
    input_names = ("token_ids", "segment_ids", "positions", "type_ids")
    has_types: ClassVar[bool] = True  # a table of sentence types
    tensors: ClassVar[Mapping[str, str]] = {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "wider": "embeddings_project",
        "layer": "encoder.layer.{}",
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "outer": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    """What checkpoints call the parts; those of a layer stand below "layer"."""

    def __init__(self, config: BertConfig, *, pooler: bool = True, embeddings: BertBackbone | None = None, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}
        width, narrow, epsilon = config.hidden_size, config.embedding_size, config.layer_norm_eps
        if embeddings is not None:
            self.words, self.positions = embeddings.words, embeddings.positions
            self.types, self.norm = embeddings.types, embeddings.norm
        else:
            self.words = Embedding(config.vocab_size, narrow, name="words", **made)
            self.positions = LearnedPositions(config.max_position_embeddings, narrow, name="positions", **made)
            self.types = Embedding(config.type_vocab_size, narrow, name="types", **made) if self.has_types else None
            self.norm = LayerNorm(epsilon, name="norm", **parts)
        self.dropout = Dropout(config.hidden_dropout_prob, name="dropout", **parts)
        self.wider = Dense(width, name="wider", **made) if narrow != width else None
        self.blocks = [
            EncoderBlock(
                MultiHeadAttention(
                    width,
                    config.num_attention_heads,
                    dropout=config.attention_probs_dropout_prob,
                    name="attention",
                    **made,
                ),
                FeedForward(width, config.intermediate_size, activation=config.hidden_act, name="feed_forward", **made),
                norm_epsilon=epsilon,
                dropout=config.hidden_dropout_prob,
                name=f"block_{index}",
                **parts,
            )
            for index in range(config.num_hidden_layers)
        ]
        self.pooler = Dense(width, name="pooler", **made) if pooler else None
        self.build()

    def build(self, input_shape=None):
        narrow, width = (None, None, self.config.embedding_size), (None, None, self.config.hidden_size)
        for layer in (self.words, self.positions, self.types, self.norm, self.wider):
            if layer is not None and not layer.built:
                layer.build(narrow)
        in_stages(self.blocks)
        for layer in (*self.blocks, self.pooler):
            if layer is not None:
                layer.build(width)

    def call(self, inputs, *, read_positions=None, hidden_states: bool = False, training: bool = False):
        inputs = self.standardised(inputs)
        segment_ids = inputs["segment_ids"]
        x = self.embedded(inputs, training)
        bias = attention_bias(segment_ids)
        states = [x]
        for block in self.blocks[:-1]:
            x = block(x, bias=bias, training=training)
            states.append(x)
        if read_positions is not None:
            bias = attention_bias(tf.gather(segment_ids, read_positions, batch_dims=1), segment_ids)
        x = self.blocks[-1](x, bias=bias, read_positions=read_positions, training=training)
        outputs = {"sequence": x}
        if self.pooler:
            read = x if read_positions is not None else tf.gather(x, first_positions(segment_ids), batch_dims=1)
            outputs["pooled"] = tf.tanh(self.pooler(read))
        if hidden_states:
            outputs["hidden_states"] = (*states, x)
        return outputs

    def embedded(self, inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Returns the sum of words, positions and types, normalised: what the first block reads, [B,T,D]."""
        x = self.words(inputs["token_ids"]) + self.positions(inputs["positions"])
        if self.types is not None:
            # Without type ids every token is of type 0, whose row then is added once. A table of one row knows no other type,
            # though tokenizers may: those of RoBERTa's relatives number the texts of pairs too.
            given = inputs.get("type_ids") if self.types.size > 1 else None
            x += self.types(tf.constant([[0]]) if given is None else given)
        x = self.dropout(self.norm(x), training=training)
        return x if self.wider is None else self.wider(x)

    def get_config(self) -> dict:
        return {**super().get_config(), "pooler": self.pooler is not None}

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {"pooler": "pooler.dense.weight" in weights, **parts}

    def rules(self) -> list[Rule]:
        names = self.tensors
        rules = [
            copy("words/table", f"{names['words']}.weight"),
            copy("positions/table", f"{names['positions']}.weight"),
            *norm("norm", names["norm"]),
        ]
        if self.types is not None:
            rules.append(copy("types/table", f"{names['types']}.weight"))
        if self.wider is not None:
            rules += dense("wider", names["wider"])
        for index in range(self.config.num_hidden_layers):
            block, layer = f"block_{index}", names["layer"].format(index)
            projections = [f"{layer}.{names[part]}" for part in ("query", "key", "value")]
            rules += [
                fused(f"{block}/attention/query_key_value/kernel", *(f"{name}.weight" for name in projections)),
                fused(f"{block}/attention/query_key_value/bias", *(f"{name}.bias" for name in projections)),
                *dense(f"{block}/attention/output", f"{layer}.{names['output']}"),
                *norm(f"{block}/attention_path/norm", f"{layer}.{names['attention_norm']}"),
                *dense(f"{block}/feed_forward/inner", f"{layer}.{names['inner']}"),
                *dense(f"{block}/feed_forward/outer", f"{layer}.{names['outer']}"),
                *norm(f"{block}/feed_forward_path/norm", f"{layer}.{names['feed_forward_norm']}"),
            ]
        return rules + (dense("pooler", "pooler.dense") if self.pooler else [])


class BertTextHead(heads.DenseHead):
    """Over the pooled token."""

    source = "pooled"
    backbone_parts = {"pooler": True}
    optional_parts = ("pooler",)


class BertTokenHead(heads.DenseHead):
    """Over every token."""

    backbone_parts = {"pooler": False}


class BertAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer."""

    backbone_parts = {"pooler": False}


class BertMaskedLMHead(heads.MaskedLMHead):
    """Over masked tokens."""

    backbone_parts = {"pooler": False}
    transform = "cls.predictions.transform.dense"
    transform_norm = "cls.predictions.transform.LayerNorm"
    table = "cls.predictions.decoder.weight"
    bias, untied_bias = "cls.predictions.bias", "cls.predictions.decoder.bias"


class BertEmbeddingHead(heads.EmbeddingHead):
    """Over all tokens."""

    backbone_parts = {"pooler": False}


class BertPairHead(BertMaskedLMHead):
    """Over masked tokens and, of each text of two parts, whether they belong together: over the pooled token."""

    backbone_parts = {"pooler": True}
    optional_parts = ("pooler",)
    optional_tensors = (r"cls\.seq_relationship\..*",)

    def make_parts(self, backbone: Backbone, made: Mapping[str, Any]) -> None:
        super().make_parts(backbone, made)
        self.pair = Dense(2, name="pair", **made)

    def build(self, input_shape=None):
        self.pair.build((None, self.widths[0]))
        super().build(input_shape)

    def pair_logits(self, pooled: tf.Tensor) -> tf.Tensor:
        """Returns logits of "belongs" and "does not", in this order: [...,D] -> [...,2]."""
        return self.pair(pooled)

    def rules(self) -> list[Rule]:
        return [*super().rules(), *dense("pair", "cls.seq_relationship")]


FAMILIES = (
    Family(
        model_type="bert",
        published="Bert",
        config=BertConfig,
        backbone=BertBackbone,
        prefix="bert.",
        heads={
            "masked-lm": BertMaskedLMHead,
            "masked-lm-with-pairs": BertPairHead,
            "text-embedding": BertEmbeddingHead,
            "text-classification": BertTextHead,
            "token-classification": BertTokenHead,
            "question-answering": BertAnswerHead,
        },
        # Older checkpoints have one of the two.
        aliases=(
            ("cls.predictions.decoder.bias", "cls.predictions.bias"),
            ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ),
        foreign=(r"(.*\.)?position_ids", r"cls\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
    ),
)
