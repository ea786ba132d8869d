"""The Transformer of "Attention Is All You Need" (Vaswani et al., 2017): a subclassed `tf.keras.Model` to read top to bottom.

Section numbers are the paper's. The tensors of its checkpoints are called as `torch.nn.Transformer` calls them (made without
the final norms, which the paper has not got), beside `shared.weight`, the one table of token embeddings.
Shapes: B batch, T target length, S source length, P wanted positions, D model width, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, transposed
from garden.layers import (
    DecoderBlock,
    Dropout,
    Embedding,
    EncoderBlock,
    FeedForward,
    MultiHeadAttention,
    SinusoidalPositions,
    attention_bias,
)
from garden.layers.mesh import in_stages
from garden.models import heads
from garden.models.backbone import Family, dense, initializer, norm
from garden.models.config import Config
from garden.models.encoder_decoder import EncoderDecoder, TargetCache


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """The Transformer's sizes. The defaults are those of the base model (table 3)."""

    vocab_size: int = 37_000
    d_model: int = 512
    d_ff: int = 2_048
    num_layers: int = 6  # of the encoder, and of the decoder
    num_heads: int = 8
    dropout: float = 0.1
    max_position_embeddings: int = 1_024  # tokens of a text at most
    layer_norm_eps: float = 1e-6
    pad_token_id: int = 0
    eos_token_id: int | None = None  # default: what the tokenizer ends texts with
    decoder_start_token_id: int = 0

    sizes = ("vocab_size", "d_model", "d_ff", "num_layers", "num_heads", "max_position_embeddings")
    heads = ("num_heads", "d_model")

    tie_word_embeddings = True

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights: scaled by sqrt(D), embeddings are as large as positions."""
        return self.d_model**-0.5

    @property
    def head_dropout(self) -> float:
        return self.dropout


@keras.saving.register_keras_serializable("garden")
class TransformerBackbone(EncoderDecoder):
    """The encoder and the decoder; inputs and outputs are those of every `EncoderDecoder`."""

    spreads = True

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}

        def attention(name: str) -> MultiHeadAttention:
            return MultiHeadAttention(config.d_model, config.num_heads, dropout=config.dropout, name=name, **made)

        def feed_forward() -> FeedForward:
            return FeedForward(config.d_model, config.d_ff, activation="relu", name="feed_forward", **made)

        # 3.1: each sub-layer's output is LayerNorm(x + Dropout(Sublayer(x))).
        rest = {"norm_epsilon": config.layer_norm_eps, "dropout": config.dropout, **parts}
        # 3.4: one table for sources, targets and the projection to the vocabulary, which is the head's business.
        self.words = Embedding(config.vocab_size, config.d_model, name="words", **made)
        # 3.5: sine and cosine of different frequencies.
        self.positions = SinusoidalPositions(config.max_position_embeddings, config.d_model, name="positions", **parts)
        self.dropout = Dropout(config.dropout, name="dropout", **parts)
        self.encoder = [
            EncoderBlock(attention("attention"), feed_forward(), name=f"encoder_{index}", **rest)
            for index in range(config.num_layers)
        ]
        self.decoder = [
            DecoderBlock(
                attention("attention"),
                feed_forward(),
                cross_attention=attention("cross_attention"),
                name=f"decoder_{index}",
                **rest,
            )
            for index in range(config.num_layers)
        ]
        self.build()

    @property
    def width(self) -> int:
        return self.config.d_model

    def build(self, input_shape=None):
        self.words.build()
        in_stages([*self.encoder, *self.decoder])
        for block in (*self.encoder, *self.decoder):
            block.build((None, None, self.width))

    # `call`, which the base has, encodes the source and decodes the target.

    def embedded(self, ids: tf.Tensor, positions: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the embeddings times sqrt(D), plus the positions (3.4, 3.5, 5.4): [B,T] -> [B,T,D]."""
        x = self.words(ids) * tf.constant(math.sqrt(self.width), self.compute_dtype)
        return self.dropout(x + self.positions(positions), training=training)

    def encode(self, inputs, *, hidden_states: bool = False, training: bool = False) -> dict[str, Any]:
        inputs = self.standardised(inputs)
        segment_ids = inputs["segment_ids"]
        bias = attention_bias(segment_ids)
        states = [self.embedded(inputs["token_ids"], inputs["positions"], training)]
        for block in self.encoder:
            states.append(block(states[-1], bias=bias, training=training))
        outputs = {"sequence": states[-1], "segment_ids": segment_ids}
        return outputs | ({"hidden_states": tuple(states)} if hidden_states else {})

    def decode(
        self,
        inputs,
        source=None,
        *,
        cache: TargetCache | None = None,
        read_positions=None,
        hidden_states: bool = False,
        training: bool = False,
    ) -> dict[str, Any]:
        inputs = self.standardised_target(inputs, None if cache is None else cache.target)
        segment_ids = inputs["target_segment_ids"]
        # With a cache, what stands before is remembered: this target comes behind it.
        cache = None if cache is None else cache.noted(inputs)
        places = tf.range(tf.shape(segment_ids)[1])[None] + (0 if cache is None else cache.length)
        keys = segment_ids if cache is None else cache.target.segment_ids
        key_places = tf.range(tf.shape(keys)[1])[None]
        sources = [source["sequence"]] * len(self.decoder) if cache is None else cache.sources
        source_keys = source["segment_ids"] if cache is None else cache.source_segment_ids

        def biases() -> dict[str, tf.Tensor]:
            # 3.2.3: a target's token sees what stands before it and all of its source.
            seen = {"query_positions": places, "key_positions": key_places, "causal": True}
            return {
                "bias": attention_bias(segment_ids, keys, **seen),
                "source_bias": attention_bias(segment_ids, source_keys),
            }

        states = [self.embedded(inputs["target_ids"], inputs["target_positions"], training)]
        visible, remembered = biases(), []
        for index, block in enumerate(self.decoder):
            read = None
            if read_positions is not None and index == len(self.decoder) - 1:
                # Only some places of the last output are wanted, so only they ask.
                read = read_positions
                segment_ids, places = tf.gather(segment_ids, read, batch_dims=1), tf.gather(places[0], read)
                visible = biases()
            kept = None if cache is None else cache.target.layers[index]
            x = block(states[-1], sources[index], read_positions=read, cache=kept, training=training, **visible)
            if cache is not None:
                x, kept = x
                remembered.append(kept)
            states.append(x)
        outputs = {"sequence": states[-1]}
        if hidden_states:
            outputs["hidden_states"] = tuple(states)
        if cache is not None:
            outputs["cache"] = cache.with_layers(remembered)
        return outputs

    def empty_cache(self, source: Mapping[str, Any], size: int) -> TargetCache:
        return TargetCache.empty(self.decoder, source, size)

    def rules(self) -> list[Rule]:
        rules = [copy("words/table", "shared.weight")]
        for side, blocks in (("encoder", self.encoder), ("decoder", self.decoder)):
            attentions = {"attention": "self_attn", "cross_attention": "multihead_attn"}
            for index in range(len(blocks)):
                block, layer = f"{side}_{index}", f"{side}.layers.{index}"
                paths = ["attention", *(["cross_attention"] if side == "decoder" else []), "feed_forward"]
                for number, path in enumerate(paths, start=1):
                    rules += norm(f"{block}/{path}_path/norm", f"{layer}.norm{number}")
                for path in paths[:-1]:
                    tensor = f"{layer}.{attentions[path]}"
                    rules += [
                        transposed(f"{block}/{path}/query_key_value/kernel", f"{tensor}.in_proj_weight"),
                        copy(f"{block}/{path}/query_key_value/bias", f"{tensor}.in_proj_bias"),
                        *dense(f"{block}/{path}/output", f"{tensor}.out_proj"),
                    ]
                rules += [
                    *dense(f"{block}/feed_forward/inner", f"{layer}.linear1"),
                    *dense(f"{block}/feed_forward/outer", f"{layer}.linear2"),
                ]
        return rules


class TransformerTextHead(heads.DenseHead):
    """Over the decoder's state at a text's last token."""

    reads = "last"


FAMILIES = (
    Family(
        model_type="transformer",
        published="Transformer",
        config=TransformerConfig,
        backbone=TransformerBackbone,
        prefix="transformer.",
        heads={"seq2seq-lm": heads.LanguageModelHead, "text-classification": TransformerTextHead},
        foreign=(r"classifier\..*",),
    ),
)
