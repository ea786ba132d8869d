"""Unicode for the tokenizers' graphs: the reference's view of every character, and tables over code points.

Letters: N characters, P pages.
"""

from __future__ import annotations

import enum
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

DATA_PATH = Path(__file__).parent.parent / "data" / "characters.npz"  # made by make_character_data.py
SCALARS = 0x110000
PAGE = 128


class Flag(enum.IntFlag):
    """What the reference says of a character (bits of `CharacterData.flags`)."""

    CLEANED = 1  # removed by clean_text
    BLANKED = 2  # replaced by a space by clean_text
    CHINESE = 4  # set apart by handle_chinese_chars
    SEPARATOR = 8  # white space to the pre-tokenizer
    PUNCTUATION = 16  # set apart by the pre-tokenizer
    WORD = 32  # \w to added tokens
    SPACE = 64  # \s to added tokens


class CharacterData(NamedTuple):
    """The packaged table. A sparse mapping is three arrays: keys, lengths, and the concatenated values."""

    flags: np.ndarray  # [0x110000] uint8, bits of Flag
    combining: np.ndarray  # [0x110000] uint8: rank of the combining class of the first character of its decomposition
    strip: tuple[np.ndarray, np.ndarray, np.ndarray]  # canonical decomposition without non-spacing marks
    lower: tuple[np.ndarray, np.ndarray, np.ndarray]  # lower case


@functools.lru_cache(maxsize=1)
def character_data() -> CharacterData:
    """Read the packaged table (about 10 ms, once a process)."""
    with np.load(DATA_PATH) as arrays:
        combining = np.zeros(SCALARS, np.uint8)
        combining[arrays["combining_keys"]] = arrays["combining_ranks"]
        sparse = {
            name: (arrays[f"{name}_keys"], arrays[f"{name}_lengths"].astype(np.int32), arrays[f"{name}_values"])
            for name in ("strip", "lower")
        }
        return CharacterData(arrays["flags"], combining, **sparse)


@functools.cache
def character_set(name: str) -> np.ndarray:
    """A set of characters, [0x110000] bool, not to be changed; ValueError if there is none of that name.

    Names: a Unicode category (Lu) or its first letter (L), a script (Han), "word" (a regular expression's \\w), "numeric",
    "mark", and how characters join others in grapheme clusters: "extend", "prepend", "control".
    """
    with np.load(DATA_PATH) as arrays:
        parts = [key for key in arrays if key == f"set_{name}" or (len(name) == 1 and key[:-1] == f"set_{name}")]
        inside = np.zeros(SCALARS + 1, np.int8)
        for key in parts:
            edges = np.cumsum(arrays[key])
            inside[edges[::2]] += 1
            inside[edges[1::2]] -= 1
    if not parts:
        raise ValueError(f'no set of characters named "{name}"')
    return np.cumsum(inside[:-1], dtype=np.int8) > 0


class NormalForms(NamedTuple):
    """Decompositions, each but for Hangul's syllables, and what composes. Mappings as in CharacterData."""

    canonical: tuple[np.ndarray, np.ndarray, np.ndarray]
    compatible: tuple[np.ndarray, np.ndarray, np.ndarray]  # where it is not the canonical one
    pairs: np.ndarray  # [pairs, 3] int32: first, second, composite; but for Hangul's


@functools.lru_cache(maxsize=1)
def normal_forms() -> NormalForms:
    """Read the packaged tables."""
    with np.load(DATA_PATH) as arrays:
        mappings = {
            name: (arrays[f"{name}_keys"], arrays[f"{name}_lengths"].astype(np.int32), arrays[f"{name}_values"])
            for name in ("nfd", "nfkd")
        }
        return NormalForms(mappings["nfd"], mappings["nfkd"], arrays["pairs"])


def encode_points(text: str) -> np.ndarray:
    """The code points of a Python string, [N] int32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32)


class CodePointTable:
    """An int32 for every code point, as two small tensors: most pages of 128 are alike, and are kept once.

    `values` [points] int32; the graph may ask for any code point below len(values) rounded up to a page.
    """

    def __init__(self, values: np.ndarray):
        padded = np.zeros(-(-len(values) // PAGE) * PAGE, np.int32)
        padded[: len(values)] = values
        kept: dict[bytes, int] = {}
        pages_P = [kept.setdefault(page.tobytes(), len(kept)) for page in padded.reshape(-1, PAGE)]
        with tf.init_scope(), tf.device("CPU:0"):
            self._pages = tf.constant(np.array(pages_P, np.int32) * PAGE)
            self._values = tf.constant(np.frombuffer(b"".join(kept), np.int32))

    def __call__(self, points_N: tf.Tensor) -> tf.Tensor:
        """Look up code points, [N] int32 -> [N] int32."""
        page_N = tf.gather(self._pages, tf.bitwise.right_shift(points_N, 7))
        return tf.gather(self._values, page_N + tf.bitwise.bitwise_and(points_N, PAGE - 1))
