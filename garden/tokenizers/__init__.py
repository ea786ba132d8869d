"""Text to token ids and back, as TensorFlow graphs that any TF Serving loads.

>>> tokenizer = garden.tokenizers.Tokenizer.from_pretrained(directory)
>>> tokenizer(["some text"])  # RaggedTensor [B,(T)] int32, special tokens included
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from garden.tokenizers.added_tokens import AddedToken
    from garden.tokenizers.pipeline import PipelineTokenizer
    from garden.tokenizers.template import Encoding, Part, Template
    from garden.tokenizers.tokenizer import Tokenizer
    from garden.tokenizers.wordpiece import WordPieceTokenizer

# TensorFlow is imported with the first name that needs it, so that `garden --help` does not wait for it.
_HOMES = {
    "AddedToken": "added_tokens",
    "Encoding": "template",
    "Part": "template",
    "PipelineTokenizer": "pipeline",
    "Template": "template",
    "Tokenizer": "tokenizer",
    "WordPieceTokenizer": "wordpiece",
}

__all__ = ["AddedToken", "Encoding", "Part", "PipelineTokenizer", "Template", "Tokenizer", "WordPieceTokenizer"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
