"""Attention with an additive score, inside a recurrent layer (Bahdanau et al., 2015).

Shapes: B batch, T target length, S source length, E input width, C source width, H state width, A width of the scores' hidden
layer.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from garden.layers.projection import Dense
from garden.layers.recurrent import Recurrent, RecurrentMemory, over_time, padded_step, segment_starts


@keras.saving.register_keras_serializable("garden")
class AdditiveAttention(keras.layers.Layer):
    """What a state reads in a source (Bahdanau et al., 2015, appendix A.1.2).

        e_j = v . tanh(W s + U h_j + b),   a = softmax(e),   context = sum_j a_j h_j

    A query s [B,H] and a source h [B,S,C] -> [B,C]. `seen` [B,S] says what it may read; where that is nothing, the
    context is zero. `keys`, which `keys_of` computes, are U h_j + b: they are the same for all queries.

    Args:
        inner_width: A; default: H.
    """

    def __init__(self, inner_width: int | None = None, *, initializer="glorot_uniform", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.inner_width = inner_width
        self.initializer = keras.initializers.get(initializer)

    def build(self, query_shape, source_shape):
        width = self.inner_width or query_shape[-1]
        parts = {"initializer": self.initializer, "dtype": self.dtype_policy}
        self.query = Dense(width, bias=False, name="query", **parts)
        self.key = Dense(width, name="key", **parts)
        self.score = Dense(1, bias=False, name="score", **parts)
        self.query.build(query_shape)
        self.key.build(source_shape)
        self.score.build((None, width))

    def keys_of(self, source: tf.Tensor) -> tf.Tensor:
        """Returns what is the same for all queries, [B,S,A]."""
        return self.key(source)

    def call(
        self, query: tf.Tensor, source: tf.Tensor, seen: tf.Tensor | None = None, keys: tf.Tensor | None = None
    ) -> tf.Tensor:
        source_BSC = tf.cast(source, self.compute_dtype)
        keys_BSA = self.keys_of(source_BSC) if keys is None else keys
        scores_BS = self.score(tf.tanh(self.query(query)[:, None] + keys_BSA))[..., 0]
        scores_BS = tf.cast(scores_BS, tf.float32)
        if seen is not None:
            scores_BS = tf.where(seen, scores_BS, tf.float32.min)
        weights_BS = tf.nn.softmax(scores_BS)
        if seen is not None:
            weights_BS = tf.where(seen, weights_BS, 0.0)
        return tf.matmul(tf.cast(weights_BS, self.compute_dtype)[:, None], source_BSC)[:, 0]

    def get_config(self) -> dict:
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "inner_width": self.inner_width, "initializer": initializer}


@keras.saving.register_keras_serializable("garden")
class AttentiveRecurrent(keras.layers.Layer):
    """A recurrent layer whose step reads, beside its input, what its last state finds in a source.

        context_t = attention(h_{t-1}),   h_t = cell([x_t, context_t], h_{t-1})

    [B,T,E] and [B,S,C] -> [B,T,H+C]: the states and, behind them, the contexts; zeros where there is padding. Only
    sources of the same segment are seen.

    Args:
        cell: the recurrent layer.
        attention: the attention.

    `call` takes
        segment_ids, source_segment_ids: [B,T], [B,S]; default: rows are one text.
        begin: [B,T,H], the state that a text begins with; default: zeros.
        keys: `attention.keys_of(source)`, where it is known.
        memory: as of `Recurrent`.
    """

    def __init__(self, cell: Recurrent, attention: AdditiveAttention, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if cell.reverse:
            raise ValueError("cell: a text is written from its beginning; got a layer with reverse=True")
        self.cell, self.attention = cell, attention

    def build(self, x_shape, source_shape):
        self.cell.build((*x_shape[:-1], x_shape[-1] + source_shape[-1]))
        self.attention.build((None, self.cell.width), source_shape)

    def call(
        self,
        x: tf.Tensor,
        source: tf.Tensor,
        *,
        segment_ids: tf.Tensor | None = None,
        source_segment_ids: tf.Tensor | None = None,
        begin: tf.Tensor | None = None,
        keys: tf.Tensor | None = None,
        memory: RecurrentMemory | None = None,
    ):
        cell, (batch, length) = self.cell, tf.unstack(tf.shape(x)[:2])
        x_BTE, source_BSC = tf.cast(x, self.compute_dtype), tf.cast(source, self.compute_dtype)
        segment_ids_BT = tf.ones([batch, length], tf.int32) if segment_ids is None else segment_ids
        if source_segment_ids is None:
            source_segment_ids = tf.ones(tf.shape(source_BSC)[:2], tf.int32)
        given = [x_BTE, segment_ids_BT, begin]
        if not x_BTE.shape[1]:
            given = [part if part is None else padded_step(part) for part in given]
        x_BTE, segment_ids_BT, begin = given
        keys_BSA = self.attention.keys_of(source_BSC) if keys is None else keys
        seen_TBS = tf.transpose(same_segment(segment_ids_BT, source_segment_ids), [1, 0, 2])
        first = cell.empty_memory(batch) if memory is None else memory
        starts_BT, last = segment_starts(segment_ids_BT, first.segment_ids)
        kernel = tf.cast(cell.kernel.value, self.compute_dtype)
        inputs_kernel, context_kernel = kernel[: x.shape[-1]], kernel[x.shape[-1] :]
        recurrent_step = cell.step_behind(cell.recurrent_kernel.value)

        def step(t, inputs_BG, states):
            context_BC = self.attention(states[0], source_BSC, seen=seen_TBS[t], keys=keys_BSA)
            output, after = recurrent_step(t, inputs_BG + tf.matmul(context_BC, context_kernel), states)
            return tf.concat([output, tf.cast(context_BC, output.dtype)], axis=-1), after

        width = cell.width + source_BSC.shape[-1]
        outputs_TBX, states = over_time(
            step,
            cell.products(x_BTE, inputs_kernel),
            starts_BT,
            segment_ids_BT > 0,
            first.states,
            begin=begin,
            output_width=width,
        )
        y = tf.cast(tf.transpose(outputs_TBX, [1, 0, 2]), self.compute_dtype)[:, :length]
        y.set_shape([*x.shape[:2], width])
        return y if memory is None else (y, RecurrentMemory(states, last))

    def get_config(self) -> dict:
        save = keras.saving.serialize_keras_object
        return {**super().get_config(), "cell": save(self.cell), "attention": save(self.attention)}

    @classmethod
    def from_config(cls, config: dict) -> AttentiveRecurrent:
        revive = keras.saving.deserialize_keras_object
        return cls(**{**config, **{name: revive(config[name]) for name in ("cell", "attention")}})


def same_segment(segment_ids_BT: tf.Tensor, source_segment_ids_BS: tf.Tensor) -> tf.Tensor:
    """Returns which places of a source belong to the segment of each place of a target: [B,T,S] bool."""
    same = segment_ids_BT[:, :, None] == source_segment_ids_BS[:, None, :]
    return same & (source_segment_ids_BS > 0)[:, None, :]
