"""The parts networks are made of, as Keras 3 layers."""

from garden.layers.activations import ACTIVATIONS, activation
from garden.layers.additive_attention import AdditiveAttention, AttentiveRecurrent
from garden.layers.attention import KeyValueCache, KeyValues, MultiHeadAttention, attention_bias
from garden.layers.blocks import DecoderBlock, EncoderBlock
from garden.layers.dropout import Dropout, step_seed
from garden.layers.embedding import Embedding
from garden.layers.feed_forward import FeedForward
from garden.layers.normalization import LayerNorm, RMSNorm
from garden.layers.pooling import AdditivePooling
from garden.layers.positions import (
    LearnedPositions,
    SinusoidalPositions,
    first_positions,
    last_positions,
    rotary_frequencies,
    rotate,
    segment_positions,
    sinusoidal_table,
)
from garden.layers.projection import Dense, Projections
from garden.layers.recurrent import GRU, LSTM, Elman, RecurrentMemory, RecurrentStack
from garden.layers.rotary import Rotary, scaled_rotary
from garden.layers.saved_model import SavedModelLayer

__all__ = [
    "ACTIVATIONS",
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "AdditivePooling",
    "AttentiveRecurrent",
    "DecoderBlock",
    "Dense",
    "Dropout",
    "Elman",
    "Embedding",
    "EncoderBlock",
    "FeedForward",
    "KeyValueCache",
    "KeyValues",
    "LayerNorm",
    "LearnedPositions",
    "MultiHeadAttention",
    "Projections",
    "RMSNorm",
    "RecurrentMemory",
    "RecurrentStack",
    "Rotary",
    "SavedModelLayer",
    "SinusoidalPositions",
    "activation",
    "attention_bias",
    "first_positions",
    "last_positions",
    "rotary_frequencies",
    "rotate",
    "scaled_rotary",
    "segment_positions",
    "sinusoidal_table",
    "step_seed",
]
