"""What decoder-only networks share: tokens in, blocks that look back inside their own segment, a norm at the end.

A family makes the parts: `words`, perhaps `positions`, `blocks` and `norm`.
Shapes: B batch, T length, P wanted positions, S places of a cache, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import keras
import tensorflow as tf

from garden.checkpoints.weights import Weights
from garden.layers import Dropout, EncoderBlock, KeyValueCache, LearnedPositions, Rotary, attention_bias
from garden.layers.mesh import in_stages
from garden.models import heads
from garden.models.backbone import Backbone
from garden.models.cache import DecoderCache
from garden.models.config import Config


class DecoderBackbone(Backbone):
    """Base of the decoder-only networks.

    Inputs: `token_ids` [B,T]; optionally `segment_ids` and `positions`, each [B,T] int32.
    Outputs: `sequence` [B,T,D], after the last norm. With `read_positions` [B,P] only those places are computed in the last
    block, [B,P,D]. With `hidden_states=True` also `hidden_states`, a tuple: the embeddings, each block's output but
    the last one's, and `sequence`. With a `cache`, also the cache with T more tokens: see `DecoderCache`.
    """

    spreads = True
    positions: LearnedPositions | None = None
    rotary: Rotary | None = None
    dropout: Dropout
    blocks: list[EncoderBlock]
    norm: keras.layers.Layer

    def build(self, input_shape=None):
        in_stages(self.blocks)
        shape = (None, None, self.width)
        for layer in (self.words, self.positions, *self.blocks, self.norm):
            if layer is not None:
                layer.build(shape)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far each block looks back, its own token counted; None: to the beginning."""
        return (None,) * len(self.blocks)

    def call(
        self,
        inputs,
        *,
        read_positions=None,
        hidden_states: bool = False,
        cache: DecoderCache | None = None,
        training: bool = False,
    ):
        if cache is not None and inputs.get("positions") is None:
            token_ids, segment_ids = inputs["token_ids"], inputs.get("segment_ids")
            segment_ids = tf.ones_like(token_ids) if segment_ids is None else segment_ids
            inputs = {**inputs, "positions": cache.next_positions(tf.cast(segment_ids, tf.int32))}
        inputs = self.standardised(inputs)
        keys = inputs
        if cache is not None:
            cache = cache.noted(inputs)
            keys = {"segment_ids": cache.segment_ids, "positions": cache.positions}
        biases = self._biases(inputs, keys, set(self.windows))
        options = {"positions": inputs["positions"], "training": training}
        if self.rotary is not None and self.rotary.at is not None:
            longest = tf.reduce_max(tf.where(inputs["segment_ids"] > 0, inputs["positions"], 0)) + 1
            options["rotary_frequencies"] = self.rotary.at(longest)
        x = self.embedded(inputs, training)
        states, layers = [], []
        for index, (block, window) in enumerate(zip(self.blocks, self.windows, strict=True)):
            states.append(x)
            options["bias"] = biases[window]
            if read_positions is not None and index == len(self.blocks) - 1:
                queries = {name: tf.gather(inputs[name], read_positions, batch_dims=1) for name in keys}
                options |= {"bias": self._biases(queries, keys, {window})[window], "read_positions": read_positions}
            if cache is None:
                x = block(x, **options)
            else:
                x, layer = block(x, cache=cache.layers[index], **options)
                layers.append(layer)
        x = self.norm(x)
        outputs = {"sequence": x}
        if hidden_states:
            outputs["hidden_states"] = (*states, x)
        if cache is not None:
            outputs["cache"] = cache._replace(layers=tuple(layers))
        return outputs

    def embedded(self, inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Returns what the first block reads, [B,T,D]."""
        x = self.words(inputs["token_ids"])
        if self.positions is not None:
            x += self.positions(inputs["positions"])
        return self.dropout(x, training=training)

    def empty_cache(self, batch: int | tf.Tensor, size: int) -> DecoderCache:
        """Returns a cache with room for `size` tokens of each of `batch` texts, padding counted."""
        attentions = [block.attention for block in self.blocks]
        return DecoderCache.empty(
            tuple(
                KeyValueCache.empty(batch, size, part.key_value_heads, part.head_width, self.compute_dtype)
                for part in attentions
            )
        )

    @staticmethod
    def _biases(queries: Mapping[str, tf.Tensor], keys: Mapping[str, tf.Tensor], windows: set) -> dict:
        """Returns the bias of each kind of window."""
        return {
            window: attention_bias(
                queries["segment_ids"],
                keys["segment_ids"],
                query_positions=queries["positions"],
                key_positions=keys["positions"],
                causal=True,
                window=window,
            )
            for window in windows
        }


class DecoderTextHead(heads.DenseHead):
    """Over a text's last token, which has seen all of it."""

    reads = "last"
    outer, bias = "score", False
    dropout_field = None

    @classmethod
    def trained_in(cls, weights: Weights, config: Config) -> bool:
        # Token classifiers may call their layer so too, and theirs has a bias.
        return cls.marker in weights and f"{cls.outer}.bias" not in weights


class DecoderEmbeddingHead(heads.EmbeddingHead):
    """Over a text's last token, which has seen all of it."""

    pooling = "last"


class DecoderTokenHead(heads.DenseHead):
    """Over every token."""

    outer: ClassVar[str] = "score"

    @classmethod
    def trained_in(cls, weights: Weights, config: Config) -> bool:
        return cls.marker in weights and f"{cls.outer}.bias" in weights
