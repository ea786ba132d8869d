"""Task models to SavedModels that take strings and return answers, so that TF Serving needs nothing beside them.

    exports/sentiment/1/    then /2/, /3/: TF Serving serves the highest

Signatures (inputs -> outputs; every output's first dimension is the batch, as REST's row form wants):
    serving_default   text [B] string -> the task's answer, such as label, score, scores, classes
    classify          TF Serving's Classify: serialised tf.Example with the feature `text` -> classes, scores [B,C]
    regress           TF Serving's Regress, for a regression -> outputs [B]
    embed             text [B] string -> embedding [B,D] float32, where the task has it
A model of pairs of texts takes `text_pair` beside `text` everywhere but in `embed`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

from garden.tasks import Task

logger = logging.getLogger(__name__)

SAMPLES = (
    "",
    "A text.",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich 🦊.",
    b"\xff not UTF-8 \xfe",
    "word " * 2_000,
)
"""What every export is tried on, beside the caller's samples: the requests that models are seldom tested with."""

_METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
# Operations that stock TF Serving lacks or switches off.
_FORBIDDEN = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaLaunch", "XlaCallModule"}


def export(model: Task, base: str | os.PathLike, *, samples: Sequence[str] = ()) -> Path:
    """Writes the next version of a model below `base` and returns its directory.

    The SavedModel is written aside, loaded by a fresh process that does not know Garden, and compared with the model on
    sample texts; only then it gets its name. A failure leaves nothing behind.

    Args:
        model: any task model.
        base: the directory that TF Serving watches: `--model_base_path`.
        samples: texts to compare on, beside `SAMPLES`.

    Raises ValueError when `base` is a file, and RuntimeError when the written model answers otherwise.
    """
    base = Path(base)
    if base.exists() and not base.is_dir():
        raise ValueError(f"{base}: is a file; give a directory to export below")
    try:
        base.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=base, prefix=".writing-"))
    except OSError as error:
        raise ValueError(f"{base}: cannot be written to ({error.strerror}); give another directory") from None
    try:
        written = aside / "model"
        functions = signatures(model)
        tf.saved_model.save(_module(model, functions), str(written), signatures=functions)
        _name_methods(written)
        check(written, functions, [*SAMPLES, *samples], tolerance=1e-4 if model.compute_dtype == "float32" else 3e-2)
        return _named(written, base)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def signatures(model: Task) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Returns the functions that a model's export offers, by signature name."""
    names = ("text", "text_pair") if model.pairs else ("text",)
    columns = [tf.TensorSpec([None], tf.string, name=name) for name in names]
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
    inputs = tf.TensorSpec([None], tf.string, name="inputs")

    def of_examples(serialised: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(serialised, features)
        return model.answer(*(parsed[name] for name in names))

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = of_examples(inputs)
        return {"classes": answer["classes"], "scores": answer["scores"]}

    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": of_examples(inputs)["score"]}

    def concrete(function: Callable, *specs: tf.TensorSpec):
        return tf.function(function, autograph=False).get_concrete_function(*specs)

    answer = concrete(lambda *texts: model.answer(*texts), *columns)
    offered = {"serving_default": answer}
    if {"classes", "scores"} <= set(answer.structured_outputs):
        offered["classify"] = concrete(classify, inputs)
    elif set(answer.structured_outputs) == {"score"}:
        offered["regress"] = concrete(regress, inputs)
    if hasattr(model, "embed"):
        offered["embed"] = concrete(lambda text: model.embed(text), columns[0])
    return offered


def check(directory: Path, functions: dict[str, Any], samples: Sequence[str | bytes], *, tolerance: float) -> None:
    """Loads a SavedModel in a fresh process and compares every signature's answers with the given functions'.

    Raises RuntimeError that names the signature and output that differ, or an operation that TF Serving cannot run.
    """
    operations = {node.op for graph in _graphs(directory) for node in graph}
    if forbidden := sorted(operations & _FORBIDDEN):
        raise RuntimeError(f"the export uses operations that TF Serving has not got: {', '.join(forbidden)}")
    requests = []
    for name, function in functions.items():
        texts = [sample.encode() if isinstance(sample, str) else sample for sample in samples]
        for batch in (texts, texts[:1], []):
            requests.append((name, _request(function, batch)))
    expected = [_arrays(functions[name](**_tensors(request))) for name, request in requests]
    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "requests.pickle"
        exchange.write_bytes(pickle.dumps(requests))
        script = Path(__file__).with_name("reload.py")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable, str(script), str(directory.resolve()), str(exchange)]
        # Run from the scratch directory: nothing of this checkout is importable from there.
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the export does not load or answer in a fresh process: {done.stderr.strip()[-2000:]}")
        given = pickle.loads(exchange.read_bytes())
    for (name, _), wanted, got in zip(requests, expected, given, strict=True):
        for output, values in wanted.items():
            if values.dtype.kind == "f":
                same = np.allclose(values, got[output], atol=tolerance, rtol=tolerance)
            else:
                # With a tie, rounding decides which label is best.
                same = values.shape == got[output].shape and (
                    (values == got[output]).all() or output in ("label", "tokens")
                )
            if not same:
                raise RuntimeError(
                    f'the export answers otherwise than the model: signature "{name}", output "{output}"'
                )


def _module(model: Task, functions: dict[str, Any]) -> tf.Module:
    """Returns what the SavedModel keeps: the network's weights and the tokenizer's tables, but no optimiser."""
    module = tf.Module()
    module.weights = [variable.value for layer in (model.backbone, model.head) for variable in layer.variables]
    module.tokenizer = model.tokenizer
    module.functions = dict(functions)
    # What tensorflow_hub.load and garden.SavedModelLayer call.
    answer = functions["serving_default"]
    module.__call__ = tf.function(lambda *texts: answer(*texts), input_signature=answer.structured_input_signature[0])
    return module


def _request(function, texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    names = [spec.name for spec in function.structured_input_signature[0]]
    if names == ["inputs"]:
        features = ("text", "text_pair")
        texts = [_example(dict.fromkeys(features, text)) for text in texts]
    return {name: np.array(texts, dtype=object) for name in names}


def _example(features: dict[str, bytes]) -> bytes:
    feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _tensors(request: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values, tf.string) for name, values in request.items()}


def _arrays(outputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in outputs.items()}


@contextlib.contextmanager
def _saved_model(directory: Path) -> Iterator[saved_model_pb2.SavedModel]:
    path = directory / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    yield saved
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _graphs(directory: Path) -> Iterator[Sequence]:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((directory / "saved_model.pb").read_bytes())
    for meta_graph in saved.meta_graphs:
        yield meta_graph.graph_def.node
        for function in meta_graph.graph_def.library.function:
            yield function.node_def


def _name_methods(directory: Path) -> None:
    """Says which signatures follow TF Serving's own contracts; `tf.saved_model.save` calls all of them Predict."""
    with _saved_model(directory) as saved:
        for meta_graph in saved.meta_graphs:
            for name, method in _METHODS.items():
                if name in meta_graph.signature_def:
                    meta_graph.signature_def[name].method_name = method
    fingerprinting_utils.write_fingerprint(str(directory))


def _named(written: Path, base: Path) -> Path:
    """Renames a finished export to the next free version."""
    while True:
        versions = [int(path.name) for path in base.iterdir() if path.name.isascii() and path.name.isdigit()]
        target = base / str(max(versions, default=0) + 1)
        try:
            # Fails when another export took the number meanwhile: a directory is not renamed over one that has files.
            written.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue
        logger.info("exported %s", target)
        return target


class _Callable(types.ModuleType):
    """Lets `serving.export(model, base)` mean the function, though the module of that name is what Python finds there."""

    def __call__(self, *args, **kwargs) -> Path:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
