"""Garden: pre-trained language models for TensorFlow and Keras 3, from strings to answers.

Public names are imported when they are first used, so that `import garden` (and `garden --help`) costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from garden.layers import SavedModelLayer
    from garden.models.backbone import Backbone
    from garden.tasks import (
        CausalLM,
        Examples,
        MaskedLM,
        MaskedLMWithPairs,
        QuestionAnswerer,
        ReplacedTokenDetector,
        Seq2SeqLM,
        TextClassifier,
        TextEmbedder,
        TokenClassifier,
        read_examples,
    )
    from garden.tokenizers import Tokenizer

__version__ = "0.1.0"

_MODULES = {
    "Backbone": "garden.models.backbone",
    "CausalLM": "garden.tasks",
    "Examples": "garden.tasks",
    "MaskedLM": "garden.tasks",
    "MaskedLMWithPairs": "garden.tasks",
    "QuestionAnswerer": "garden.tasks",
    "ReplacedTokenDetector": "garden.tasks",
    "SavedModelLayer": "garden.layers",
    "Seq2SeqLM": "garden.tasks",
    "TextClassifier": "garden.tasks",
    "TextEmbedder": "garden.tasks",
    "TokenClassifier": "garden.tasks",
    "Tokenizer": "garden.tokenizers",
    "read_examples": "garden.tasks",
}

__all__ = [
    "Backbone",
    "CausalLM",
    "Examples",
    "MaskedLM",
    "MaskedLMWithPairs",
    "QuestionAnswerer",
    "ReplacedTokenDetector",
    "SavedModelLayer",
    "Seq2SeqLM",
    "TextClassifier",
    "TextEmbedder",
    "TokenClassifier",
    "Tokenizer",
    "read_examples",
]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in {"analysis", "checkpoints", "generation", "layers", "models", "tasks", "tokenizers"}:
        return importlib.import_module(f"garden.{name}")
    raise AttributeError(f"module 'garden' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
