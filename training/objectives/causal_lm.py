"""Causal language modelling: each token from those before it in its segment (Radford et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from garden.tasks.causal_lm import next_tokens
from training.objectives.base import Objective


@dataclass(frozen=True, kw_only=True)
class CausalLanguage(Objective):
    """The token after each place.

    x: `token_ids`, `segment_ids`, `positions` [B,T]; y: the next tokens [B,T] int32; weights [B,T] float32: 0 at the last token
    of each segment and in padding.
    """

    layout = "causal"
    task = "causal-lm"

    def made(self, rows, seed):
        x = {name: rows[name] for name in ("token_ids", "segment_ids", "positions")}
        return x, *next_tokens(x)
