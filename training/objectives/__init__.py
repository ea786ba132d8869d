"""What a network learns from rows of tokens: pure functions in the graph from a batch of rows to inputs, targets and weights.

    learn = objective("masked-lm", tokenizer, mask_rate=0.2)
    x, y, weights = learn(rows, seed)

`OBJECTIVES` has the names and, once one is asked for, its class: importing this package, or listing the names, does not import
TensorFlow.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from training import configuration

if TYPE_CHECKING:
    from garden.tokenizers import Tokenizer
    from training.objectives.base import Objective

__all__ = ["OBJECTIVES", "objective", "options_of"]

_CLASSES = {
    "masked-lm": ("masked_lm", "MaskedLanguage"),
    "next-sentence": ("sentence_pairs", "NextSentence"),
    "sentence-order": ("sentence_pairs", "SentenceOrder"),
    "causal-lm": ("causal_lm", "CausalLanguage"),
    "denoising": ("denoising", "Denoising"),
    "span-corruption": ("span_corruption", "SpanCorruption"),
    "replaced-token-detection": ("replaced_tokens", "ReplacedTokens"),
    "contrastive": ("contrastive", "Contrast"),
}


class _Classes(Mapping):
    """Names of objectives to their classes, which are imported when they are asked for."""

    def __getitem__(self, name: str) -> type[Objective]:
        module, kind = _CLASSES[name]
        return getattr(importlib.import_module(f"training.objectives.{module}"), kind)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES


OBJECTIVES: Mapping[str, type[Objective]] = _Classes()


def objective(name: str, tokenizer: Tokenizer, **options: Any) -> Objective:
    """Makes an objective of a name for a tokenizer's rows; `options` are the fields of its class.

    Raises ValueError in one line for a name or an option that does not exist, a value that is not possible, and a tokenizer
    that lacks what the objective needs.
    """
    settings = configuration.make(options_of(name), options, where=f'objective "{name}"')
    try:
        return OBJECTIVES[name](tokenizer=tokenizer, **dataclasses.asdict(settings))
    except ValueError as error:
        raise ValueError(f'objective "{name}": {error}') from None


def options_of(name: str) -> type:
    """Returns the options of an objective as a config class, whose `configuration.key_table` a help page can print."""
    if name not in OBJECTIVES:
        raise ValueError(f'objective: expected one of {", ".join(OBJECTIVES)}, got "{name}"')
    kind = OBJECTIVES[name]
    declared = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if "meaning" in field.metadata]
    options = [
        (field.name, declared[field.name], dataclasses.field(default=field.default, metadata=field.metadata))
        for field in fields
    ]
    return dataclasses.make_dataclass(f"{kind.__name__}Options", options, frozen=True, kw_only=True)
