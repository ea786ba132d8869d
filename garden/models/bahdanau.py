"""The encoder-decoder of "Neural Machine Translation by Jointly Learning to Align and Translate" (Bahdanau et al., 2015).

A bidirectional recurrent encoder, and a recurrent decoder that looks at all of the source before each step. The paper's cell is
the GRU; LSTMs and Elman's units serve too, in several layers. Checkpoints are Garden's own; recurrent tensors are called as
torch.nn.GRU calls them. Differences from the paper, appendix A: the output layer reads the state of its own step, as it does
in most implementations since, and source and target share one table of embeddings.
Shapes: B batch, T target length, S source length, P wanted positions, E width of embeddings and outputs, H of a state,
C = 2H of the source's states, A = H inside attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy
from garden.layers import (
    AdditiveAttention,
    AttentiveRecurrent,
    Dense,
    Dropout,
    Embedding,
    RecurrentMemory,
    RecurrentStack,
)
from garden.layers.additive_attention import same_segment
from garden.layers.recurrent import CELLS, Recurrent
from garden.models.backbone import Family, dense, initializer
from garden.models.config import Config
from garden.models.encoder_decoder import EncoderDecoder
from garden.models.recurrent import RecurrentLanguageHead, recurrent_rules


@dataclass(frozen=True, kw_only=True)
class BahdanauConfig(Config):
    """Sizes; the defaults are the paper's but for the vocabulary."""

    vocab_size: int
    embedding_size: int = 620  # E
    hidden_size: int = 1_000  # H
    num_layers: int = 1  # of the encoder, and of the decoder
    cell: str = "gru"  # or "lstm", "elman"
    dropout: float = 0.1  # of embeddings, between layers, and before the output layer
    pad_token_id: int | None = None
    eos_token_id: int | None = None  # default: what the tokenizer ends texts with
    decoder_start_token_id: int = 0
    tie_word_embeddings: bool = True

    sizes = ("vocab_size", "embedding_size", "hidden_size", "num_layers")
    heads = ()

    def __post_init__(self):
        super().__post_init__()
        if self.cell not in CELLS:
            raise ValueError(f'cell: expected one of {", ".join(CELLS)}, got "{self.cell}"')

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights: products of states keep about their size."""
        return self.hidden_size**-0.5

    @property
    def head_dropout(self) -> float:
        return self.dropout


class BahdanauCache(NamedTuple):
    """What the decoder knows of the target so far, and of its source."""

    layers: tuple[RecurrentMemory, ...]
    source: tf.Tensor  # [B,S,C]
    keys: tf.Tensor  # [B,S,A]
    source_segment_ids: tf.Tensor  # [B,S]


@keras.saving.register_keras_serializable("garden")
class BahdanauBackbone(EncoderDecoder):
    """The encoder and the decoder; inputs and outputs are those of every `EncoderDecoder`.

    `sequence` is [B,T,E], `source_sequence` [B,S,C]; `hidden_states` are the embeddings, the layers' states [B,T,H], and
    `sequence`.
    """

    def __init__(self, config: BahdanauConfig, **kwargs):
        super().__init__(config, **kwargs)
        parts = {"dtype": self.dtype_policy}
        made = {**parts, "initializer": initializer(config.initializer_range)}
        width = config.hidden_size

        def layers(count: int, **options) -> list[Recurrent]:
            cell = CELLS[config.cell]
            return [cell(width, name=f"layer_{index}", **options, **made) for index in range(count)]

        def backward(count: int) -> list[Recurrent]:
            cell = CELLS[config.cell]
            return [cell(width, reverse=True, name=f"layer_{index}_reverse", **made) for index in range(count)]

        self.words = Embedding(config.vocab_size, config.embedding_size, name="words", **made)
        self.dropout = Dropout(config.dropout, name="dropout", **parts)
        self.encoder = RecurrentStack(
            layers(config.num_layers), backward(config.num_layers), dropout=config.dropout, name="encoder", **parts
        )
        self.begin = Dense(width, name="begin", **made)
        self.attentive = AttentiveRecurrent(
            CELLS[config.cell](width, name="cell", **made),
            AdditiveAttention(name="attention", **made),
            name="attentive",
            **parts,
        )
        self.upper = [CELLS[config.cell](width, name=f"upper_{index}", **made) for index in range(1, config.num_layers)]
        self.readout = Dense(2 * config.embedding_size, name="readout", **made)
        self.build()

    @property
    def width(self) -> int:
        return self.config.embedding_size

    def build(self, input_shape=None):
        narrow, state = self.config.embedding_size, self.config.hidden_size
        self.words.build()
        self.encoder.build((None, None, narrow))
        self.begin.build((None, None, state))
        self.attentive.build((None, None, narrow), (None, None, 2 * state))
        for layer in self.upper:
            layer.build((None, None, state))
        self.readout.build((None, None, state + narrow + 2 * state))

    def encode(self, inputs, *, hidden_states: bool = False, training: bool = False) -> dict[str, Any]:
        inputs = self.standardised(inputs)
        x = self.dropout(self.words(inputs["token_ids"]), training=training)
        states = self.encoder(x, inputs["segment_ids"], training=training)
        outputs = {"sequence": states[-1], "segment_ids": inputs["segment_ids"]}
        return outputs | ({"hidden_states": (x, *states)} if hidden_states else {})

    def decode(
        self,
        inputs,
        source=None,
        *,
        cache: BahdanauCache | None = None,
        read_positions=None,
        hidden_states: bool = False,
        training: bool = False,
    ) -> dict[str, Any]:
        target = self.standardised_target(inputs)
        segment_ids = target["target_segment_ids"]
        known = self.empty_cache(source) if cache is None else cache
        words = self.dropout(self.words(target["target_ids"]), training=training)
        y, memory = self.attentive(
            words,
            known.source,
            segment_ids=segment_ids,
            source_segment_ids=known.source_segment_ids,
            begin=self.first_states(segment_ids, known),
            keys=known.keys,
            memory=known.layers[0],
        )
        state, context = tf.split(y, [self.config.hidden_size, 2 * self.config.hidden_size], axis=-1)
        states, memories = [words, state], [memory]
        for layer, before in zip(self.upper, known.layers[1:], strict=True):
            state, memory = layer(self.dropout(state, training=training), segment_ids, memory=before)
            states.append(state)
            memories.append(memory)
        read = tf.concat([state, words, context], axis=-1)
        if read_positions is not None:
            read = tf.gather(read, read_positions, batch_dims=1)
        # Maxout over pairs (Goodfellow et al., 2013).
        pairs = self.readout(self.dropout(read, training=training))
        pairs = tf.reshape(pairs, tf.concat([tf.shape(pairs)[:-1], [self.width, 2]], axis=0))
        outputs = {"sequence": tf.ensure_shape(tf.reduce_max(pairs, axis=-1), [*read.shape[:-1], self.width])}
        if hidden_states:
            outputs["hidden_states"] = (*states, outputs["sequence"])
        if cache is not None:
            outputs["cache"] = cache._replace(layers=tuple(memories))
        return outputs

    def first_states(self, segment_ids_BT: tf.Tensor, known: BahdanauCache) -> tf.Tensor:
        """Returns the state that each place's text begins with, [B,T,H]: from the source's first state, read backwards."""
        same_BTS = same_segment(segment_ids_BT, known.source_segment_ids)
        first_BTS = same_BTS & (tf.cumsum(tf.cast(same_BTS, tf.int32), axis=-1) == 1)
        backward_BSH = known.source[..., self.config.hidden_size :]
        return tf.tanh(self.begin(tf.matmul(tf.cast(first_BTS, backward_BSH.dtype), backward_BSH)))

    def empty_cache(self, source: Mapping[str, Any], size: int | None = None) -> BahdanauCache:
        """Returns what the decoder knows before the first token; it is as large after any number (`size`) of them."""
        sequence = source["sequence"]
        rows = tf.shape(sequence)[0] if sequence.shape[0] is None else sequence.shape[0]
        layers = (self.attentive.cell, *self.upper)
        return BahdanauCache(
            layers=tuple(layer.empty_memory(rows) for layer in layers),
            source=sequence,
            keys=self.attentive.attention.keys_of(sequence),
            source_segment_ids=source["segment_ids"],
        )

    def config_dict(self) -> dict[str, Any]:
        return {**super().config_dict(), "is_encoder_decoder": True}

    def rules(self) -> list[Rule]:
        attention = "attentive/attention"
        return [
            copy("words/table", "embeddings.weight"),
            *recurrent_rules([*self.encoder.forward, *self.encoder.backward], "encoder/", "encoder"),
            *recurrent_rules([self.attentive.cell], "attentive/", "decoder"),
            *recurrent_rules(self.upper, "", "decoder"),
            *dense(f"{attention}/query", "attention.query", bias=False),
            *dense(f"{attention}/key", "attention.key"),
            *dense(f"{attention}/score", "attention.score", bias=False),
            *dense("begin", "begin"),
            *dense("readout", "readout"),
        ]


class BahdanauHead(RecurrentLanguageHead):
    """The vocabulary's logits."""

    backbone_parts = {}


FAMILIES = (
    Family(
        model_type="bahdanau",
        published="Bahdanau",
        config=BahdanauConfig,
        backbone=BahdanauBackbone,
        prefix="bahdanau.",
        heads={"seq2seq-lm": BahdanauHead},
        foreign=(r"lm_head\..*",),
    ),
)
