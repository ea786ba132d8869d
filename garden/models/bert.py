"""BERT (Devlin et al., 2019): a bidirectional post-norm encoder with learned positions and a pooler over the first token.

Checkpoints as the reference implementation (transformers, models/bert) writes them.
Shapes: B batch, T length, P wanted positions, D model width, V vocabulary, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, fused, transposed
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
)
from garden.models.backbone import Backbone, Config, Family, initializer


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

    def __post_init__(self):
        activation(self.hidden_act)
        sizes = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size"
        for name in f"{sizes} max_position_embeddings type_vocab_size".split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}"
            )


@keras.saving.register_keras_serializable("garden")
class BertBackbone(Backbone):
    """BERT's encoder.

    Inputs: `token_ids` [B,T]; optionally `segment_ids`, `positions`, `type_ids`, each [B,T] int32.
    Outputs: `sequence` [B,T,D]; `pooled` [B,D], of each row's first token that is not padding, when there is a pooler.
    With `read_positions` [B,P] only those places are computed in the last block: `sequence` [B,P,D], `pooled` [B,P,D].
    With `hidden_states=True` also `hidden_states`, a tuple: the embeddings and each block's output.
    """

    input_names = ("token_ids", "segment_ids", "positions", "type_ids")

    def __init__(self, config: BertConfig, *, pooler: bool = True, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.words = Embedding(config.vocab_size, width, name="words", **made)
        self.positions = LearnedPositions(config.max_position_embeddings, width, name="positions", **made)
        self.types = Embedding(config.type_vocab_size, width, name="types", **made)
        self.norm = LayerNorm(epsilon, name="norm", **parts)
        self.dropout = Dropout(config.hidden_dropout_prob, name="dropout", **parts)
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

    def call(self, inputs, *, read_positions=None, hidden_states: bool = False, training: bool = False):
        inputs = self.standardised(inputs)
        segment_ids, type_ids = inputs["segment_ids"], inputs.get("type_ids")
        x = self.words(inputs["token_ids"]) + self.positions(inputs["positions"])
        # Without type ids every token is of type 0, whose row then is added once.
        x += self.types(tf.constant([[0]]) if type_ids is None else type_ids)
        x = self.dropout(self.norm(x), training=training)
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

    def get_config(self) -> dict:
        return {**super().get_config(), "pooler": self.pooler is not None}

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_size)
        layers = [self.words, self.positions, self.types, self.norm, *self.blocks]
        for layer in [*layers, self.pooler] if self.pooler else layers:
            layer.build(shape)

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {"pooler": "pooler.dense.weight" in weights, **parts}

    def rules(self) -> list[Rule]:
        rules = [
            copy("words/table", "embeddings.word_embeddings.weight"),
            copy("positions/table", "embeddings.position_embeddings.weight"),
            copy("types/table", "embeddings.token_type_embeddings.weight"),
            *norm("norm", "embeddings.LayerNorm"),
        ]
        for index in range(self.config.num_hidden_layers):
            block, layer = f"block_{index}", f"encoder.layer.{index}"
            self_attention = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
            rules += [
                fused(f"{block}/attention/query_key_value/kernel", *(f"{name}.weight" for name in self_attention)),
                fused(f"{block}/attention/query_key_value/bias", *(f"{name}.bias" for name in self_attention)),
                *dense(f"{block}/attention/output", f"{layer}.attention.output.dense"),
                *norm(f"{block}/attention_path/norm", f"{layer}.attention.output.LayerNorm"),
                *dense(f"{block}/feed_forward/inner", f"{layer}.intermediate.dense"),
                *dense(f"{block}/feed_forward/outer", f"{layer}.output.dense"),
                *norm(f"{block}/feed_forward_path/norm", f"{layer}.output.LayerNorm"),
            ]
        return rules + (dense("pooler", "pooler.dense") if self.pooler else [])


class ClassificationHead(keras.layers.Layer):
    """Dropout and a dense layer over the pooled token: backbone outputs -> logits [B,C] or [B,P,C]."""

    backbone_parts = {"pooler": True}
    optional_parts = ("pooler",)  # that checkpoints may lack: they are trained with the head then
    marker = "classifier.weight"

    def __init__(self, backbone: BertBackbone, classes: int, **kwargs):
        super().__init__(**kwargs)
        config = backbone.config
        rate = config.classifier_dropout
        self.dropout = Dropout(config.hidden_dropout_prob if rate is None else rate, dtype=self.dtype_policy)
        self.output_projection = Dense(
            classes, initializer=initializer(config.initializer_range), name="output", dtype=self.dtype_policy
        )
        self.width = config.hidden_size
        self.build()

    def build(self, input_shape=None):
        self.output_projection.build((None, self.width))

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.output_projection(self.dropout(outputs["pooled"], training=training))

    def rules(self) -> list[Rule]:
        return dense("output", "classifier")


class MaskedLMHead(keras.layers.Layer):
    """Dense, activation, norm, then a product with the token table: `sequence` [B,P,D] -> logits [B,P,V]."""

    backbone_parts = {"pooler": False}
    optional_parts = ()
    marker = "cls.predictions.transform.dense.weight"

    def __init__(self, backbone: BertBackbone, **kwargs):
        super().__init__(**kwargs)
        config = backbone.config
        made = {"initializer": initializer(config.initializer_range), "dtype": self.dtype_policy}
        self.config = config
        self.transform = Dense(config.hidden_size, name="transform", **made)
        self.norm = LayerNorm(config.layer_norm_eps, name="norm", dtype=self.dtype_policy)
        self.activation = activation(config.hidden_act)
        self.tied = config.tie_word_embeddings
        if self.tied:
            # In a function: Keras would count a layer in an attribute, list or tuple as the head's.
            self._table = lambda: backbone.words
        else:
            self.words = Embedding(config.vocab_size, config.hidden_size, name="words", **made)
            self._table = lambda: self.words
        self.build()

    def build(self, input_shape=None):
        for part in (self.transform, self.norm, *(() if self.tied else (self.words,))):
            part.build((None, None, self.config.hidden_size))
        self.bias = self.add_weight(name="bias", shape=(self.config.vocab_size,), initializer="zeros")

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        x = self.norm(self.activation(self.transform(outputs["sequence"])))
        return self._table().logits(x) + tf.cast(self.bias, x.dtype)

    def rules(self) -> list[Rule]:
        rules = [
            *dense("transform", "cls.predictions.transform.dense"),
            *norm("norm", "cls.predictions.transform.LayerNorm"),
        ]
        if self.tied:
            return [*rules, copy("bias", "cls.predictions.bias")]
        # Untied, transformers adds the decoder's own bias, and leaves the other one unread in the checkpoint.
        biases = ("cls.predictions.decoder.bias", "cls.predictions.bias")
        return [
            *rules,
            copy("words/table", "cls.predictions.decoder.weight"),
            Rule("bias", biases, read=lambda decoder, unread: decoder, write=lambda bias: (bias, bias)),
        ]


def first_positions(segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns the index of each row's first token that is not padding: [B,T] -> [B] int32."""
    return tf.argmax(tf.cast(segment_ids > 0, tf.int32), axis=1, output_type=tf.int32)


def dense(variable: str, tensor: str) -> list[Rule]:
    return [transposed(f"{variable}/kernel", f"{tensor}.weight"), copy(f"{variable}/bias", f"{tensor}.bias")]


def norm(variable: str, tensor: str) -> list[Rule]:
    return [copy(f"{variable}/scale", f"{tensor}.weight"), copy(f"{variable}/bias", f"{tensor}.bias")]


FAMILY = Family(
    model_type="bert",
    config=BertConfig,
    backbone=BertBackbone,
    prefix="bert.",
    heads={"text-classification": ClassificationHead, "masked-lm": MaskedLMHead},
    architectures={
        "backbone": "BertModel",
        "text-classification": "BertForSequenceClassification",
        "masked-lm": "BertForMaskedLM",
    },
    # Older checkpoints have one of the two.
    aliases=(
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    foreign=(r"(.*\.)?position_ids", r"cls\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
)
BertBackbone.family = FAMILY
