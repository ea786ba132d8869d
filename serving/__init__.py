"""How a network answers: exports for TF Serving, a server for laptops and tests, and a client."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.client import Client
    from serving.export import export

__all__ = ["Client", "export"]


def __getattr__(name: str):
    if name == "export":
        # The module, which is callable: importing `serving.export` anywhere puts it here in any case.
        return importlib.import_module("serving.export")
    if name == "Client":
        return importlib.import_module("serving.client").Client
    raise AttributeError(f"module 'serving' has no attribute {name!r}")
