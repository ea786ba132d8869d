"""Pseudo-random orders of any length in constant memory.

A Feistel network over the numbers below a power of four is a permutation of them whatever its round function is (Luby and
Rackoff, 1988); numbers that fall outside of the wanted range walk on until they are inside (Black and Rogaway, 2002).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def permuted(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Returns where a permutation of 0..size-1, which `seed` chooses, puts each of `numbers` [M] int64."""
    bits = max((int(size - 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << bits) - 1)
    keys = np.random.SeedSequence([seed, size]).generate_state(ROUNDS, np.uint64)
    values = np.asarray(numbers).astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(bits), values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        values[outside] = (left << np.uint64(bits)) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
