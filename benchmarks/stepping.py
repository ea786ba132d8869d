"""What the sides of pre-training have in common: variants that are tried, of which the fastest takes the turns. NumPy only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from benchmarks.masked_rows import MaskedRows
from benchmarks.turns import timed


class Stepping:
    """Base of the sides: `stepper` makes a variant's training step.

    Args:
        layers, width, heads, inner_width, vocabulary_size: the network's sizes.
        rows: a file of `MaskedRows`.
        batch_rows: rows of a step.
        learning_rate, seed: of the training.
    """

    variants: ClassVar[Sequence[str]]

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        inner_width: int,
        vocabulary_size: int,
        rows: str,
        batch_rows: int,
        learning_rate: float,
        seed: int,
    ):
        self.layers, self.width, self.heads, self.inner_width = layers, width, heads, inner_width
        self.vocabulary_size, self.learning_rate, self.seed = vocabulary_size, learning_rate, seed
        self.rows, self.batch_rows = MaskedRows.load(rows), batch_rows
        self._steps: dict[str, Callable[[], object]] = {}

    def stepper(self, variant: str) -> Callable[[], object]:
        """Returns a function that trains on the next batch."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it trains")

    def prepare(self, *, warm_up: int) -> dict[str, Any]:
        """Takes `warm_up` steps with each variant, of which the last two thirds are timed, and keeps the fastest."""
        steps, first, tried = {}, {}, {}
        for variant in self.variants:
            steps[variant] = self.stepper(variant)
            seconds = [timed(steps[variant]) for _ in range(warm_up)]
            first[variant] = round(seconds[0], 3)
            tried[variant] = round(self.tokens / statistics.median(seconds[warm_up // 3 :]), 1)
        self.chosen = max(tried, key=tried.get)
        self._steps["rows"] = steps[self.chosen]
        return {
            "variant": self.chosen,
            "tried_tokens_per_second": tried,
            "first_step_seconds": first[self.chosen],
        }

    def turn(self, *, steps: int, source: str = "rows") -> dict[str, Any]:
        """Trains `steps` steps."""
        step = self._steps[source]
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": steps * self.tokens, "tokens_per_second": steps * self.tokens / seconds}

    @property
    def tokens(self) -> int:
        """Real tokens of a step: there is no padding."""
        return self.batch_rows * self.length

    @property
    def length(self) -> int:
        """T."""
        return self.rows.token_ids.shape[1]
