"""Recurrent layers: Elman's network, LSTM and GRU, in packed rows too.

The inputs' products of all steps are one matrix product; what is left inside the loop over time is the product with the state.
A state begins anew where a text begins, and padding, wherever it stands, leaves it as it is: a text's outputs are those that
it has alone. Gates and weights are those of torch.nn.RNN, LSTM and GRU, in their order.
Shapes: B batch, T length, D input width, H state width, G gates, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from garden.layers.activations import activation
from garden.layers.dropout import Dropout
from garden.layers.projection import matmul


class RecurrentMemory(NamedTuple):
    """What a recurrent layer knows after the last token that it has read."""

    states: tuple[tf.Tensor, ...]  # [B,H] each, at least float32
    segment_ids: tf.Tensor  # [B] int32: the segment that the token belongs to; 0: there was none


Step = Callable[[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]], tuple[tf.Tensor, tuple[tf.Tensor, ...]]]
"""From a step's number, its inputs [B,G] and the states before to its output [B,H] and the states after."""


class Recurrent(keras.layers.Layer):
    """Base of the recurrent layers: [B,T,D] -> [B,T,H], zeros where there is padding.

    Args:
        width: H.
        reverse: whether it reads each text from its end.
        bias: whether the two products add one each.
        initializer: of the products' kernels.

    `call` takes
        segment_ids: [B,T]; default: a row is one text.
        begin: [B,T,H], the state h that a text begins with, read at its first token; default: zeros.
        memory: what `empty_memory` or the call before returned; the result is (outputs, memory) then.
    """

    gates: ClassVar[int] = 1  # G
    state_count: ClassVar[int] = 1  # states of a step; the first one is its output h

    def __init__(self, width: int, *, reverse: bool = False, bias: bool = True, initializer="glorot_uniform", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.width, self.reverse, self.has_bias = width, reverse, bias
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        total = self.gates * self.width
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], total), initializer=self.initializer)
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel", shape=(self.width, total), initializer=self.initializer
        )
        self.bias = self.recurrent_bias = None
        if self.has_bias:
            self.bias = self.add_weight(name="bias", shape=(total,), initializer=self.first_bias)
            self.recurrent_bias = self.add_weight(name="recurrent_bias", shape=(total,), initializer="zeros")

    def first_bias(self, shape, dtype=None) -> tf.Tensor:
        """What the inputs' bias starts from."""
        return tf.zeros(shape, dtype)

    def step(self, inputs: tf.Tensor, recurrent: tf.Tensor, states: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        """Returns the next states [B,H] of W x + b and of U h + c, both [B,GH], and the states before."""
        raise NotImplementedError(f"{type(self).__name__} has to say what a step computes")

    @property
    def state_dtype(self) -> tf.DType:
        """Of the states between steps: sums over many steps are not for half precision."""
        return tf.as_dtype("float32" if self.compute_dtype in ("float16", "bfloat16") else self.compute_dtype)

    def empty_memory(self, batch: int | tf.Tensor) -> RecurrentMemory:
        """Returns the memory of a layer that has read nothing, for `batch` rows."""
        states = tuple(tf.zeros([batch, self.width], self.state_dtype) for _ in range(self.state_count))
        return RecurrentMemory(states, tf.zeros([batch], tf.int32))

    def call(
        self,
        x: tf.Tensor,
        segment_ids: tf.Tensor | None = None,
        *,
        begin: tf.Tensor | None = None,
        memory: RecurrentMemory | None = None,
    ):
        if self.reverse and memory is not None:
            raise ValueError(f"{self.name}: a layer that reads texts from their ends has no memory of what came before")
        x_BTD = tf.cast(x, self.compute_dtype)
        batch, length = tf.shape(x_BTD)[0], tf.shape(x_BTD)[1]
        segment_ids_BT = tf.ones([batch, length], tf.int32) if segment_ids is None else segment_ids
        given = [x_BTD, segment_ids_BT, begin]
        if not x_BTD.shape[1]:
            # A loop over nothing cannot tell the shape of what it returns: one step of padding, cut off again.
            given = [part if part is None else padded_step(part) for part in given]
        if self.reverse:
            given = [part if part is None else part[:, ::-1] for part in given]
        x_BTD, segment_ids_BT, begin = given
        first = self.empty_memory(batch) if memory is None else memory
        starts_BT, last = segment_starts(segment_ids_BT, first.segment_ids)
        outputs_TBH, states = over_time(
            self.step_behind(self.recurrent_kernel.value),
            self.products(x_BTD, self.kernel.value),
            starts_BT,
            segment_ids_BT > 0,
            first.states,
            begin=begin,
        )
        y = tf.cast(tf.transpose(outputs_TBH, [1, 0, 2]), self.compute_dtype)
        y = (y[:, ::-1] if self.reverse else y)[:, :length]
        y.set_shape([*x.shape[:2], self.width])
        return y if memory is None else (y, RecurrentMemory(states, last))

    def products(self, x_BTD: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns W x + b of all steps, [T,B,GH]."""
        x_TBD = tf.transpose(x_BTD, [1, 0, 2])
        y = matmul(x_TBD, tf.cast(kernel, self.compute_dtype))
        if self.bias is not None:
            y = tf.nn.bias_add(y, tf.cast(self.bias.value, self.compute_dtype))
        y = tf.reshape(y, tf.concat([tf.shape(x_TBD)[:2], [self.gates * self.width]], axis=0))
        return tf.ensure_shape(y, [x_BTD.shape[1], x_BTD.shape[0], self.gates * self.width])

    def step_behind(self, kernel: tf.Tensor) -> Step:
        """Returns the step that is left when the inputs' products are made."""
        kernel = tf.cast(kernel, self.compute_dtype)
        bias = None if self.recurrent_bias is None else tf.cast(self.recurrent_bias.value, self.state_dtype)

        def step(t, inputs_BG, states):
            recurrent_BG = tf.cast(tf.matmul(tf.cast(states[0], self.compute_dtype), kernel), self.state_dtype)
            recurrent_BG = recurrent_BG if bias is None else recurrent_BG + bias
            after = self.step(tf.cast(inputs_BG, self.state_dtype), recurrent_BG, states)
            return after[0], after

        return step

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "width": self.width,
            "reverse": self.reverse,
            "bias": self.has_bias,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable("garden")
class Elman(Recurrent):
    """Elman's simple recurrent network (Elman, 1990).

        h_t = sigma(W_hh h_{t-1} + W_xh x_t + b_h)

    Args:
        activation: sigma: "tanh", "sigmoid", "relu" or another name from `garden.layers.ACTIVATIONS`.
        others: see `Recurrent`.

    b_h is the sum of `bias` and `recurrent_bias`, as torch.nn.RNN has it.
    """

    def __init__(self, width: int, *, activation: str = "tanh", **kwargs):
        super().__init__(width, **kwargs)
        self.activation_name = activation

    def step(self, inputs, recurrent, states):
        return (activation(self.activation_name)(inputs + recurrent),)

    def get_config(self) -> dict:
        return {**super().get_config(), "activation": self.activation_name}


@keras.saving.register_keras_serializable("garden")
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with forget gates (Gers et al., 2000).

        i_t = sigmoid(W_i x_t + b_i + U_i h_{t-1} + c_i)         input gate; f_t, o_t alike: forget and output gate
        g_t = tanh(W_g x_t + b_g + U_g h_{t-1} + c_g)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    Gates lie in the order i, f, g, o. A new layer's forget gates are open: their bias is 1 (Jozefowicz et al., 2015).
    """

    gates = 4
    state_count = 2

    def first_bias(self, shape, dtype=None) -> tf.Tensor:
        return tf.constant(np.repeat([0, 1, 0, 0], self.width), dtype)

    def step(self, inputs, recurrent, states):
        _, cell = states
        i, f, g, o = tf.split(inputs + recurrent, 4, axis=-1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(cell), cell


@keras.saving.register_keras_serializable("garden")
class GRU(Recurrent):
    """Gated recurrent units (Cho et al., 2014), with the reset gate behind the product, as cuDNN and PyTorch have it.

        r_t = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r)         reset gate; z_t alike: update gate
        n_t = tanh(W_n x_t + b_n + r_t * (U_n h_{t-1} + c_n))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Gates lie in the order r, z, n.
    """

    gates = 3

    def step(self, inputs, recurrent, states):
        (before,) = states
        r, z, n = tf.split(inputs, 3, axis=-1)
        recurrent_r, recurrent_z, recurrent_n = tf.split(recurrent, 3, axis=-1)
        z = tf.sigmoid(z + recurrent_z)
        new = tf.tanh(n + tf.sigmoid(r + recurrent_r) * recurrent_n)
        return (new + z * (before - new),)


CELLS: dict[str, type[Recurrent]] = {"elman": Elman, "gru": GRU, "lstm": LSTM}
"""The kinds there are, by their names in configurations."""


@keras.saving.register_keras_serializable("garden")
class RecurrentStack(keras.layers.Layer):
    """Recurrent layers in a row, dropout between them: [B,T,D] -> each layer's output, a tuple of [B,T,H], or [B,T,2H].

    Args:
        forward: L layers, each of which reads what the one below wrote.
        backward: none, or L layers with `reverse=True`; theirs stands behind the forward layer's output.
        dropout: rate of what a layer reads, the first one excepted.

    With a `memory`, a tuple of each layer's, the result is (outputs, memory): of forward layers only.
    """

    def __init__(
        self, forward: Sequence[Recurrent], backward: Sequence[Recurrent] = (), *, dropout: float = 0.0, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.forward, self.backward = list(forward), list(backward)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    @property
    def width(self) -> int:
        """Of what it returns."""
        return self.forward[-1].width + (self.backward[-1].width if self.backward else 0)

    def build(self, input_shape):
        for index, layer in enumerate(self.forward):
            layer.build(input_shape)
            width = layer.width
            if self.backward:
                self.backward[index].build(input_shape)
                width += self.backward[index].width
            input_shape = (*input_shape[:-1], width)

    def call(
        self,
        x: tf.Tensor,
        segment_ids: tf.Tensor | None = None,
        *,
        memory: tuple[RecurrentMemory, ...] | None = None,
        training: bool = False,
    ):
        if self.backward and memory is not None:
            raise ValueError("a bidirectional network cannot go on from a memory: it reads texts from their ends too")
        outputs, remembered = [], []
        for index, layer in enumerate(self.forward):
            x = self.dropout(x, training=training) if index else x
            if memory is not None:
                y, after = layer(x, segment_ids, memory=memory[index])
                remembered.append(after)
            else:
                y = layer(x, segment_ids)
            x = tf.concat([y, self.backward[index](x, segment_ids)], axis=-1) if self.backward else y
            outputs.append(x)
        return tuple(outputs) if memory is None else (tuple(outputs), tuple(remembered))

    def empty_memory(self, batch: int | tf.Tensor) -> tuple[RecurrentMemory, ...]:
        """Returns the memory of layers that have read nothing, for `batch` rows; ValueError where they read both ways."""
        if self.backward:
            raise ValueError("a bidirectional network has no memory: it reads texts from their ends too")
        return tuple(layer.empty_memory(batch) for layer in self.forward)

    def get_config(self) -> dict:
        save = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "forward": [save(layer) for layer in self.forward],
            "backward": [save(layer) for layer in self.backward],
            "dropout": self.dropout.rate,
        }

    @classmethod
    def from_config(cls, config: dict) -> RecurrentStack:
        revive = keras.saving.deserialize_keras_object
        return cls(**{**config, **{name: [revive(part) for part in config[name]] for name in ("forward", "backward")}})


def segment_starts(segment_ids_BT: tf.Tensor, before_B: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns whether each token is its segment's first [B,T], and the segment of each row's last token [B].

    Padding between two tokens of a segment does not part them. `before_B` is the segment of the token before the first
    one, 0 for none.
    """
    real = tf.cast(segment_ids_BT > 0, tf.int32)
    batch, length = tf.shape(real)[0], tf.shape(real)[1]
    # The segments of each row's first, second, ... token: padding falls to the token before it and is no maximum.
    count = tf.cumsum(real, axis=1)
    place = count + tf.range(batch)[:, None] * (length + 1)
    tokens = tf.math.unsorted_segment_max(
        tf.reshape(segment_ids_BT, [-1]), tf.reshape(place, [-1]), batch * (length + 1)
    )
    tokens = tf.reshape(tokens, [batch, length + 1])
    tokens = tf.concat([before_B[:, None], tokens[:, 1:]], axis=1)
    before = tf.gather(tokens, count - real, batch_dims=1)
    last = tf.gather(tokens, tf.reduce_sum(real, axis=1)[:, None], batch_dims=1)[:, 0]
    return (real > 0) & (segment_ids_BT != before), last


def over_time(
    step: Step,
    inputs_TBG: tf.Tensor,
    starts_BT: tf.Tensor,
    real_BT: tf.Tensor,
    states: tuple[tf.Tensor, ...],
    *,
    begin: tf.Tensor | None = None,
    output_width: int | None = None,
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Takes a step for each token: returns the outputs [T,B,H], zeros where there is padding, and the last states.

    Args:
        step: what happens.
        inputs_TBG: what each step is given.
        starts_BT, real_BT: which tokens begin a text, and which are no padding.
        states: [B,H] each, before the first token.
        begin: [B,T,H], the first state where a text begins; default: zeros.
        output_width: of what the step puts out; default: H.
    """
    length, batch = tf.shape(inputs_TBG)[0], inputs_TBG.shape[1] or states[0].shape[0]
    dtype = states[0].dtype
    states = tuple(tf.ensure_shape(state, [batch, state.shape[1]]) for state in states)
    starts_TB1, real_TB1 = (tf.transpose(mask)[:, :, None] for mask in (starts_BT, real_BT))

    def steps_of(x: tf.Tensor) -> tf.TensorArray:
        return tf.TensorArray(x.dtype, length, element_shape=[batch, x.shape[-1]]).unstack(x)

    inputs = steps_of(inputs_TBG)
    begins = None if begin is None else steps_of(tf.transpose(tf.cast(begin, dtype), [1, 0, 2]))
    outputs = tf.TensorArray(dtype, length, element_shape=[batch, output_width or states[0].shape[1]])

    def body(t, outputs, states):
        starts, real = starts_TB1[t], real_TB1[t]
        first, *others = states
        first = tf.where(starts, 0.0 if begins is None else begins.read(t), first)
        before = (first, *(tf.where(starts, 0.0, state) for state in others))
        output, after = step(t, inputs.read(t), before)
        after = tuple(tf.where(real, new, old) for new, old in zip(after, before, strict=True))
        for state in after:
            state.set_shape([batch, state.shape[1]])
        return t + 1, outputs.write(t, tf.where(real, output, 0.0)), after

    _, outputs, states = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), outputs, states),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    return outputs.stack(), states


def padded_step(x: tf.Tensor) -> tf.Tensor:
    """Returns [B,T,...] with zeros behind, one step of them, where T is 0."""
    return tf.pad(x, [[0, 0], [0, tf.maximum(1 - tf.shape(x)[1], 0)]] + [[0, 0]] * (x.shape.rank - 2))
