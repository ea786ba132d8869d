"""What encoder-decoder families share: a source is read once, and a target, token by token, attends to it.

`EncoderDecoder` is the contract that tasks rely on, whatever the network is made of; `StackedEncoderDecoder` is its shape
for networks of attention blocks, whose families make two stacks.
Shapes: B batch, T target length, S source length, C places of a cache, P wanted positions, D model width, N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from garden.layers import DecoderBlock, Dropout, Embedding, KeyValueCache, KeyValues, attention_bias, segment_positions
from garden.layers.mesh import in_stages
from garden.models.backbone import Backbone, initializer
from garden.models.cache import DecoderCache
from garden.models.config import Config


class EncoderDecoder(Backbone):
    """Base of networks that read a source and write a target.

    Inputs: `token_ids`, `segment_ids`, `positions` [B,S] are the source; `target_ids`, `target_segment_ids` and
    `target_positions` [B,T] what the decoder reads: the target behind a start token. Only the ids must be given; without
    `target_ids` the decoder reads the source, shifted right inside each segment. In packed rows target segment k attends to
    source segment k.
    Outputs: `sequence` [B,T,D], the decoder's last hidden states, and `source_sequence` [B,S,D], the encoder's. With
    `read_positions` [B,P] the last block of the decoder computes those places only: `sequence` [B,P,D]. With
    `hidden_states=True` also `hidden_states` and `source_hidden_states`, tuples.

    A family says what `encode`, `decode` and `empty_cache` do. Writing step by step:

        source = backbone.encode({"token_ids": ids})
        cache = backbone.empty_cache(source, size=20)
        while ...:
            outputs = backbone.decode({"target_ids": last}, cache=cache)
            cache = outputs["cache"]
    """

    input_names = ("token_ids", "segment_ids", "positions")
    target_names: ClassVar[tuple[str, ...]] = ("target_ids", "target_segment_ids", "target_positions")

    def call(
        self, inputs, *, read_positions=None, hidden_states: bool = False, cache: Any = None, training: bool = False
    ):
        if cache is not None:
            return self.decode(
                inputs, cache=cache, read_positions=read_positions, hidden_states=hidden_states, training=training
            )
        given = {name: inputs[name] for name in self.target_names if inputs.get(name) is not None}
        source = self.encode(inputs, hidden_states=hidden_states, training=training)
        if "target_ids" not in given:
            read = self.standardised(inputs)
            given = {
                "target_ids": self.shifted(read["token_ids"], read["segment_ids"]),
                "target_segment_ids": read["segment_ids"],
                "target_positions": read["positions"],
            }
        outputs = self.decode(
            given, source, read_positions=read_positions, hidden_states=hidden_states, training=training
        )
        outputs["source_sequence"] = source["sequence"]
        if hidden_states:
            outputs["source_hidden_states"] = source["hidden_states"]
        return outputs

    def encode(
        self, inputs: Mapping[str, tf.Tensor], *, hidden_states: bool = False, training: bool = False
    ) -> dict[str, Any]:
        """Returns what `decode` needs of a source: `sequence` [B,S,D], `segment_ids` [B,S] and what a family adds."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it reads a source")

    def decode(
        self,
        inputs: Mapping[str, tf.Tensor],
        source: Mapping[str, Any] | None = None,
        *,
        cache: Any = None,
        read_positions: tf.Tensor | None = None,
        hidden_states: bool = False,
        training: bool = False,
    ) -> dict[str, Any]:
        """Returns `sequence` for `target_ids` [B,T] after a source or, with a cache, after all that it has seen.

        The outputs have the longer `cache` then, and the source is the one that it was made of.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say how it writes a target")

    def empty_cache(self, source: Mapping[str, Any], size: int) -> Any:
        """Returns what `decode` remembers of a source and of up to `size` target tokens, of which it has seen none.

        A nest of tensors whose shapes never change, so that it may go around a `tf.while_loop`; the first dimension is the
        batch, except of scalars.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cache")

    @staticmethod
    def reordered(cache: Any, rows: tf.Tensor) -> Any:
        """Returns a cache whose row i is the row `rows[i]` of the given one, as a search that drops candidates wants it."""
        return tf.nest.map_structure(lambda part: tf.gather(part, rows) if part.shape.rank else part, cache)

    def shifted(self, ids: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
        """Returns what the decoder reads in order to write `ids` [B,T]: a start token, then all but the last."""
        return shift_right(ids, segment_ids, self.config.decoder_start_token_id)

    def standardised_target(self, inputs: Mapping[str, tf.Tensor], before: DecoderCache | None = None) -> dict:
        """Returns the target's three tensors as int32, filled in; `before` is what stands before it."""
        if not isinstance(inputs, Mapping) or inputs.get("target_ids") is None:
            got = ", ".join(sorted(inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(f'inputs: expected a dictionary with "target_ids", got {got}')
        taken = {name: tf.cast(inputs[name], tf.int32) for name in self.target_names if inputs.get(name) is not None}
        length, limit = taken["target_ids"].shape[1], self.config.longest
        if length and limit and length > limit and len(taken) == 1:
            raise ValueError(f"target_ids: {length} tokens a row, the network has positions for {limit}; truncate them")
        taken.setdefault("target_segment_ids", tf.ones_like(taken["target_ids"]))
        if "target_positions" not in taken:
            segment_ids = taken["target_segment_ids"]
            counted = segment_positions if before is None else before.next_positions
            taken["target_positions"] = counted(segment_ids) * tf.cast(segment_ids > 0, tf.int32)
        return taken


def shift_right(ids: tf.Tensor, segment_ids: tf.Tensor, start: int | tf.Tensor) -> tf.Tensor:
    """Returns ids [B,T] moved one place to the right inside each segment, which begins with `start` (scalar or [B,T])."""
    begins = segment_ids[:, 1:] != segment_ids[:, :-1]
    begins = tf.pad(begins, [[0, 0], [1, 0]], constant_values=True)
    moved = tf.where(begins, start, tf.pad(ids[:, :-1], [[0, 0], [1, 0]]))
    return moved[:, : tf.shape(ids)[1]]  # a row may have no place at all


def segment_lasts(ids: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns the last id of each place's segment: [B,T] -> [B,T]."""
    left = segment_positions(segment_ids[:, ::-1])[:, ::-1]
    return tf.gather(ids, tf.range(tf.shape(ids)[1]) + left, batch_dims=1)


class TargetCache(NamedTuple):
    """What blocks of a decoder remember of their source, and of the target so far."""

    target: DecoderCache  # of each block's self-attention
    sources: tuple[KeyValues, ...]  # of each block's attention to the source, computed once
    source_segment_ids: tf.Tensor  # [B,S]

    @classmethod
    def empty(cls, blocks: Sequence[DecoderBlock], source: Mapping[str, tf.Tensor], size: int) -> TargetCache:
        """Returns the cache of blocks that have read a source and seen nothing of the target, with `size` free places."""
        rows = source["sequence"].shape[0]
        rows = tf.shape(source["sequence"])[0] if rows is None else rows
        attentions = [block.attention for block in blocks]
        layers = tuple(
            KeyValueCache.empty(rows, size, layer.key_value_heads, layer.head_width, layer.compute_dtype)
            for layer in attentions
        )
        return cls(
            target=DecoderCache.empty(layers),
            sources=tuple(block.cross_attention.read(source["sequence"]) for block in blocks),
            source_segment_ids=source["segment_ids"],
        )

    @property
    def length(self) -> tf.Tensor:
        """How many places are filled, scalar int32."""
        return self.target.layers[0].length

    def noted(self, inputs: Mapping[str, tf.Tensor]) -> TargetCache:
        """Returns the cache with the segments and positions of new tokens; the blocks add keys and values."""
        names = {"token_ids": "target_ids", "segment_ids": "target_segment_ids", "positions": "target_positions"}
        return self._replace(target=self.target.noted({name: inputs[ours] for name, ours in names.items()}))

    def with_layers(self, layers: Sequence[KeyValueCache]) -> TargetCache:
        """Returns the cache with what the blocks made of theirs."""
        return self._replace(target=self.target._replace(layers=tuple(layers)))


@keras.saving.register_keras_serializable("garden")
class RelativePositionBias(keras.layers.Layer):
    """A learned number for each head and bucket of distances, added to attention's logits (Raffel et al., 2020).

    Half of the buckets are single distances, the others grow logarithmically up to `longest`; the last has all that are
    farther. Read in both directions, each direction has half of them. Distances are those of places in a row: inside a
    segment they are those of positions, and others are hidden.
    """

    def __init__(
        self, buckets: int, longest: int, heads: int, *, both_ways: bool, initializer="glorot_uniform", **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.buckets, self.longest, self.heads, self.both_ways = buckets, longest, heads, both_ways
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape=None):
        self.table = self.add_weight(name="table", shape=(self.buckets, self.heads), initializer=self.initializer)

    def bucket_of(self, distances: np.ndarray) -> np.ndarray:
        """Returns the buckets of distances key - query, in float32 as the reference implementation computes them."""
        count = self.buckets // 2 if self.both_ways else self.buckets
        first = np.where(distances > 0, count, 0) if self.both_ways else 0
        distances = np.abs(distances) if self.both_ways else np.maximum(-distances, 0)
        exact = count // 2
        ratios = np.maximum(distances, 1).astype(np.float32) / np.float32(exact)
        logarithms = np.log(ratios) / np.float32(np.log(self.longest / exact)) * np.float32(count - exact)
        far = np.minimum(exact + logarithms.astype(np.int32), count - 1)
        return (first + np.where(distances < exact, distances, far)).astype(np.int32)

    def call(self, query_places: tf.Tensor, key_places: tf.Tensor) -> tf.Tensor:
        """Returns what to add: [B or 1, T] and [B or 1, S] int32 -> [B or 1, N, T, S] float32."""
        by_distance = tf.gather(self.table.value, self.bucket_of(np.arange(-self.longest, self.longest + 1)))
        distances = key_places[:, None, :] - query_places[:, :, None]
        distances = tf.clip_by_value(distances, -self.longest, self.longest) + self.longest
        bias = tf.gather(tf.cast(tf.transpose(by_distance), tf.float32), distances, axis=1)
        return tf.transpose(bias, [1, 0, 2, 3])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "buckets": self.buckets,
            "longest": self.longest,
            "heads": self.heads,
            "both_ways": self.both_ways,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable("garden")
class Stack(keras.layers.Layer):
    """One side of a network: blocks in a row, what is done before the first and after the last.

    Args:
        blocks: `EncoderBlock`s, or `DecoderBlock`s, which make it a decoder.
        positions: a layer from positions [B,T] to what is added to the embeddings.
        relative: `RelativePositionBias`es: one for all blocks, one for each, or none.
        embedding_norm, final_norm: norms of the embeddings and of the last block's output.
        dropout: rate after the embeddings; final_dropout: after the final norm.
        block_dropout: rate of leaving out a whole block while training (Fan et al., 2020).
    """

    def __init__(
        self,
        blocks: Sequence[keras.layers.Layer],
        *,
        positions: keras.layers.Layer | None = None,
        relative: Sequence[RelativePositionBias] = (),
        embedding_norm: keras.layers.Layer | None = None,
        final_norm: keras.layers.Layer | None = None,
        dropout: float = 0.0,
        final_dropout: float = 0.0,
        block_dropout: float = 0.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.blocks, self.relative = list(blocks), list(relative)
        self.positions, self.embedding_norm, self.final_norm = positions, embedding_norm, final_norm
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.final_dropout = Dropout(final_dropout, dtype=self.dtype_policy, name="final_dropout")
        self.block_dropout = Dropout(block_dropout, dtype="float32", name="block_dropout")
        self.writes = bool(blocks) and isinstance(blocks[0], DecoderBlock)

    def build(self, input_shape):
        for layer in (*self.blocks, *self.relative, self.positions, self.embedding_norm, self.final_norm):
            if layer is not None and not layer.built:
                layer.build(input_shape)

    def call(
        self,
        x_BTD: tf.Tensor,
        segment_ids: tf.Tensor,
        positions: tf.Tensor,
        *,
        source: Mapping[str, tf.Tensor] | None = None,
        cache: TargetCache | None = None,
        read_positions: tf.Tensor | None = None,
        training: bool = False,
    ) -> tuple[tuple[tf.Tensor, ...], TargetCache | None]:
        """Returns the states, which are the embeddings and each block's output (normed, the last), and the cache.

        The cache has these segments noted.
        """
        if self.positions is not None:
            x_BTD += tf.cast(self.positions(positions), x_BTD.dtype)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        x_BTD = self.dropout(x_BTD, training=training)
        places = tf.range(tf.shape(x_BTD)[1])[None]
        keys, key_places = segment_ids, places
        if cache is not None:
            places += cache.length
            keys = cache.target.segment_ids
            key_places = tf.range(tf.shape(keys)[1])[None]
        if self.writes:
            sources = [source["sequence"]] * len(self.blocks) if cache is None else cache.sources
            source_keys = source["segment_ids"] if cache is None else cache.source_segment_ids
        states, longer = [x_BTD], []
        for index, block in enumerate(self.blocks):
            read = read_positions if index == len(self.blocks) - 1 else None
            if index == 0 or read is not None:
                if read is not None:
                    segment_ids, places = tf.gather(segment_ids, read, batch_dims=1), tf.gather(places[0], read)
                mask = attention_bias(
                    segment_ids, keys, query_positions=places, key_positions=key_places, causal=self.writes
                )
                shared = mask + self.relative[0](places, key_places) if self.relative else mask
                further = {"source_bias": attention_bias(segment_ids, source_keys)} if self.writes else {}
            own = len(self.relative) > 1 and index
            further["bias"] = mask + self.relative[index](places, key_places) if own else shared
            if cache is not None:
                further["cache"] = cache.target.layers[index]
            ahead = (sources[index],) if self.writes else ()
            before = x_BTD
            x_BTD = block(before, *ahead, read_positions=read, training=training, **further)
            if cache is not None:
                x_BTD, block_cache = x_BTD
                longer.append(block_cache)
            if training and self.block_dropout.rate and read is None:
                x_BTD = tf.where(
                    self.block_dropout(tf.ones([]), training=True) > 0, x_BTD, tf.cast(before, x_BTD.dtype)
                )
            states.append(x_BTD)
        if self.final_norm is not None:
            states[-1] = self.final_dropout(self.final_norm(x_BTD), training=training)
        return tuple(states), None if cache is None else cache.with_layers(longer)

    def get_config(self) -> dict:
        single = {name: getattr(self, name) for name in ("positions", "embedding_norm", "final_norm")}
        several = {name: getattr(self, name) for name in ("blocks", "relative")}
        save = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            **{name: layer and save(layer) for name, layer in single.items()},
            **{name: [save(layer) for layer in layers] for name, layers in several.items()},
            "dropout": self.dropout.rate,
            "final_dropout": self.final_dropout.rate,
            "block_dropout": self.block_dropout.rate,
        }

    @classmethod
    def from_config(cls, config: dict) -> Stack:
        revive = keras.saving.deserialize_keras_object
        parts = {name: config[name] and revive(config[name]) for name in ("positions", "embedding_norm", "final_norm")}
        parts |= {name: [revive(layer) for layer in config[name]] for name in ("blocks", "relative")}
        return cls(**{**config, **parts})


class StackedEncoderDecoder(EncoderDecoder):
    """An encoder-decoder of two stacks over one token table. A family says how a stack is made.

    Without the decoder (`decoder=False`) it is the encoder alone, whose states are `sequence` then.
    """

    spreads = True

    def __init__(self, config: Config, *, decoder: bool = True, **kwargs):
        super().__init__(config, **kwargs)
        self.words = Embedding(
            config.vocab_size,
            self.width,
            initializer=initializer(self.words_stddev),
            dtype=self.dtype_policy,
            name="words",
        )
        self.encoder = self.made_stack("encoder")
        self.decoder = self.made_stack("decoder") if decoder else None
        self.build()

    def made_stack(self, side: str) -> Stack:
        """Returns the layers of one side, "encoder" or "decoder", under that name."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it is made of")

    @property
    def words_stddev(self) -> float:
        """Standard deviation of new embeddings."""
        return self.config.initializer_range

    @property
    def words_scale(self) -> float:
        """What embeddings are multiplied by."""
        return 1.0

    @property
    def width(self) -> int:
        return self.config.d_model

    def build(self, input_shape=None):
        self.words.build()
        in_stages([*self.encoder.blocks, *(self.decoder.blocks if self.decoder else ())])
        for stack in (self.encoder, self.decoder):
            if stack is not None:
                stack.build((None, None, self.width))

    # Keras gives `training` to those whose signature has it.
    def call(
        self, inputs, *, read_positions=None, hidden_states: bool = False, cache: Any = None, training: bool = False
    ):
        options = {"read_positions": read_positions, "hidden_states": hidden_states, "training": training}
        if self.decoder is not None:
            return super().call(inputs, cache=cache, **options)
        outputs = self.encode(inputs, **options)
        del outputs["segment_ids"]
        return outputs | {"source_sequence": outputs["sequence"]}

    def embedded(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the scaled rows of the token table."""
        x = self.words(ids)
        return x if self.words_scale == 1 else x * tf.constant(self.words_scale, x.dtype)

    def encode(self, inputs, *, read_positions=None, hidden_states: bool = False, training: bool = False):
        inputs = self.standardised(inputs)
        x, segment_ids = self.embedded(inputs["token_ids"]), inputs["segment_ids"]
        states, _ = self.encoder(x, segment_ids, inputs["positions"], read_positions=read_positions, training=training)
        outputs = {"sequence": states[-1], "segment_ids": segment_ids}
        return outputs | ({"hidden_states": states} if hidden_states else {})

    def decode(
        self,
        inputs,
        source=None,
        *,
        cache=None,
        read_positions=None,
        hidden_states: bool = False,
        training: bool = False,
    ):
        inputs = self.standardised_target(inputs, None if cache is None else cache.target)
        states, cache = self.decoder(
            self.embedded(inputs["target_ids"]),
            inputs["target_segment_ids"],
            inputs["target_positions"],
            source=source,
            cache=None if cache is None else cache.noted(inputs),
            read_positions=read_positions,
            training=training,
        )
        outputs = {"sequence": states[-1]}
        if hidden_states:
            outputs["hidden_states"] = states
        return outputs | ({"cache": cache} if cache is not None else {})

    def empty_cache(self, source, size: int) -> TargetCache:
        return TargetCache.empty(self.decoder.blocks, source, size)

    def config_dict(self) -> dict[str, Any]:
        return {**super().config_dict(), "is_encoder_decoder": self.decoder is not None}

    def get_config(self) -> dict:
        return {**super().get_config(), "decoder": self.decoder is not None}
