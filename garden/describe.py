"""What a directory holds, a model or an export, told without building a network."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from garden.checkpoints import huggingface
from garden.checkpoints.sentence_transformers import embeds_texts, read_modules
from garden.models.backbone import family_of


def describe(path: Path) -> dict[str, Any]:
    """Returns what is in a directory, as JSON can hold it.

    Of a model in the Hugging Face layout: `model`, `family`, `task`, `labels` where it has any, `parameters`, `config`. Of an
    export, or one version of it: `export`, `versions`, `bytes` and `signatures` (name -> inputs -> outputs) of the newest.

    Raises FileNotFoundError and ValueError for anything else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such directory; give a model's directory, or an export's")
    return _describe_export(path) if _versions(path) else _describe_model(path)


def _versions(path: Path) -> list[Path]:
    """Returns the SavedModels that a directory is or has as its versions, oldest first."""
    if (path / "saved_model.pb").is_file():
        return [path]
    with contextlib.suppress(NotADirectoryError):
        versions = [child for child in path.iterdir() if child.name.isdigit() and (child / "saved_model.pb").is_file()]
        return sorted(versions, key=lambda version: int(version.name))
    return []


def _describe_model(path: Path) -> dict[str, Any]:
    """Returns what a directory in the Hugging Face layout holds, without building the network."""
    values = huggingface.read_config(path)
    family = family_of(values, path / huggingface.CONFIG_FILE)
    tasks = ["text-embedding"] if embeds_texts(path) else family.tasks_named(values)
    with huggingface.open_weights(path) as weights:
        parameters = sum(math.prod(weights.shape(name)) for name in weights)
    labels = values.get("id2label")
    return {
        "model": str(path),
        "family": family.model_type,
        "task": tasks[0] if tasks else "none (a backbone)",
        **(
            {"labels": list(labels.values())}
            if tasks in (["text-classification"], ["token-classification"]) and labels
            else {}
        ),
        **_embedding(path),
        **_generator(path),
        "parameters": parameters,
        "config": family.config.from_dict(values, path / huggingface.CONFIG_FILE).to_dict(),
    }


def _embedding(path: Path) -> dict[str, Any]:
    """Returns how a model that embeds texts does it."""
    modules = read_modules(path)
    return {} if modules is None else {"pooling": modules.pooling, "normalized": modules.normalize}


def _generator(path: Path) -> dict[str, Any]:
    """Returns the size of the generator beside a discriminator."""
    if not (path / "generator" / huggingface.CONFIG_FILE).is_file():
        return {}
    with huggingface.open_weights(path / "generator") as weights:
        return {"generator_parameters": sum(math.prod(weights.shape(name)) for name in weights)}


def _describe_export(path: Path) -> dict[str, Any]:
    """Returns the versions of an export and the newest one's signatures."""
    versions = _versions(path)
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((versions[-1] / "saved_model.pb").read_bytes())
    except DecodeError:
        raise ValueError(
            f"{versions[-1] / 'saved_model.pb'}: not a SavedModel, or cut short; export it again"
        ) from None

    def told(tensors: Any) -> str:
        return ", ".join(
            f"{name} {types_pb2.DataType.Name(tensor.dtype).removeprefix('DT_').lower()}"
            f"[{','.join('?' if size.size < 0 else str(size.size) for size in tensor.tensor_shape.dim)}]"
            for name, tensor in sorted(tensors.items())
        )

    signatures = {
        name: f"{told(signature.inputs)} -> {told(signature.outputs)}"
        for graph in saved.meta_graphs[:1]
        for name, signature in sorted(graph.signature_def.items())
        if not name.startswith("__")
    }
    size = sum(file.stat().st_size for file in versions[-1].rglob("*") if file.is_file())
    return {
        "export": str(path),
        "versions": [int(version.name) for version in versions if version.name.isdigit()],
        "bytes": size,
        "signatures": signatures,
    }
