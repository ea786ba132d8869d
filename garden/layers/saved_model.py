"""Any SavedModel of TensorFlow 2 as a Keras 3 layer: `SavedModelLayer("https://tfhub.dev/...")`.

TensorFlow Hub's own KerasLayer is one of legacy tf-keras, and Keras's TFSMLayer computes but does not train.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from garden.checkpoints.tf_hub import saved_model_directory

_HALF = (tf.float16, tf.bfloat16)


@keras.saving.register_keras_serializable("garden")
class SavedModelLayer(keras.layers.Layer):
    """Computes what a SavedModel computes, and trains its variables where it says which ones are to be trained.

    Inputs: what the SavedModel takes: a tensor, a list or a dictionary of tensors, strings too. Output: what it gives.
    The layer follows TensorFlow Hub's conventions for reusable SavedModels: `__call__`, `variables` and
    `trainable_variables` (without them: those that `__call__` reads), `regularization_losses`. As with batch
    normalisation, dropout and the like are active only when the layer is trainable and called with `training=True`.
    Types are the SavedModel's: a Keras policy changes none.

    Args:
        source: a SavedModel's directory, or a URL of TF Hub. It is kept by this name in get_config and in .keras files,
            which hold the weights but not the graph.
        signature: the name of a signature; default: `__call__`, or "serving_default" when the SavedModel has none.
        output: which one to return where the SavedModel gives a dictionary; default: the dictionary.
        arguments: further arguments of the SavedModel's function, such as {"seq_length": 128}.
        trainable: whether its trainable variables are trained, and its regularisation losses added. Signatures cannot.

    Example:
        layer = garden.SavedModelLayer("exports/encoder", output="pooled_output", trainable=True)
        logits = keras.layers.Dense(2)(layer({"input_word_ids": ids, "input_mask": mask, "input_type_ids": types}))

    Raises FileNotFoundError when there is no such SavedModel; ValueError for a signature that it does not have, and for
    `trainable=True` where it cannot be trained.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        *,
        signature: str | None = None,
        output: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        trainable: bool = False,
        **kwargs,
    ):
        # Inputs keep their types, whatever the layer's policy says.
        super().__init__(trainable=trainable, autocast=False, **kwargs)
        self.source = os.fspath(source)
        self.signature, self.output_name = signature, output
        self.arguments = dict(arguments or {})
        self.supports_jit = False  # many compute with strings and tables
        # As an attribute it is tracked, so that what it refers to goes along when the layer is exported.
        self.saved_model = _loaded(saved_model_directory(source))
        self._through_signature, self._function = self._chosen_function()
        self._takes_training = not self._through_signature and _takes_training(self._function)
        self._adopt_variables()
        self.trainable = trainable
        self._check_trainable()
        self.built = True

    def _chosen_function(self) -> tuple[bool, Callable]:
        signatures = getattr(self.saved_model, "signatures", {})
        name = self.signature
        if name is None:
            if callable(self.saved_model):
                return False, self.saved_model
            name = "serving_default"
        if name not in signatures:
            known = ", ".join(sorted(signatures)) or "none"
            raise ValueError(f'{self.source}: no signature "{name}"; it has: {known}')
        return True, signatures[name]

    def _adopt_variables(self) -> None:
        """Makes Keras variables over the SavedModel's own, so that whatever trains those trains these."""
        every, trained = self._variables("variables"), self._variables("trainable_variables")
        trainable = {id(variable) for variable in trained}
        for variable in {id(variable): variable for variable in (*every, *trained)}.values():
            if variable.dtype == tf.string:
                continue  # Keras has no such variables; the graph finds them where they are
            adopted = keras.Variable(
                np.zeros(variable.shape, variable.dtype.as_numpy_dtype),
                dtype=variable.dtype.name,
                trainable=id(variable) in trainable,
                autocast=False,
                name=variable.name.split(":")[0].replace("/", "_"),
            )
            adopted._value = variable
            self._track_variable(adopted)

    def _variables(self, kind: str) -> list[tf.Variable]:
        """Those that the SavedModel lists, or else those that its function reads."""
        listed = getattr(self.saved_model, kind, None)
        if listed is not None:
            return list(listed)
        functions = [self._function] if self._through_signature else _concrete_functions(self._function)
        return [variable for function in functions for variable in getattr(function, kind)]

    def _check_trainable(self) -> None:
        if not self.trainable:
            return
        if self._through_signature:
            raise ValueError(f"{self.source}: signatures cannot be trained; leave `signature` out, or trainable=False")
        if not self.trainable_weights:
            raise ValueError(f"{self.source}: has no trainable variables; use trainable=False")

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(_with_tensors(inputs), *args, **kwargs)

    def call(self, inputs, training: bool | None = None):
        self._check_trainable()
        inputs = keras.tree.map_structure(_full_precision, inputs)
        if self._through_signature:
            outputs = self._function(**self._named(inputs), **self.arguments)
        elif self._takes_training:
            active = bool(training) and self.trainable
            outputs = self._function(inputs, training=active, **self.arguments)
        else:
            outputs = self._function(inputs, **self.arguments)
        if self.trainable:
            for loss in getattr(self.saved_model, "regularization_losses", ()):
                self.add_loss(loss())
        return outputs if self.output_name is None else self._picked(outputs)

    def _named(self, inputs: Any) -> dict[str, tf.Tensor]:
        """A signature's inputs by name, each of the signature's type."""
        wanted = self._function.structured_input_signature[1]
        if not isinstance(inputs, Mapping):
            if len(wanted) != 1:
                raise ValueError(f"{self.source}: expected a dictionary of {', '.join(sorted(wanted))}")
            inputs = {next(iter(wanted)): inputs}
        if set(inputs) != set(wanted):
            raise ValueError(
                f"{self.source}: expected inputs {', '.join(sorted(wanted))}, got {', '.join(sorted(inputs))}"
            )
        return {
            name: tensor if tensor.dtype == wanted[name].dtype else tf.cast(tensor, wanted[name].dtype)
            for name, tensor in inputs.items()
        }

    def _picked(self, outputs: Any) -> Any:
        if not isinstance(outputs, Mapping):
            raise ValueError(f'{self.source}: gives no dictionary, so there is no output "{self.output_name}"')
        if self.output_name not in outputs:
            raise ValueError(f'{self.source}: no output "{self.output_name}"; it has: {", ".join(sorted(outputs))}')
        return outputs[self.output_name]

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "source": self.source,
            "signature": self.signature,
            "output": self.output_name,
            "arguments": self.arguments,
        }


def _loaded(directory: Path) -> Any:
    try:
        try:
            return tf.saved_model.load(str(directory))
        except (tf.errors.NotFoundError, RuntimeError) as error:
            if "Op type not registered" not in str(error):
                raise
            # Preprocessing models compute with the operations of tensorflow-text, which importing it registers.
            importlib.import_module("tensorflow_text")
            return tf.saved_model.load(str(directory))
    except (tf.errors.OpError, RuntimeError, OSError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{directory}: cannot be loaded ({_first_line(error)})") from None


def _takes_training(function: Callable) -> bool:
    try:
        return "training" in inspect.signature(function.__call__).parameters
    except (TypeError, ValueError):
        return False


def _concrete_functions(function: Callable) -> list[Any]:
    return list(getattr(function.__call__, "concrete_functions", ()))


def _with_tensors(inputs: Any) -> Any:
    """Strings and lists of plain values as tensors, which is what Keras passes on."""
    if isinstance(inputs, Mapping):
        return {name: _with_tensors(value) for name, value in inputs.items()}
    plain = (str, bytes, int, float, bool)
    if isinstance(inputs, plain) or (isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OSU"):
        return tf.constant(inputs)
    if isinstance(inputs, (list, tuple)):
        leaves = keras.tree.flatten(inputs)
        return tf.constant(inputs) if leaves and all(isinstance(leaf, plain) for leaf in leaves) else inputs
    return inputs


def _full_precision(tensor: Any) -> Any:
    """What comes out of layers in half precision, as SavedModels expect it."""
    return tf.cast(tensor, tf.float32) if getattr(tensor, "dtype", None) in _HALF else tensor


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
