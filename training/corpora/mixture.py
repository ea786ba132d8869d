"""In which order training takes the rows of a corpus, and how much each source counts.

Batch i is a function of the seed and i alone: a run resumes by starting at i, and any number of workers agrees on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.corpora.permutation import permuted

BLOCK = 4096
"""Draws within which every source gets its share, to a row."""


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
        self._shares = np.array([1.0] if natural else list(shares(sizes, weights, temperature).values()))

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
                result[mine] = self._of_source(source, counts[draws[mine] % BLOCK])
        return result

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source of each draw of a block, and how many draws of that source came before it."""
        # What is due to the first k sources is rounded down, so that shares add up in every block and over all of them.
        due = [
            np.floor(np.append(0, np.cumsum(self._shares)) * (b * BLOCK) + 1e-9).astype(np.int64)
            for b in (block, block + 1)
        ]
        due[0][-1], due[1][-1] = block * BLOCK, (block + 1) * BLOCK
        before, after = np.diff(due[0]), np.diff(due[1])
        sources = np.repeat(np.arange(len(self.sizes)), np.maximum(after - before, 0))
        sources = sources[permuted(np.arange(BLOCK), BLOCK, self.seed + block)]
        counts = np.empty(BLOCK, np.int64)
        for source in range(len(self.sizes)):
            mine = sources == source
            counts[mine] = before[source] + np.arange(mine.sum())
        return sources, counts

    def _of_source(self, source: int, draws: np.ndarray) -> np.ndarray:
        size = self.sizes[source]
        result = np.empty(len(draws), np.int64)
        for each in np.unique(draws // size):
            here = draws // size == each
            seed = int(np.random.SeedSequence([self.seed, source, int(each)]).generate_state(1)[0])
            result[here] = permuted(draws[here] % size, size, seed)
        return result + self._first[source]
