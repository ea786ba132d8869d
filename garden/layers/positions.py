"""Where a token stands: positions inside packed segments, and the encodings that tell a network.

Shapes: B batch, T length, D model width, N heads, H head width.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from garden.layers.embedding import Embedding


def segment_positions(segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns each token's position inside its own segment, counted from 0: [B,T] -> [B,T] int32.

    A segment is a run of equal numbers in a row: `[1, 1, 1, 2, 2, 0]` -> `[0, 1, 2, 0, 1, 0]`. Left padding is a segment
    too, so a text has the same positions wherever it stands.
    """
    shape = tf.shape(segment_ids)
    starts = tf.concat([tf.ones([shape[0], 1], tf.bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    starts = starts[:, : shape[1]]  # a row may have no place at all
    # Number the runs of the whole batch, find the least index of each, and give it back to the run's members.
    runs = tf.cumsum(tf.cast(tf.reshape(starts, [-1]), tf.int32)) - 1
    index = tf.range(shape[0] * shape[1])
    first = tf.math.unsorted_segment_min(index, runs, num_segments=shape[0] * shape[1])
    return tf.reshape(index - tf.gather(first, runs), shape)


def first_positions(segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns the index of each row's first token that is not padding: [B,T] -> [B] int32."""
    return tf.argmax(tf.cast(segment_ids > 0, tf.int32), axis=1, output_type=tf.int32)


def last_positions(segment_ids: tf.Tensor) -> tf.Tensor:
    """Returns the index of each row's last token that is not padding: [B,T] -> [B] int32."""
    return tf.shape(segment_ids)[1] - 1 - first_positions(segment_ids[:, ::-1])


def sinusoidal_table(length: int, width: int) -> np.ndarray:
    """Returns the [length, width] float32 table of "Attention Is All You Need" (Vaswani et al., 2017, section 3.5).

    Even columns are sin(position / 10000^(column / width)), odd columns the cosine at the same frequency. ValueError
    for an odd width.
    """
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {width}")
    frequencies = np.exp(np.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = np.arange(length)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)


@keras.saving.register_keras_serializable("garden")
class SinusoidalPositions(keras.layers.Layer):
    """The fixed encoding of "Attention Is All You Need": positions [B,T] -> [B,T,D], for positions below `length`."""

    def __init__(self, length: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.width = width
        self.built = True

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(sinusoidal_table(self.length, self.width), positions), self.compute_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "length": self.length, "width": self.width}


@keras.saving.register_keras_serializable("garden")
class LearnedPositions(Embedding):
    """A learned table: positions [B,T] -> [B,T,D], for positions below `size`."""


def rotary_frequencies(width: int, theta: float = 10_000.0) -> np.ndarray:
    """Returns the [H/2] float32 rotation speeds theta^(-2i/H) of rotary position embeddings."""
    if width % 2:
        raise ValueError(f"rotary positions need an even head width, got {width}")
    return (1.0 / theta ** (np.arange(0, width, 2) / width)).astype(np.float32)


def rotate(x_BTNH: tf.Tensor, positions_BT: tf.Tensor, frequencies: np.ndarray, scale: float = 1.0) -> tf.Tensor:
    """Turns each pair of a query's or key's coordinates by an angle that grows with its position (Su et al., 2021).

    Args:
        x_BTNH: queries or keys, [B,T,N,H], any float type; the rotation is computed in float32.
        positions_BT: [B,T] int32.
        frequencies: [H/2], as `rotary_frequencies` gives them, scaled or not.
        scale: what the turned coordinates are multiplied by.

    Returns:
        [B,T,N,H]: the first half of H is paired with the second half, as Llama and GPT-NeoX checkpoints expect.
    """
    angles = tf.cast(positions_BT, tf.float32)[:, :, None, None] * tf.convert_to_tensor(frequencies)
    cos, sin = tf.cos(angles), tf.sin(angles)
    if scale != 1:
        cos, sin = cos * scale, sin * scale
    first, second = tf.split(tf.cast(x_BTNH, tf.float32), 2, axis=-1)
    turned = tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return tf.cast(turned, x_BTNH.dtype)
