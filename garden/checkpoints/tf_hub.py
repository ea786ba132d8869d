"""SavedModels of TF Hub: where a handle's files are, and BERT's encoders as tf-models-official exports them.

Such an encoder maps input_word_ids, input_mask and input_type_ids to pooled_output, sequence_output and encoder_outputs.
Its vocabulary is an asset, and a SavedModel for preprocessing that is published beside it has the vocabulary too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import URLError

from google.protobuf.message import DecodeError
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf import saved_model_pb2

from garden.checkpoints.bert_sources import Source
from garden.checkpoints.models_official import models_official_source
from garden.checkpoints.tensorflow_checkpoints import find_checkpoint, open_checkpoint

SAVED_MODEL_FILE = "saved_model.pb"
_LOWER_CASE_KEY = "do_lower_case/.ATTRIBUTES/VARIABLE_VALUE"
# What activations consist of, those that contain others first.
_ACTIVATIONS = (
    ({"Softplus", "Tanh"}, "mish"),
    ({"Erf"}, "gelu"),
    ({"Erfc"}, "gelu"),
    ({"Tanh", "Pow"}, "gelu_new"),
    ({"Tanh"}, "tanh"),
    ({"Relu6"}, "relu6"),
    ({"Relu"}, "relu"),
    ({"Sigmoid"}, "silu"),
)


def saved_model_directory(handle: str | os.PathLike) -> Path:
    """The directory of a SavedModel: `handle` itself, or where tensorflow-hub keeps what it fetches for a URL.

    Raises FileNotFoundError when there is no such directory or no SavedModel in it, ValueError when a URL cannot be
    fetched, ImportError when that takes the package tensorflow-hub and it is not installed.
    """
    directory = Path(_fetched(handle) if "://" in str(handle) else handle)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory; give a SavedModel's, or a handle (https://...)")
    if not (directory / SAVED_MODEL_FILE).is_file():
        raise FileNotFoundError(f"{directory}: no {SAVED_MODEL_FILE}; give a SavedModel's directory")
    return directory


def _fetched(handle: str | os.PathLike) -> str:
    try:
        import tensorflow_hub
    except ImportError as error:
        raise ImportError(f"{handle}: handles need tensorflow-hub ({error}): pip install 'tf-garden[hub]'") from None
    try:
        return tensorflow_hub.resolve(str(handle))
    except (URLError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{handle}: cannot be fetched ({reason}); download it and give its directory") from None


@dataclass(frozen=True)
class Vocabulary:
    """What a SavedModel says of its WordPiece tokenizer."""

    path: Path
    lower_case: bool | None  # None where it does not say


def open_tf_hub(handle: str | os.PathLike, given: Mapping[str, Any] | None = None) -> Source:
    """Open the variables of an encoder; `given` holds fields of a config.json that they do not show.

    The activation is read off the saved graph. Raises ValueError when the SavedModel is not a BERT.
    """
    directory = saved_model_directory(handle)
    graph = _MetaGraph(directory)
    checkpoint = open_checkpoint(find_checkpoint(directory / "variables" / "variables"))
    if not checkpoint.object_based:
        raise ValueError(f"{directory}: is in the format of TensorFlow 1; only SavedModels of TensorFlow 2 are read")
    return models_official_source(checkpoint, {**graph.activation(), **(given or {})})


def read_vocabulary(handle: str | os.PathLike) -> Vocabulary:
    """The vocabulary of an encoder's or a preprocessing SavedModel, and whether it is for lower-cased text.

    Raises FileNotFoundError when there is none, ValueError when it is one of SentencePiece.
    """
    directory = saved_model_directory(handle)
    graph = _MetaGraph(directory)
    name = graph.vocabulary()
    path = directory / "assets" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the SavedModel's vocabulary is missing; copy or download it again")
    return Vocabulary(path, graph.lower_case())


class _MetaGraph:
    """What saved_model.pb says, without loading it."""

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / SAVED_MODEL_FILE
        saved = saved_model_pb2.SavedModel()
        try:
            saved.ParseFromString(path.read_bytes())
        except DecodeError:
            raise ValueError(f"{path}: not a SavedModel, or cut short; copy or download it again") from None
        if not saved.meta_graphs:
            raise ValueError(f"{path}: has no graph; copy or download it again")
        self._graph = saved.meta_graphs[0]

    def vocabulary(self) -> str:
        """The name of the vocabulary's file below assets/."""
        files = [asset.filename for asset in self._graph.asset_file_def]
        if any(".." in PurePosixPath(file).parts or PurePosixPath(file).is_absolute() for file in files):
            raise ValueError(f"{self.directory}: assets {files} are not all below assets/")
        named = self._attribute("vocab_file")
        if named is not None and named.HasField("asset") and named.asset.asset_file_def_index < len(files):
            return files[named.asset.asset_file_def_index]
        if self._attribute("sp_model_file") is not None or any(node.op == "SentencepieceOp" for node in self._nodes()):
            raise ValueError(f"{self.directory}: its tokenizer is SentencePiece; only WordPiece vocabularies are read")
        if len(files) != 1:
            raise FileNotFoundError(
                f"{self.directory}: has {len(files)} assets, expected a vocabulary; give one (the preprocessing model's)"
            )
        return files[0]

    def lower_case(self) -> bool | None:
        """Whether text is lower-cased: a variable of encoders, an operation of preprocessing models."""
        if self._attribute("do_lower_case") is not None:
            checkpoint = open_checkpoint(find_checkpoint(self.directory / "variables" / "variables"))
            stored = [each for each in checkpoint.variables.values() if each.name == _LOWER_CASE_KEY]
            return bool(stored[0].read()) if stored else None
        operations = {node.op for node in self._nodes()}
        if {"CaseFoldUTF8", "StringLower"} & operations:
            return True
        return False if "WordpieceTokenizeWithOffsets" in operations else None

    def activation(self) -> dict[str, str]:
        """The feed-forward layers' activation as a field of config.json, nothing if the graph has none that is known."""
        operations = {node.op for name, node in self._named_nodes() if "layer_0" in name and "pooler" not in name}
        for needed, name in _ACTIVATIONS:
            if needed <= operations:
                return {"hidden_act": name}
        return {}

    def _attribute(self, name: str) -> Any:
        """The root object's attribute, None if it has none of that name."""
        nodes = self._graph.object_graph_def.nodes
        for child in nodes[0].children if nodes else ():
            if child.local_name == name and child.node_id < len(nodes):
                return nodes[child.node_id]
        return None

    def _nodes(self) -> Iterator[NodeDef]:
        return (node for _, node in self._named_nodes())

    def _named_nodes(self) -> Iterator[tuple[str, NodeDef]]:
        """All operations, each with its function's name before its own."""
        yield from ((node.name, node) for node in self._graph.graph_def.node)
        for function in self._graph.graph_def.library.function:
            yield from ((f"{function.signature.name}/{node.name}", node) for node in function.node_def)
