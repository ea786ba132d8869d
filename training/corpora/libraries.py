"""Libraries that only corpora need, which come with the extra `corpora`."""

from __future__ import annotations

import importlib
from types import ModuleType


def library(module: str, purpose: str) -> ModuleType:
    """Imports and returns a module of an optional library; ImportError, with the remedy, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {module} ({error}): pip install 'tf-garden[corpora]'") from None
