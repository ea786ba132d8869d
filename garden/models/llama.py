"""Llama 2 and 3 (Touvron et al., 2023), Mistral (Jiang et al., 2023), Qwen 2 and 3 (Yang et al., 2024, 2025): one decoder with
rotary positions, RMS norms, gated feed-forward networks and shared key/value heads. The configs state the differences.

Checkpoints as the reference implementation (transformers, models/llama and its relatives) writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import keras

from garden.checkpoints.weight_map import Rule, copy, fused
from garden.layers import (
    Dropout,
    Embedding,
    EncoderBlock,
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    Rotary,
    activation,
    scaled_rotary,
)
from garden.models import heads
from garden.models.backbone import Family, dense, initializer, norm
from garden.models.config import Config
from garden.models.decoder import DecoderBackbone, DecoderEmbeddingHead, DecoderTextHead, DecoderTokenHead


@dataclass(frozen=True, kw_only=True)
class RotaryDecoderConfig(Config):
    """What the family's configs have in common, called as in config.json."""

    vocab_size: int = 32_000
    hidden_size: int = 4_096
    intermediate_size: int = 11_008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # default: as many as there are attention heads
    head_dim: int | None = None  # default: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2_048
    initializer_range: float = 0.02  # standard deviation of new weights
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None  # see `garden.layers.scaled_rotary`
    attention_dropout: float = 0.0
    classifier_dropout: float | None = None  # default: 0.1
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    fixed: ClassVar[Mapping[str, Any]] = {"quantization_config": None}
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    )
    heads = ()

    def __post_init__(self):
        super().__post_init__()
        activation(self.hidden_act)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}"
            )
        if self.key_value_heads < 1 or self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_key_value_heads: {self.key_value_heads} heads do not divide {self.num_attention_heads} heads"
            )
        _ = self.rotary, self.windows  # their errors

    @property
    def key_value_heads(self) -> int:
        """K, key/value heads."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> int:
        """H, width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rotary(self) -> Rotary:
        """How queries and keys turn."""
        return scaled_rotary(self.head_width, self.rope_theta, self.rope_scaling, self.max_position_embeddings)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far each block looks back, its own token counted; None: to the beginning."""
        return (None,) * self.num_hidden_layers

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """Whether there are biases: of queries, keys and values; of attention's output; of the feed-forward network."""
        return False, False, False

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normalised before they are rotated."""
        return False

    @property
    def head_dropout(self) -> float:
        return 0.1 if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str | Path = "config.json") -> RotaryDecoderConfig:
        # transformers 5 has one dictionary, `rope_parameters`, for the base and its scaling.
        rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
        if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
            raise ValueError(f"{where}: rope_scaling: expected one object for all layers, got {rope!r}")
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        for name in ("original_max_position_embeddings", "partial_rotary_factor"):
            if values.get(name) is not None:
                scaling[name] = values[name]
        theta = rope.get("rope_theta") or values.get("rope_theta") or cls.rope_theta
        if set(scaling) <= {"rope_type", "type"} and set(scaling.values()) <= {"default"}:
            scaling = None
        return super().from_dict({**values, "rope_theta": theta, "rope_scaling": scaling}, where)

    def to_dict(self) -> dict[str, Any]:
        # In full: some of the reference's configs know no default.
        resolved = {"num_key_value_heads": self.key_value_heads, "head_dim": self.head_width}
        return {**super().to_dict(), **resolved}


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(RotaryDecoderConfig):
    """Llama's sizes. The defaults are Llama-2-7B's."""

    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        return self.attention_bias, self.attention_bias, self.mlp_bias


@dataclass(frozen=True, kw_only=True)
class MistralConfig(RotaryDecoderConfig):
    """Mistral's sizes. The defaults are Mistral-7B's."""

    intermediate_size: int = 14_336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131_072
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    sliding_window: int | None = 4_096  # None: there is none

    @property
    def windows(self) -> tuple[int | None, ...]:
        return (_window(self.sliding_window),) * self.num_hidden_layers


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(RotaryDecoderConfig):
    """Qwen 2's sizes. The defaults are Qwen2-7B's of the reference implementation."""

    vocab_size: int = 151_936
    intermediate_size: int = 22_016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32_768
    use_sliding_window: bool = False
    sliding_window: int | None = 4_096
    max_window_layers: int = 28  # with a window: how many of the first blocks have none
    layer_types: list | None = None  # instead: "full_attention" or "sliding_attention" for each block

    @property
    def windows(self) -> tuple[int | None, ...]:
        window = _window(self.sliding_window) if self.use_sliding_window else None
        if self.layer_types is None:
            full = self.max_window_layers
            return tuple(None if index < full else window for index in range(self.num_hidden_layers))
        kinds = {"full_attention": None, "sliding_attention": window}
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types: expected {self.num_hidden_layers} kinds, one a layer, got {len(self.layer_types)}"
            )
        for kind in self.layer_types:
            if kind not in kinds:
                raise ValueError(f'layer_types: "{kind}" is not supported; supported: {", ".join(kinds)}')
            if kind == "sliding_attention" and window is None:
                raise ValueError("layer_types: sliding_attention needs use_sliding_window and a sliding_window")
        return tuple(kinds[kind] for kind in self.layer_types)

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        return True, False, False


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(Qwen2Config):
    """Qwen 3's sizes. The defaults are Qwen3-8B's of the reference implementation."""

    head_dim: int = 128
    attention_bias: bool = False

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        return self.attention_bias, self.attention_bias, False

    @property
    def head_norms(self) -> bool:
        return True


def _window(size: int | None) -> int | None:
    if size is not None and size < 1:
        raise ValueError(f"sliding_window: expected a positive number, got {size}")
    return size


@keras.saving.register_keras_serializable("garden")
class LlamaBackbone(DecoderBackbone):
    """Llama's decoder; inputs and outputs as of `DecoderBackbone`."""

    bounded = False

    def __init__(self, config: RotaryDecoderConfig, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}
        width, epsilon = config.hidden_size, config.rms_norm_eps
        query_bias, output_bias, feed_forward_bias = config.biases
        self.rotary = config.rotary
        self.words = Embedding(config.vocab_size, width, name="words", **made)
        self.dropout = Dropout(0.0, name="dropout", **parts)
        self.blocks = [
            EncoderBlock(
                MultiHeadAttention(
                    width,
                    config.num_attention_heads,
                    key_value_heads=config.key_value_heads,
                    head_width=config.head_width,
                    dropout=config.attention_dropout,
                    bias=query_bias,
                    output_bias=output_bias,
                    rotary_frequencies=self.rotary.frequencies,
                    rotary_scale=self.rotary.scale,
                    head_norm_epsilon=epsilon if config.head_norms else None,
                    name="attention",
                    **made,
                ),
                FeedForward(
                    width,
                    config.intermediate_size,
                    activation=config.hidden_act,
                    gated=True,
                    bias=feed_forward_bias,
                    name="feed_forward",
                    **made,
                ),
                pre_norm=True,
                norm="rms",
                norm_epsilon=epsilon,
                name=f"block_{index}",
                **parts,
            )
            for index in range(config.num_hidden_layers)
        ]
        self.norm = RMSNorm(epsilon, name="norm", **parts)
        self.build()

    @property
    def windows(self) -> tuple[int | None, ...]:
        return self.config.windows

    def config_dict(self) -> dict[str, Any]:
        values = super().config_dict()
        # As transformers 5 says it, beside what others read.
        scaling = {"rope_type": "default", **(self.config.rope_scaling or {})}
        return {**values, "rope_parameters": {**scaling, "rope_theta": self.config.rope_theta}}

    def rules(self) -> list[Rule]:
        config = self.config
        query_bias, output_bias, feed_forward_bias = config.biases
        sizes = [n * config.head_width for n in (config.num_attention_heads, *[config.key_value_heads] * 2)]
        rules = [copy("words/table", "embed_tokens.weight"), *norm("norm", "norm", bias=False)]
        for index in range(config.num_hidden_layers):
            block, layer = f"block_{index}", f"layers.{index}"
            projections = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
            inner = [f"{layer}.mlp.{part}_proj" for part in ("gate", "up")]
            rules += [
                *_side_by_side(f"{block}/attention/query_key_value", projections, sizes, query_bias),
                *dense(f"{block}/attention/output", f"{layer}.self_attn.o_proj", bias=output_bias),
                *norm(f"{block}/attention_path/norm", f"{layer}.input_layernorm", bias=False),
                *_side_by_side(f"{block}/feed_forward/inner", inner, [config.intermediate_size] * 2, feed_forward_bias),
                *dense(f"{block}/feed_forward/outer", f"{layer}.mlp.down_proj", bias=feed_forward_bias),
                *norm(f"{block}/feed_forward_path/norm", f"{layer}.post_attention_layernorm", bias=False),
            ]
            if config.head_norms:
                for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                    rules += norm(f"{block}/attention/{ours}", f"{layer}.self_attn.{theirs}", bias=False)
        return rules


def _side_by_side(variable: str, tensors: list[str], sizes: list[int], bias: bool) -> list[Rule]:
    return [
        fused(f"{variable}/{ours}", *(f"{tensor}.{theirs}" for tensor in tensors), sizes=sizes)
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
        if ours == "kernel" or bias
    ]


@keras.saving.register_keras_serializable("garden")
class MistralBackbone(LlamaBackbone):
    """Mistral's decoder: Llama's."""


@keras.saving.register_keras_serializable("garden")
class Qwen2Backbone(LlamaBackbone):
    """Qwen 2's decoder: Llama's."""


@keras.saving.register_keras_serializable("garden")
class Qwen3Backbone(LlamaBackbone):
    """Qwen 3's decoder: Llama's."""


LLAMA = Family(
    model_type="llama",
    published="Llama",
    config=LlamaConfig,
    backbone=LlamaBackbone,
    prefix="model.",
    heads={
        "causal-lm": heads.LanguageModelHead,
        "text-classification": DecoderTextHead,
        "text-embedding": DecoderEmbeddingHead,
        "token-classification": DecoderTokenHead,
        "question-answering": heads.QuestionAnsweringHead,
    },
    prefixes={"question-answering": "transformer."},
    foreign=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", r"lm_head\..*", r"score\..*", r"qa_outputs\..*"),
)

FAMILIES = (
    LLAMA,
    replace(
        LLAMA, model_type="mistral", published="Mistral", config=MistralConfig, backbone=MistralBackbone, prefixes={}
    ),
    replace(LLAMA, model_type="qwen2", published="Qwen2", config=Qwen2Config, backbone=Qwen2Backbone),
    replace(LLAMA, model_type="qwen3", published="Qwen3", config=Qwen3Config, backbone=Qwen3Backbone),
)
