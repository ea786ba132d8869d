"""Replaced token detection: what the generator of an ELECTRA is to fill in (Clark et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from training.configuration import key
from training.objectives.masked_lm import MaskedLanguage


@dataclass(frozen=True, kw_only=True)
class ReplacedTokens(MaskedLanguage):
    """As `MaskedLanguage`, with the shares of the released code: 85 % of the chosen tokens become the mask, 15 % stay.

    The task draws the generator's tokens, and knows from y what stood there.
    """

    task = "replaced-token-detection"

    mask_share: float = key("share of these that become the mask", 0.85, least=0, most=1)
    random_share: float = key("share of these that become a random token; the rest stay", 0.0, least=0, most=1)
