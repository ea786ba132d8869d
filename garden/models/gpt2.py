"""GPT-2 (Radford et al., 2019): a decoder with learned positions and norms before each part.

Checkpoints as the reference implementation (transformers, models/gpt2) writes them: dense kernels lie there as here, [in, out].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from garden.checkpoints.weight_map import Rule, copy
from garden.layers import (
    Dropout,
    Embedding,
    EncoderBlock,
    FeedForward,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    activation,
)
from garden.models import heads
from garden.models.backbone import Family, initializer, named_variables, norm
from garden.models.config import Config
from garden.models.decoder import DecoderBackbone, DecoderEmbeddingHead, DecoderTextHead, DecoderTokenHead


@dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    """GPT-2's sizes, called as in config.json. The defaults are the smallest published network's."""

    vocab_size: int = 50_257
    n_positions: int = 1_024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # default: 4 x n_embd
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    classifier_dropout: float | None = None  # default: 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02  # standard deviation of new weights
    scale_attn_weights: bool = True  # whether logits are divided by the square root of a head's width
    scale_attn_by_inverse_layer_idx: bool = False  # whether they are divided by the block's number, from 1, too
    bos_token_id: int | None = 50_256
    eos_token_id: int | list[int] | None = 50_256
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    fixed: ClassVar[Mapping[str, Any]] = {"add_cross_attention": False, "quantization_config": None}
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    heads = ("n_head", "n_embd")

    def __post_init__(self):
        super().__post_init__()
        activation(self.activation_function)

    @property
    def longest(self) -> int:
        return self.n_positions

    @property
    def head_dropout(self) -> float:
        return 0.1 if self.classifier_dropout is None else self.classifier_dropout


@keras.saving.register_keras_serializable("garden")
class GPT2Backbone(DecoderBackbone):
    """GPT-2's decoder; inputs and outputs as of `DecoderBackbone`."""

    def __init__(self, config: GPT2Config, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}
        width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        self.words = Embedding(config.vocab_size, width, name="words", **made)
        self.positions = LearnedPositions(config.n_positions, width, name="positions", **made)
        self.dropout = Dropout(config.embd_pdrop, name="dropout", **parts)
        self.blocks = [
            EncoderBlock(
                MultiHeadAttention(
                    width,
                    config.n_head,
                    dropout=config.attn_pdrop,
                    scale=self._scale(index),
                    name="attention",
                    **made,
                ),
                FeedForward(width, inner, activation=config.activation_function, name="feed_forward", **made),
                pre_norm=True,
                norm_epsilon=config.layer_norm_epsilon,
                dropout=config.resid_pdrop,
                name=f"block_{index}",
                **parts,
            )
            for index in range(config.n_layer)
        ]
        self.norm = LayerNorm(config.layer_norm_epsilon, name="norm", **parts)
        self.build()

    @property
    def width(self) -> int:
        return self.config.n_embd

    def build(self, input_shape=None):
        super().build(input_shape)
        if self.blank:
            return
        # What a new network's blocks add to the stream has the same size however many they are, as in the reference.
        variables = named_variables(self)
        for index in range(self.config.n_layer):
            for name in ("attention/output/kernel", "feed_forward/outer/kernel"):
                kernel = variables[f"block_{index}/{name}"]
                kernel.assign(kernel.numpy() * np.float32((2 * self.config.n_layer) ** -0.5))

    def _scale(self, index: int) -> float:
        scale = (self.config.n_embd // self.config.n_head) ** -0.5 if self.config.scale_attn_weights else 1.0
        return scale / (index + 1) if self.config.scale_attn_by_inverse_layer_idx else scale

    def rules(self) -> list[Rule]:
        rules = [copy("words/table", "wte.weight"), copy("positions/table", "wpe.weight"), *norm("norm", "ln_f")]
        for index in range(self.config.n_layer):
            block, layer = f"block_{index}", f"h.{index}"
            rules += [
                *_dense(f"{block}/attention/query_key_value", f"{layer}.attn.c_attn"),
                *_dense(f"{block}/attention/output", f"{layer}.attn.c_proj"),
                *norm(f"{block}/attention_path/norm", f"{layer}.ln_1"),
                *_dense(f"{block}/feed_forward/inner", f"{layer}.mlp.c_fc"),
                *_dense(f"{block}/feed_forward/outer", f"{layer}.mlp.c_proj"),
                *norm(f"{block}/feed_forward_path/norm", f"{layer}.ln_2"),
            ]
        return rules


def _dense(variable: str, tensor: str) -> list[Rule]:
    return [copy(f"{variable}/kernel", f"{tensor}.weight"), copy(f"{variable}/bias", f"{tensor}.bias")]


class GPT2TokenHead(DecoderTokenHead):
    """Over every token."""

    outer = "classifier"


FAMILIES = (
    Family(
        model_type="gpt2",
        published="GPT2",
        config=GPT2Config,
        backbone=GPT2Backbone,
        prefix="transformer.",
        heads={
            "causal-lm": heads.LanguageModelHead,
            "text-classification": DecoderTextHead,
            "text-embedding": DecoderEmbeddingHead,
            "token-classification": GPT2TokenHead,
            "question-answering": heads.QuestionAnsweringHead,
        },
        renamed={"causal-lm": "GPT2LMHeadModel"},
        # Buffers of causal masks; heads that are not asked for, or are tied.
        foreign=(r"h\.\d+\.attn\.(masked_)?bias", r"lm_head\..*", r"score\..*", r"classifier\..*", r"qa_outputs\..*"),
    ),
)
