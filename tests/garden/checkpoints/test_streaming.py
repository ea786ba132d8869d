"""Strips of tensors into variables: the same as whole tensors, whatever their sizes and types."""

import dataclasses

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from garden.checkpoints import streaming
from garden.checkpoints.huggingface import open_weights, write_weights
from garden.checkpoints.weight_map import copy, fused, load, transposed
from garden.checkpoints.weights import Weights

RULES = [
    copy("table", "words"),
    copy("scale", "norm"),
    copy("deep", "convolution"),
    transposed("kernel", "dense"),
    fused("qkv", "q", "k", "v", sizes=(5, 3, 3)),
    fused("qkv_bias", "q_bias", "k_bias", "v_bias", sizes=(5, 3, 3)),
]
SHAPES = {"table": (50, 7), "scale": (9,), "deep": (4, 3, 2), "kernel": (6, 33), "qkv": (8, 11), "qkv_bias": (11,)}


def tensors(dtype) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape).astype(dtype)
    return {
        "words": draw(50, 7),
        "norm": draw(9),
        "convolution": draw(4, 3, 2),
        "dense": draw(33, 6),
        **{name: draw(size, 8) for name, size in zip("qkv", (5, 3, 3), strict=True)},
        **{f"{name}_bias": draw(size) for name, size in zip("qkv", (5, 3, 3), strict=True)},
    }


def variables(dtype: str) -> dict[str, keras.Variable]:
    return {name: keras.Variable(np.zeros(shape), dtype=dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("strip", [1, 40, 2**21])
@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
@pytest.mark.parametrize("untouched", [True, False])
def test_strips_are_whole_tensors(tmp_path, monkeypatch, strip, stored, wanted, untouched):
    monkeypatch.setattr(streaming, "STRIP_BYTES", strip)
    given = tensors(stored)
    write_weights(tmp_path, given)
    here, plain = variables(wanted), variables(wanted)
    with open_weights(tmp_path) as weights:
        load(here, RULES, weights, untouched=untouched)
        whole = [(name, dataclasses.replace(weights.source(name), read_rows=None)) for name in weights]
        load(plain, RULES, Weights(whole, path=weights.path, close=lambda: None))
    for name in SHAPES:
        np.testing.assert_array_equal(here[name].numpy(), plain[name].numpy(), err_msg=name)
    np.testing.assert_array_equal(here["kernel"].numpy(), given["dense"].T.astype(here["kernel"].numpy().dtype))


def test_no_tensor_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "STRIP_BYTES", 64)
    write_weights(tmp_path, tensors(np.float32))
    with open_weights(tmp_path) as weights:
        monkeypatch.setattr(type(weights), "__getitem__", lambda self, name: pytest.fail(f"{name} was read whole"))
        load(variables("float32"), RULES, weights)


def test_variables_without_places_are_left_alone(tmp_path):
    write_weights(tmp_path, {"a": np.zeros((0, 3), np.float32), "b": np.zeros((3, 0), np.float32)})
    here = {"a": keras.Variable(np.zeros((0, 3))), "b": keras.Variable(np.zeros((0, 3)))}
    with open_weights(tmp_path) as weights:
        load(here, [copy("a", "a"), transposed("b", "b")], weights)


def test_a_file_that_became_shorter_is_named(tmp_path):
    write_weights(tmp_path, tensors(np.float32))
    file = tmp_path / "model.safetensors"
    with open_weights(tmp_path) as weights:
        file.write_bytes(file.read_bytes()[:-400])
        with pytest.raises(ValueError, match=r"model.safetensors: the file became shorter while it was read"):
            load(variables("float32"), RULES, weights)


@pytest.mark.parametrize("untouched", [True, False])
def test_what_was_read_before_stays_and_what_is_loaded_can_be_trained(tmp_path, untouched):
    write_weights(tmp_path, tensors(np.float32))
    here = variables("float32")
    before = {name: tf.convert_to_tensor(variable.value) for name, variable in here.items()}
    with open_weights(tmp_path) as weights:
        load(here, RULES, weights, untouched=untouched)
    for name, variable in here.items():
        assert not before[name].numpy().any()
        loaded = variable.numpy().copy()
        held = tf.convert_to_tensor(variable.value)
        variable.assign_add(np.ones(SHAPES[name], np.float32))
        np.testing.assert_array_equal(variable.numpy(), loaded + 1)
        np.testing.assert_array_equal(held, loaded)
