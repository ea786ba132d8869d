"""In which order training takes the rows of a corpus, and how much each source counts.

Batch i is a function of the seed and i alone: a run resumes by starting at i, and any number of workers agrees on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.corpora.permutation import permuted

BLOCK = 1 << 16
"""Draws among which every source has its share, rounded to a whole number and to one at least: the same in every block."""


def shares(sizes: Mapping[str, int], weights: Mapping[str, float | None], temperature: float = 1.0) -> dict[str, float]:
    """Returns each source's share of the draws: its weight to the power 1 / temperature, normalised.

    Args:
        sizes: rows of each source: the weight of those that have none of their own.
        weights: weights relative to each other, of all sources or of none.
        temperature: above 1 shares move towards equal ones (Devlin et al., 2019, multilingual BERT; Arivazhagan et al., 2019).
    """
    given = [name for name in sizes if weights.get(name) is not None]
    if given and len(given) < len(sizes):
        missing = next(name for name in sizes if name not in given)
        raise ValueError(f'weights: source "{missing}" has none, though "{given[0]}" has; give one to each or to none')
    powers = {name: float(weights[name] if given else size) ** (1 / temperature) for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


class RowOrder:
    """Endless draws from the rows of several sources: draw i is row `numbers([i])[0]`.

    Each source's rows come in a new order in each of its passes, and each of them once a pass. Sources with their natural
    shares are one source: a pass takes every row once.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        seed: int,
        weights: Mapping[str, float | None] | None = None,
        temperature: float = 1.0,
    ):
        sizes = {name: size for name, size in sizes.items() if size}
        if not sizes:
            raise ValueError("the corpus has no rows")
        weights = weights or {}
        natural = temperature == 1 and all(weights.get(name) is None for name in sizes)
        self.sizes = [sum(sizes.values())] if natural else list(sizes.values())
        self.seed = seed
        self._first = np.cumsum([0, *self.sizes[:-1]])
        self._quotas = [BLOCK] if natural else _quotas(list(shares(sizes, weights, temperature).values()))
        self._latest: tuple[int, np.ndarray, np.ndarray] | None = None  # batches mostly come from one block

    def numbers(self, draws: np.ndarray) -> np.ndarray:
        """Returns the rows' numbers of draws [M] int64."""
        draws = np.asarray(draws, np.int64)
        if len(self.sizes) == 1:
            return self._of_source(0, draws)
        result = np.empty(len(draws), np.int64)
        for block in np.unique(draws // BLOCK):
            here = draws // BLOCK == block
            sources, counts = self._block(int(block))
            for source in range(len(self.sizes)):
                mine = here & (sources[draws % BLOCK] == source)
                result[mine] = self._of_source(source, block * self._quotas[source] + counts[draws[mine] % BLOCK])
        return result

    def _block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source of each draw of a block, and how many draws of that source in the block come before it."""
        if self._latest is None or self._latest[0] != number:
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            sources = np.repeat(np.arange(len(self.sizes)), self._quotas)[permuted(np.arange(BLOCK), BLOCK, seed)]
            counts = np.empty(BLOCK, np.int64)
            for source, quota in enumerate(self._quotas):
                counts[sources == source] = np.arange(quota)
            self._latest = (number, sources, counts)
        return self._latest[1:]

    def _of_source(self, source: int, draws: np.ndarray) -> np.ndarray:
        size = self.sizes[source]
        result = np.empty(len(draws), np.int64)
        for each in np.unique(draws // size):
            here = draws // size == each
            seed = int(np.random.SeedSequence([self.seed, source, int(each)]).generate_state(1)[0])
            result[here] = permuted(draws[here] % size, size, seed)
        return result + self._first[source]


def _quotas(parts: Sequence[float]) -> list[int]:
    """Returns shares as whole numbers that add up to a block, each one at least, by largest remainders."""
    exact = np.asarray(parts) * BLOCK
    quotas = np.maximum(np.floor(exact), 1).astype(np.int64)
    order = np.argsort(quotas - exact, kind="stable")
    missing = BLOCK - int(quotas.sum())
    quotas[order[: max(missing, 0)]] += 1
    quotas[np.argmax(quotas)] += min(missing, 0)  # what the smallest sources have above their share
    return quotas.tolist()
