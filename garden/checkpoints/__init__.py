"""Read and write published checkpoints: one tensor at a time, checked before anything changes."""

from garden.checkpoints.huggingface import open_weights, read_config, write_config, write_weights
from garden.checkpoints.weights import Weights, alias, modern_names, strip_prefix

__all__ = [
    "Weights",
    "alias",
    "modern_names",
    "open_weights",
    "read_config",
    "strip_prefix",
    "write_config",
    "write_weights",
]
