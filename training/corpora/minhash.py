"""Fingerprints of documents: a hash of the text, and the MinHash signature (Broder 1997) of its runs of words.

Signatures of two documents agree in about the share of places that is the Jaccard similarity of their sets of runs.

Letters: N documents, P permutations, W words and S shingles (runs of words) of all N together, H = 4 places of the hash.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.configuration import key

HASH = 4  # places of a fingerprint, 32 bits each, that hold the hash of the text
NOTHING = np.uint32(0xFFFFFFFF)  # in all places of the signature of a text without words
_BLOCK = 4096  # shingles that are permuted at a time: P times as many numbers fit a cache
_MOST_AT_ONCE = 1 << 18  # characters of texts whose signatures are made together: as much as a cache holds
_MOST_CHARACTERS = 1 << 16  # that are hashed together
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.random.Generator(np.random.PCG64(0)).integers(0, 2**64, 1024, np.uint64)
# Scripts that write no spaces, from Thai and Lao to Chinese: each character is a word.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """How near duplicates are found."""

    permutations: int = key(
        "numbers of a signature; the estimate errs by at most 1 / (2 sqrt(this)), typically", 128, least=16
    )
    words: int = key("words of a run; a Chinese, Japanese or Thai character counts as one", 5, least=1)
    recall: float = key(
        "share of the pairs just at the threshold that are compared; more takes longer", 0.98, above=0, below=1
    )
    seed: int = key("of the permutations", 1, least=0, below=2**31)


class Fingerprints:
    """Makes fingerprints of documents: a pure function of the text and these settings, on any machine.

    Args:
        minhash: None for the hash alone.
    """

    def __init__(self, minhash: MinHash | None = None):
        self.minhash = minhash
        if minhash is not None:
            random = np.random.Generator(np.random.PCG64(minhash.seed))
            self._factors_P1 = random.integers(0, 2**32, (minhash.permutations, 1), np.uint32) | np.uint32(1)
            self._offsets_P1 = random.integers(0, 2**32, (minhash.permutations, 1), np.uint32)

    @property
    def width(self) -> int:
        """Places of a fingerprint: H, and P where there are signatures."""
        return HASH + (self.minhash.permutations if self.minhash else 0)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns texts as fingerprints, uint32 [N,H+P]; many at once are several times faster than one by one."""
        made = np.empty((len(texts), self.width), np.uint32)
        for row, text in enumerate(texts):
            made[row, :HASH] = np.frombuffer(_digest(" ".join(text.lower().split()), 4 * HASH), "<u4")
        if self.minhash is not None:
            begin, size = 0, 0
            for row, text in enumerate(texts):
                size += len(text)
                if size >= _MOST_AT_ONCE or row == len(texts) - 1:
                    made[begin : row + 1, HASH:] = self._signatures(texts[begin : row + 1])
                    begin, size = row + 1, 0
        return made

    def _signatures(self, texts: Sequence[str]) -> np.ndarray:
        """Returns MinHash signatures, uint32 [N,P]."""
        run = self.minhash.words
        hashes_W, lengths_N = word_hashes(texts)
        # A text that is shorter than a run is a run of its own.
        padded_N = np.maximum(lengths_N, run)
        firsts_N = np.cumsum(padded_N) - padded_N
        padded = np.zeros(int(padded_N.sum()), np.uint64)
        padded[_ranges(firsts_N, lengths_N)] = hashes_W
        runs = padded[: len(padded) - run + 1].copy()
        for offset in range(1, run):
            runs *= _FACTOR
            runs += padded[offset : offset + len(runs)]
        counts_N = padded_N - run + 1
        shingles_S = (mixed(runs[_ranges(firsts_N, counts_N)]) >> np.uint64(32)).astype(np.uint32)
        ends_N = np.cumsum(counts_N)
        signatures_PN = np.full((self.minhash.permutations, len(texts)), NOTHING, np.uint32)
        for begin in range(0, len(shingles_S), _BLOCK):
            permuted_PS = shingles_S[begin : begin + _BLOCK] * self._factors_P1
            permuted_PS += self._offsets_P1
            first, last = np.searchsorted(ends_N, [begin, begin + permuted_PS.shape[1] - 1], side="right")
            here = slice(first, last + 1)
            least = np.minimum.reduceat(permuted_PS, np.maximum((ends_N - counts_N)[here] - begin, 0), axis=1)
            signatures_PN[:, here] = np.minimum(signatures_PN[:, here], least)
        signatures_PN[:, lengths_N == 0] = NOTHING
        return signatures_PN.T


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns hashes of the words of all texts, in lower case and without punctuation, uint64 [W], and their numbers [N]."""
    hashes, counts_N = [], np.zeros(len(texts), np.int64)
    pieces: list[str] = []
    rows: list[int] = []
    size = 0

    def hash_pieces() -> None:
        nonlocal size
        if pieces:
            found, counts = _hashes_of(pieces)
            hashes.append(found)
            np.add.at(counts_N, rows, counts)
        pieces.clear(), rows.clear()
        size = 0

    for row, text in enumerate(texts):
        text, begin = text.lower(), 0
        while begin < len(text):
            end = begin + _MOST_CHARACTERS
            if end < len(text):
                end = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end)) + 1 or end
            pieces.append(text[begin:end])
            rows.append(row)
            size += len(pieces[-1])
            begin = end
            if size >= _MOST_CHARACTERS:
                hash_pieces()
    hash_pieces()
    return np.concatenate([np.zeros(0, np.uint64), *hashes]), counts_N


def _hashes_of(pieces: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns hashes of the words of pieces of text, and how many each has: all at once, over their code points."""
    codes = np.frombuffer("\0".join(pieces).encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    inside = kinds > 0
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | (kinds[1:] == 2) | (kinds[:-1] == 2)
    begins = np.flatnonzero(begins)
    ends = np.cumsum([len(piece) + 1 for piece in pieces])
    counts = np.diff(np.searchsorted(begins, ends), prepend=0)
    if not len(begins):
        return np.zeros(0, np.uint64), counts
    # A character counts by its place in its word, those between words not at all.
    begin = begins[0]
    places = np.arange(begin, len(codes)) - np.repeat(begins, np.diff(begins, append=len(codes)))
    values = _FACTORS[places & (len(_FACTORS) - 1)] * codes[begin:]
    values *= inside[begin:]
    return mixed(np.add.reduceat(values, begins - begin)), counts


@functools.cache
def _kinds() -> np.ndarray:
    """Returns for each code point whether it is part of words (1), a word of its own (2) or neither (0), uint8."""
    kinds = np.fromiter((chr(code).isalnum() for code in range(0x110000)), np.uint8, 0x110000)
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= 2
    return kinds


def _ranges(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns first, first + 1, ... of each range, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(firsts - before, counts)


def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns the estimated Jaccard similarities of fingerprints, float [N]; 0 for texts without words."""
    ours, theirs = ours[..., HASH:], theirs[..., HASH:]
    return (ours == theirs).mean(axis=-1) * (ours != NOTHING).any(axis=-1)


def bands(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Returns (bands, rows of a band): the most selective ones that `recall` of the pairs at the threshold share a band in."""
    for rows in range(permutations, 1, -1):
        number = permutations // rows
        if 1 - (1 - threshold**rows) ** number >= recall:
            return number, rows
    return permutations, 1


def mixed(values: np.ndarray) -> np.ndarray:
    """Returns 64-bit values scrambled so that every bit depends on every bit (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
