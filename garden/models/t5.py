"""T5 (Raffel et al., 2020), T5 v1.1, Flan-T5, mT5 (Xue et al., 2021) and umT5 (Chung et al., 2023): pre-norm encoder-decoders
without biases, whose attention knows distances instead of positions and does not scale its logits.

Checkpoints as the reference implementation (transformers, models/t5) writes them.
Shapes: B batch, P read places, D model width, V vocabulary.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, fused
from garden.checkpoints.weights import Weights
from garden.layers import DecoderBlock, EncoderBlock, FeedForward, MultiHeadAttention, RMSNorm, activation
from garden.models import heads
from garden.models.backbone import Family, Unwritten, blank, dense, initializer, norm
from garden.models.config import Config
from garden.models.encoder_decoder import RelativePositionBias, Stack, StackedEncoderDecoder


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    """T5's sizes, called as in config.json. The defaults are T5-small's."""

    vocab_size: int = 32_128
    d_model: int = 512
    d_kv: int = 64  # width of a head; heads need not divide the model's width
    d_ff: int = 2_048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # default: num_layers
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "relu"  # an activation, or "gated-" and one
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    classifier_dropout: float = 0.0
    initializer_factor: float = 1.0  # of new weights' standard deviations
    tie_word_embeddings: bool = True  # whether the head multiplies by the token table
    scale_decoder_outputs: bool | None = None  # by 1 / sqrt(d_model), before the head; default: as tie_word_embeddings
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    fixed: ClassVar[Mapping[str, Any]] = {"is_decoder": False}
    sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    heads = ()

    def __post_init__(self):
        super().__post_init__()
        if self.relative_attention_num_buckets < 4 or self.relative_attention_num_buckets % 4:
            raise ValueError(
                f"relative_attention_num_buckets: expected a multiple of 4, got {self.relative_attention_num_buckets}"
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                "relative_attention_max_distance: expected more than half of relative_attention_num_buckets, got "
                f"{self.relative_attention_max_distance}"
            )
        if not re.fullmatch(r"(gated-)?[^-]+", self.feed_forward_proj):
            raise ValueError(
                f'feed_forward_proj: expected an activation, or "gated-" and one, got "{self.feed_forward_proj}"'
            )
        activation(self.activation)

    @property
    def activation(self) -> str:
        """The feed-forward network's activation. "gated-gelu" means the approximation."""
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]

    @property
    def gated(self) -> bool:
        """Whether the feed-forward network has a gate."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def scales(self) -> bool:
        """Whether the decoder's states are scaled before the head."""
        given = self.scale_decoder_outputs
        return self.tie_word_embeddings if given is None else given

    @property
    def head_dropout(self) -> float:
        return self.classifier_dropout

    @property
    def initializer_range(self) -> float:
        """Standard deviation of a head's new weights."""
        return self.initializer_factor * self.d_model**-0.5

    def settled(self, weights: Weights) -> T5Config:
        # config.json says of some checkpoints with a table of their own that it is tied; some have the tied one twice.
        own, table = "lm_head.weight", "shared.weight"
        tied = own not in weights or (table in weights and np.array_equal(weights[own], weights[table]))
        return replace(self, tie_word_embeddings=tied, scale_decoder_outputs=self.scales)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "scale_decoder_outputs": self.scales}


@keras.saving.register_keras_serializable("garden")
class T5Initializer(keras.initializers.Initializer):
    """Normal, with a standard deviation of `factor` / sqrt(inputs); queries' columns by 1 / sqrt(head width) less.

    Logits are not scaled: that is in the queries' weights.
    """

    def __init__(self, factor: float, width: int, heads: int, head_width: int):
        self.factor, self.width, self.heads, self.head_width = factor, width, heads, head_width
        # A sequence of its own: Keras's own begins anew with `set_random_seed` in later versions than 3.12 only.
        self._seeds = random.Random(random.randint(1, 10**9))

    @property
    def unwritten(self) -> bool:
        """Whether weights are made that a checkpoint will fill."""
        return blank()

    def __call__(self, shape, dtype=None):
        if self.unwritten:
            return Unwritten()(shape, dtype)
        inner = self.heads * self.head_width
        seed = self._seeds.randint(1, 10**9)
        values = keras.random.normal(shape, stddev=self.factor * shape[0] ** -0.5, dtype=dtype, seed=seed)
        if tuple(shape) != (self.width, 3 * inner):
            return values
        return values * tf.repeat(tf.constant([self.head_width**-0.5, 1, 1], values.dtype), inner)

    def get_config(self) -> dict:
        return {"factor": self.factor, "width": self.width, "heads": self.heads, "head_width": self.head_width}


@keras.saving.register_keras_serializable("garden")
class T5Backbone(StackedEncoderDecoder):
    """T5's encoder and decoder; inputs and outputs are those of every `EncoderDecoder`.

    Positions are not read: attention counts places. With `decoder=False` it is the encoder alone.
    """

    each_block_counts: ClassVar[bool] = False  # whether every block has numbers for distances, or the first for all
    bounded = False

    @property
    def words_stddev(self) -> float:
        return self.config.initializer_factor

    @property
    def foreign(self) -> tuple[str, ...]:
        return super().foreign if self.decoder else (*super().foreign, r"decoder\..*")

    def made_stack(self, side: str) -> Stack:
        config, writes = self.config, side == "decoder"
        parts = {"dtype": self.dtype_policy}
        draw = T5Initializer(config.initializer_factor, config.d_model, config.num_heads, config.d_kv)
        made = {**parts, "bias": False, "initializer": draw}
        # Published checkpoints go beyond float16 in the stream between blocks and in the last product before it.
        wide = {"dtype": "float32"} if self.compute_dtype == "float16" else parts
        count = config.num_decoder_layers if writes and config.num_decoder_layers is not None else config.num_layers

        def attention(name: str) -> MultiHeadAttention:
            return MultiHeadAttention(
                config.d_model,
                config.num_heads,
                head_width=config.d_kv,
                scale=1.0,
                dropout=config.dropout_rate,
                name=name,
                **made,
            )

        def block(index: int) -> EncoderBlock:
            feed_forward = FeedForward(
                config.d_model,
                config.d_ff,
                activation=config.activation,
                gated=config.gated,
                dropout=config.dropout_rate,
                outer_dtype="float32" if wide is not parts else None,
                name="feed_forward",
                **made,
            )
            return (DecoderBlock if writes else EncoderBlock)(
                attention("attention"),
                feed_forward,
                **({"cross_attention": attention("cross_attention")} if writes else {}),
                pre_norm=True,
                norm="rms",
                norm_epsilon=config.layer_norm_epsilon,
                dropout=config.dropout_rate,
                name=f"block_{index}",
                **wide,
            )

        return Stack(
            [block(index) for index in range(count)],
            relative=[
                RelativePositionBias(
                    config.relative_attention_num_buckets,
                    config.relative_attention_max_distance,
                    config.num_heads,
                    both_ways=not writes,
                    initializer=initializer(config.initializer_range),
                    name=f"relative_{index}",
                    **parts,
                )
                for index in range(count if self.each_block_counts else 1)
            ],
            final_norm=RMSNorm(config.layer_norm_epsilon, name="final_norm", **parts),
            dropout=config.dropout_rate,
            final_dropout=config.dropout_rate,
            name=side,
            **parts,
        )

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {"decoder": any(name.startswith("decoder.") for name in weights), **parts}

    def rules(self) -> list[Rule]:
        rules = [copy("words/table", "shared.weight")]
        for stack in (self.encoder, self.decoder):
            if stack is None:
                continue
            side = stack.name
            rules += norm(f"{side}/final_norm", f"{side}.final_layer_norm", bias=False)
            for index in range(len(stack.relative)):
                table = f"{side}.block.{index}.layer.0.SelfAttention.relative_attention_bias.weight"
                rules.append(copy(f"{side}/relative_{index}/table", table))
            attentions = {"attention": "SelfAttention"} | (
                {"cross_attention": "EncDecAttention"} if stack.writes else {}
            )
            for index in range(len(stack.blocks)):
                block, layers = f"{side}/block_{index}", f"{side}.block.{index}.layer"
                for number, (ours, theirs) in enumerate(attentions.items()):
                    layer = f"{layers}.{number}"
                    projections = [f"{layer}.{theirs}.{part}.weight" for part in "qkv"]
                    rules += [
                        fused(f"{block}/{ours}/query_key_value/kernel", *projections),
                        *dense(f"{block}/{ours}/output", f"{layer}.{theirs}.o", bias=False),
                        *norm(f"{block}/{ours}_path/norm", f"{layer}.layer_norm", bias=False),
                    ]
                layer = f"{layers}.{len(attentions)}"
                inner = ("wi_0", "wi_1") if self.config.gated else ("wi",)
                rules += [
                    fused(
                        f"{block}/feed_forward/inner/kernel",
                        *(f"{layer}.DenseReluDense.{name}.weight" for name in inner),
                    ),
                    *dense(f"{block}/feed_forward/outer", f"{layer}.DenseReluDense.wo", bias=False),
                    *norm(f"{block}/feed_forward_path/norm", f"{layer}.layer_norm", bias=False),
                ]
        return rules

    def config_dict(self) -> dict[str, Any]:
        values = super().config_dict()
        if self.decoder is None:
            values["architectures"] = [f"{self.family.published}EncoderModel"]
        return values


@keras.saving.register_keras_serializable("garden")
class MT5Backbone(T5Backbone):
    """mT5's encoder and decoder: T5's."""


@keras.saving.register_keras_serializable("garden")
class UMT5Backbone(T5Backbone):
    """umT5's encoder and decoder: T5's, with numbers for distances in every block."""

    each_block_counts = True


@dataclass(frozen=True, kw_only=True)
class MT5Config(T5Config):
    """mT5's sizes, called as in config.json. The defaults are mT5-small's."""

    vocab_size: int = 250_112
    d_ff: int = 1_024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    tie_word_embeddings: bool = False

    @property
    def scales(self) -> bool:
        return False  # whatever config.json says


@dataclass(frozen=True, kw_only=True)
class UMT5Config(MT5Config):
    """umT5's sizes, called as in config.json. The defaults are umT5-small's."""

    @property
    def scales(self) -> bool:
        return T5Config.scales.fget(self)


class T5LMHead(heads.LanguageModelHead):
    """The token table, after a scaling by 1 / sqrt(D), or a table of its own: [B,P,D] -> [B,P,V]."""

    def transformed(self, x: tf.Tensor) -> tf.Tensor:
        return x * tf.constant(self.config.d_model**-0.5, x.dtype) if self.config.scales else x


class T5TextHead(heads.DenseHead):
    """Dense, tanh and dense over the decoder's state at a text's last end token."""

    reads = "end"
    inner, outer = "classification_head.dense", "classification_head.out_proj"


class T5TokenHead(heads.DenseHead):
    """Over every token's state in the encoder."""

    backbone_parts: ClassVar[Mapping[str, Any]] = {"decoder": False}


class T5AnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer, over the decoder's states."""


T5 = Family(
    model_type="t5",
    published="T5",
    config=T5Config,
    backbone=T5Backbone,
    prefix="",
    prefixes={"text-classification": "transformer.", "token-classification": "transformer."},
    heads={
        "seq2seq-lm": T5LMHead,
        "text-classification": T5TextHead,
        "token-classification": T5TokenHead,
        "question-answering": T5AnswerHead,
    },
    aliases=(
        ("shared.weight", "encoder.embed_tokens.weight"),
        ("shared.weight", "decoder.embed_tokens.weight"),
    ),
    foreign=(
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        r"lm_head\.weight",
        r"classification_head\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
    ),
)

FAMILIES = (
    T5,
    replace(T5, model_type="mt5", published="MT5", config=MT5Config, backbone=MT5Backbone),
    replace(T5, model_type="umt5", published="UMT5", config=UMT5Config, backbone=UMT5Backbone),
)
