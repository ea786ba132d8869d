"""Rotary frequencies for texts longer than a network was first trained on, as `rope_scaling` of a config.json names them.

Shapes: H head width.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from garden.layers.positions import rotary_frequencies


@dataclass(frozen=True)
class Rotary:
    """How fast queries and keys turn.

    Args:
        frequencies: [H/2] float32.
        scale: what rotated queries and keys are multiplied by.
        at: where the frequencies depend on the longest text of a batch: its length, a scalar, -> [H/2].
    """

    frequencies: np.ndarray
    scale: float = 1.0
    at: Callable[[tf.Tensor], tf.Tensor] | None = None


def scaled_rotary(width: int, theta: float, scaling: Mapping[str, Any] | None, max_positions: int) -> Rotary:
    """Returns the rotary embedding that a configuration describes.

    Args:
        width: H.
        theta: base of the frequencies.
        scaling: `rope_scaling` of config.json: its `rope_type` (or `type`), one of `SCALINGS`, and that one's numbers.
        max_positions: `max_position_embeddings` of config.json.

    Raises ValueError, naming the field, for a type that is not known and for a missing number.
    """
    scaling = dict(scaling or {})
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in SCALINGS:
        raise ValueError(f'rope_scaling: rope_type "{kind}" is not known; known: {", ".join(SCALINGS)}')
    if scaling.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(
            f"rope_scaling: partial_rotary_factor: only 1.0 is supported, got {scaling['partial_rotary_factor']}"
        )
    needed, make = SCALINGS[kind]
    for name in needed:
        wanted = list if name in LISTS else (int, float)
        if not isinstance(scaling.get(name), wanted) or isinstance(scaling[name], bool):
            what = "a list of numbers" if name in LISTS else "a number"
            raise ValueError(f'rope_scaling: "{kind}" needs {name}, {what}; got {scaling.get(name)!r}')
    return make(width, theta, scaling, max_positions)


def _default(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    return Rotary(rotary_frequencies(width, theta))


def _linear(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    """Positions are squeezed (Chen et al., 2023)."""
    return Rotary((_frequencies(width, theta) / scaling["factor"]).astype(np.float32))


def _dynamic(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    """The base grows with the longest text of a batch, once that is longer than the network's own limit."""
    factor, exponents = scaling["factor"], np.arange(0, width, 2) / width

    def at(length: tf.Tensor) -> tf.Tensor:
        # In float64: the base of a long text has more digits than float32 keeps.
        longest = tf.cast(tf.maximum(length, max_positions), tf.float64)
        base = theta * (factor * longest / max_positions - (factor - 1)) ** (width / (width - 2))
        return tf.cast(base ** tf.constant(-exponents, tf.float64), tf.float32)

    return Rotary(rotary_frequencies(width, theta), at=at)


def _llama3(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    """Slow frequencies are divided, fast ones stay, those between are mixed (Llama 3.1)."""
    frequencies = _frequencies(width, theta)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = _original(scaling, max_positions) * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return Rotary((kept * frequencies + (1 - kept) * frequencies / scaling["factor"]).astype(np.float32))


def _yarn(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    """As `_llama3`, with a ramp over the index of the frequency, and warmer logits (Peng et al., 2023)."""
    frequencies, original = _frequencies(width, theta), _original(scaling, max_positions)
    factor = scaling.get("factor") or max_positions / original

    def index_of(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index_of(scaling.get("beta_fast") or 32), index_of(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    divided = np.clip((np.arange(width // 2) - low) / ((high - low) or 0.001), 0, 1)
    scaled = divided * frequencies / factor + (1 - divided) * frequencies

    def warmth(share: float) -> float:
        return 0.1 * share * math.log(factor) + 1 if factor > 1 else 1.0

    scale = scaling.get("attention_factor")
    if scale is None:
        share, of_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
        scale = warmth(share) / warmth(of_all) if share and of_all else warmth(1.0)
    return Rotary(scaled.astype(np.float32), float(scale))


def _longrope(width: int, theta: float, scaling: Mapping[str, Any], max_positions: int) -> Rotary:
    """Each frequency has a divisor of its own: one for batches of short texts, one for others (Ding et al., 2024)."""
    original = _original(scaling, max_positions)
    for name in ("short_factor", "long_factor"):
        if len(scaling[name]) != width // 2:
            raise ValueError(f"rope_scaling: {name}: expected {width // 2} numbers, got {len(scaling[name])}")
    short, long = (
        (_frequencies(width, theta) / np.asarray(scaling[name], np.float64)).astype(np.float32)
        for name in ("short_factor", "long_factor")
    )
    scale = scaling.get("attention_factor")
    if scale is None:
        factor = scaling.get("factor") or max_positions / original
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return Rotary(short, float(scale), at=lambda length: tf.where(length > original, long, short))


LISTS = ("short_factor", "long_factor")

SCALINGS: dict[str, tuple[tuple[str, ...], Callable[..., Rotary]]] = {
    "default": ((), _default),
    "linear": (("factor",), _linear),
    "dynamic": (("factor",), _dynamic),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), _llama3),
    "yarn": ((), _yarn),
    "longrope": (LISTS, _longrope),
}
"""Kinds of scaling, with the numbers that each cannot do without."""


def _frequencies(width: int, theta: float) -> np.ndarray:
    rotary_frequencies(width, theta)  # its error for odd widths
    return theta ** (-np.arange(0, width, 2) / width)


def _original(scaling: Mapping[str, Any], max_positions: int) -> float:
    """Positions that the network was first trained on."""
    return scaling.get("original_max_position_embeddings") or max_positions
