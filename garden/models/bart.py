"""BART (Lewis et al., 2020), a post-norm encoder-decoder with learned positions, and mBART (Liu et al., 2020), its pre-norm
twin for many languages.

Checkpoints as the reference implementation (transformers, models/bart and models/mbart) writes them.
Shapes: B batch, P read places, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, fused
from garden.layers import (
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    activation,
)
from garden.models import heads
from garden.models.backbone import Family, dense, initializer, norm
from garden.models.config import Config
from garden.models.encoder_decoder import Stack, StackedEncoderDecoder, segment_lasts, shift_right

EPSILON = 1e-5  # of all norms


@dataclass(frozen=True, kw_only=True)
class BartConfig(Config):
    """BART's sizes, called as in config.json. The defaults are BART-large's."""

    vocab_size: int = 50_265
    d_model: int = 1_024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4_096
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4_096
    max_position_embeddings: int = 1_024
    activation_function: str = "gelu"
    scale_embedding: bool = False  # whether embeddings are multiplied by sqrt(d_model)
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02  # standard deviation of new weights
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int | None = 2
    forced_bos_token_id: int | None = None  # what a written text begins with

    decoder_begins_with = "eos_token_id"
    fixed: ClassVar[Mapping[str, Any]] = {
        "is_decoder": False,
        "is_encoder_decoder": True,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "static_position_embeddings": False,
    }
    sizes = (
        "vocab_size",
        "d_model",
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "decoder_layers",
        "decoder_attention_heads",
        "decoder_ffn_dim",
        "max_position_embeddings",
    )
    heads = ("encoder_attention_heads", "d_model")

    tie_word_embeddings: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        activation(self.activation_function)
        if self.d_model % self.decoder_attention_heads:
            raise ValueError(
                f"decoder_attention_heads: {self.decoder_attention_heads} heads do not divide d_model {self.d_model}"
            )

    @property
    def head_dropout(self) -> float:
        return self.classifier_dropout

    @property
    def initializer_range(self) -> float:
        """Standard deviation of a head's new weights."""
        return self.init_std


@keras.saving.register_keras_serializable("garden")
class BartBackbone(StackedEncoderDecoder):
    """BART's encoder and decoder; inputs and outputs are those of every `EncoderDecoder`."""

    pre_norm: ClassVar[bool] = False  # where norms stand; with True each stack ends with one

    @property
    def words_scale(self) -> float:
        return math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0

    def made_stack(self, side: str) -> Stack:
        config, writes = self.config, side == "decoder"
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.init_std)}
        heads_of_side = getattr(config, f"{side}_attention_heads")

        def attention(name: str) -> MultiHeadAttention:
            return MultiHeadAttention(
                config.d_model, heads_of_side, dropout=config.attention_dropout, name=name, **made
            )

        def block(index: int) -> EncoderBlock:
            feed_forward = FeedForward(
                config.d_model,
                getattr(config, f"{side}_ffn_dim"),
                activation=config.activation_function,
                dropout=config.activation_dropout,
                name="feed_forward",
                **made,
            )
            return (DecoderBlock if writes else EncoderBlock)(
                attention("attention"),
                feed_forward,
                **({"cross_attention": attention("cross_attention")} if writes else {}),
                pre_norm=self.pre_norm,
                norm_epsilon=EPSILON,
                dropout=config.dropout,
                name=f"block_{index}",
                **parts,
            )

        return Stack(
            [block(index) for index in range(getattr(config, f"{side}_layers"))],
            positions=BartPositions(config.max_position_embeddings + 2, config.d_model, name="positions", **made),
            embedding_norm=LayerNorm(EPSILON, name="embedding_norm", **parts),
            final_norm=LayerNorm(EPSILON, name="final_norm", **parts) if self.pre_norm else None,
            dropout=config.dropout,
            block_dropout=getattr(config, f"{side}_layerdrop"),
            name=side,
            **parts,
        )

    def rules(self) -> list[Rule]:
        rules = [copy("words/table", "shared.weight")]
        for stack in (self.encoder, self.decoder):
            side = stack.name
            rules.append(copy(f"{side}/positions/table", f"{side}.embed_positions.weight"))
            rules += norm(f"{side}/embedding_norm", f"{side}.layernorm_embedding")
            if self.pre_norm:
                rules += norm(f"{side}/final_norm", f"{side}.layer_norm")
            for index in range(len(stack.blocks)):
                block, layer = f"{side}/block_{index}", f"{side}.layers.{index}"
                attentions = {"attention": "self_attn"} | ({"cross_attention": "encoder_attn"} if stack.writes else {})
                for ours, theirs in attentions.items():
                    projections = [f"{layer}.{theirs}.{part}_proj" for part in "qkv"]
                    fusion = f"{block}/{ours}/query_key_value"
                    rules += [
                        fused(f"{fusion}/kernel", *(f"{name}.weight" for name in projections)),
                        fused(f"{fusion}/bias", *(f"{name}.bias" for name in projections)),
                        *dense(f"{block}/{ours}/output", f"{layer}.{theirs}.out_proj"),
                        *norm(f"{block}/{ours}_path/norm", f"{layer}.{theirs}_layer_norm"),
                    ]
                rules += [
                    *dense(f"{block}/feed_forward/inner", f"{layer}.fc1"),
                    *dense(f"{block}/feed_forward/outer", f"{layer}.fc2"),
                    *norm(f"{block}/feed_forward_path/norm", f"{layer}.final_layer_norm"),
                ]
        return rules


@keras.saving.register_keras_serializable("garden")
class BartPositions(LearnedPositions):
    """A table whose first two rows hold no position, as fairseq's tables have it."""

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        return super().call(positions + 2)


@dataclass(frozen=True, kw_only=True)
class MBartConfig(BartConfig):
    """mBART's sizes, called as in config.json. The defaults are those of mBART's first checkpoint."""

    decoder_start_token_id: int | None = None  # the target's language, or what a checkpoint says

    decoder_begins_with = None


@keras.saving.register_keras_serializable("garden")
class MBartBackbone(BartBackbone):
    """mBART's encoder and decoder: pre-norm, and a target's last token (its end, or its language) comes round to its front."""

    pre_norm = True

    def shifted(self, ids: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        return shift_right(ids, segment_ids, segment_lasts(ids, segment_ids))


class BartLMHead(heads.VocabularyHead):
    """The token table, and a bias that is not trained: [B,P,D] -> [B,P,V]."""

    marker = "final_logits_bias"
    optional_tensors = ("final_logits_bias",)

    def build(self, input_shape=None):
        super().build(input_shape)
        size = self.config.vocab_size
        self.logits_bias = self.add_weight(name="bias", shape=(size,), initializer="zeros", trainable=False)

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        logits = super().call(outputs, training=training)
        return logits + tf.cast(self.logits_bias, logits.dtype)

    @classmethod
    def trained_in(cls, weights, config) -> bool:
        # Bare checkpoints have all that counts: the token table.
        return True

    def rules(self) -> list[Rule]:
        name = "final_logits_bias"
        bias = Rule("bias", (name,), read=lambda array: array.reshape(-1), write=lambda array: (array[None],))
        return [*super().rules(), bias]


class BartTextHead(heads.DenseHead):
    """Dense, tanh and dense over the decoder's state at a text's last end token."""

    reads = "end"
    inner, outer = "classification_head.dense", "classification_head.out_proj"


class BartAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer, over the decoder's states."""


BART = Family(
    model_type="bart",
    published="Bart",
    config=BartConfig,
    backbone=BartBackbone,
    prefix="model.",
    heads={
        "seq2seq-lm": BartLMHead,
        "masked-lm": BartLMHead,
        "text-classification": BartTextHead,
        "question-answering": BartAnswerHead,
    },
    renamed={"masked-lm": "BartForConditionalGeneration"},
    aliases=(
        ("shared.weight", "encoder.embed_tokens.weight"),
        ("shared.weight", "decoder.embed_tokens.weight"),
        ("shared.weight", "lm_head.weight"),
    ),
    foreign=(
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"(encoder|decoder)\.version",
        r"lm_head\.weight",
        r"final_logits_bias",
        r"classification_head\..*",
        r"qa_outputs\..*",
    ),
)

FAMILIES = (
    BART,
    replace(
        BART,
        model_type="mbart",
        published="MBart",
        config=MBartConfig,
        backbone=MBartBackbone,
        renamed={"masked-lm": "MBartForConditionalGeneration"},
    ),
)
