"""Rules between variables and tensors: both ways, and every way they can disagree."""

import dataclasses

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from garden.checkpoints import weight_map
from garden.checkpoints.huggingface import open_weights, write_weights
from garden.checkpoints.weight_map import LoadReport, Rule, copy, dump, fused, load, transposed
from garden.checkpoints.weights import Weights

RULES = [
    copy("table", "embeddings.weight"),
    transposed("out/kernel", "out.weight"),
    copy("out/bias", "out.bias"),
    fused("qkv/kernel", "q.weight", "k.weight", "v.weight", sizes=(40, 20, 20)),
    fused("qkv/bias", "q.bias", "k.bias", "v.bias", sizes=(40, 20, 20)),
    copy("scale", "scale"),
]
SHAPES = {
    "embeddings.weight": (7, 24),
    "out.weight": (5, 24),
    "out.bias": (5,),
    "q.weight": (40, 24),
    "k.weight": (20, 24),
    "v.weight": (20, 24),
    "q.bias": (40,),
    "k.bias": (20,),
    "v.bias": (20,),
    "scale": (),
}


def variables(dtype="float32"):
    shapes = {"table": (7, 24), "out/kernel": (24, 5), "out/bias": (5,), "qkv/kernel": (24, 80), "qkv/bias": (80,)}
    return {name: keras.Variable(np.zeros(shape), dtype=dtype) for name, shape in {**shapes, "scale": ()}.items()}


def tensors(dtype=np.float32):
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def saved(directory, arrays):
    write_weights(directory, arrays)
    return open_weights(directory)


def test_load_puts_every_tensor_where_it_belongs(tmp_path):
    there, here = tensors(), variables()
    assert load(here, RULES, saved(tmp_path, there)) == LoadReport(missing=(), unexpected=())
    x = np.random.default_rng(1).standard_normal((3, 24)).astype(np.float32)
    np.testing.assert_array_equal(here["table"], there["embeddings.weight"])
    np.testing.assert_array_equal(here["scale"], there["scale"])
    np.testing.assert_allclose(x @ here["out/kernel"].numpy(), x @ there["out.weight"].T, rtol=1e-6, atol=1e-6)
    query, key, value = np.split(x @ here["qkv/kernel"].numpy() + here["qkv/bias"].numpy(), [40, 60], axis=-1)
    for name, part in (("q", query), ("k", key), ("v", value)):
        expected = x @ there[f"{name}.weight"].T + there[f"{name}.bias"]
        np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_loaded_is_dumped_again_bit_by_bit(tmp_path, dtype):
    there, here = tensors(dtype), variables(np.dtype(dtype).name)
    load(here, RULES, saved(tmp_path / "a", there))
    again = dict(saved(tmp_path / "b", dump(here, RULES)))
    assert again.keys() == there.keys()
    for name, array in there.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(("stored", "wanted"), [(ml_dtypes.bfloat16, "float32"), (np.float32, "bfloat16")])
def test_tensors_are_cast_to_their_variables_type(tmp_path, stored, wanted):
    there, here = tensors(stored), variables(wanted)
    load(here, RULES, saved(tmp_path, there))
    for variable, tensor in (("table", "embeddings.weight"), ("scale", "scale")):
        assert keras.backend.standardize_dtype(here[variable].dtype) == wanted
        np.testing.assert_array_equal(here[variable].numpy(), there[tensor].astype(wanted))


def test_equal_parts_need_no_sizes(tmp_path):
    arrays = {name: np.full((4, 3), i, np.float32) for i, name in enumerate("qkv")}
    variable = {"qkv": keras.Variable(np.zeros((3, 12)))}
    rules = [fused("qkv", "q", "k", "v")]
    load(variable, rules, saved(tmp_path, arrays))
    np.testing.assert_array_equal(variable["qkv"][0], [0] * 4 + [1] * 4 + [2] * 4)
    np.testing.assert_array_equal(dict(dump(variable, rules))["v"], arrays["v"])


def test_a_rule_of_ones_own(tmp_path):
    rule = Rule("v", ("t",), read=lambda array: array[:, 0], write=lambda array: (array[:, None],))
    variable = {"v": keras.Variable(np.zeros(3))}
    load(variable, [rule], saved(tmp_path, {"t": np.array([[1.0], [2.0], [3.0]], np.float32)}))
    np.testing.assert_array_equal(variable["v"], [1, 2, 3])


def test_training_goes_on_from_loaded_weights(tmp_path):
    """Loading hands memory over to TensorFlow: updates in place must stay in the variable they are meant for."""
    there, here = tensors(), variables()
    weights = saved(tmp_path, there)
    load(here, RULES, weights)
    twin = variables()
    load(twin, RULES, weights)
    before = here["table"].value + 0.0
    here["table"].assign_add(tf.ones((7, 24)))
    np.testing.assert_array_equal(here["table"].numpy(), there["embeddings.weight"] + 1)
    np.testing.assert_array_equal(twin["table"].numpy(), there["embeddings.weight"])
    np.testing.assert_array_equal(before, there["embeddings.weight"])
    np.testing.assert_array_equal(weights["embeddings.weight"], there["embeddings.weight"])


def test_loading_leaves_values_alone_that_were_read_before(tmp_path):
    here = variables()
    read = tf.convert_to_tensor(here["table"].value)
    load(here, RULES, saved(tmp_path, tensors()))
    np.testing.assert_array_equal(read, np.zeros((7, 24)))


def test_variables_of_a_mirrored_strategy(tmp_path):
    there = tensors()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        here = variables()
        load(here, RULES, saved(tmp_path, there))
        dumped = dict(dump(here, RULES))
    for name, array in there.items():
        np.testing.assert_array_equal(dumped[name], array)


def assert_untouched(here):
    for name, variable in here.items():
        np.testing.assert_array_equal(variable.numpy(), np.zeros(variable.shape), err_msg=name)


def test_a_wrong_shape_is_found_before_anything_changes(tmp_path):
    there, here = tensors(), variables()
    there["scale"] = np.ones((3,), np.float32)
    there["v.weight"] = np.ones((20, 25), np.float32)
    with pytest.raises(ValueError) as error:
        load(here, RULES, saved(tmp_path, there), strict=False)
    message = str(error.value)
    assert str(tmp_path / "model.safetensors") in message
    assert 'tensor "v.weight" has shape [20, 25], the network expects [20, 24]' in message
    assert 'tensor "scale" has shape [3], the network expects []' in message
    assert_untouched(here)


def test_a_quantised_tensor_is_not_taken_for_floats(tmp_path):
    there, here = tensors(), variables()
    there["out.weight"] = there["out.weight"].astype(np.int8)
    with pytest.raises(ValueError, match=r'tensor "out.weight" has type int8, the network expects float32'):
        load(here, RULES, saved(tmp_path, there))
    assert_untouched(here)


def test_missing_and_unexpected_tensors(tmp_path):
    there, here = tensors(), variables()
    del there["k.weight"], there["scale"]
    there |= {"head.weight": np.ones(2, np.float32), "embeddings.position_ids": np.arange(4)}
    weights = saved(tmp_path, there)
    with pytest.raises(
        ValueError, match=r"lacks k.weight, scale and has unknown embeddings.position_ids, head.weight; it"
    ):
        load(here, RULES, weights)
    assert_untouched(here)

    report = load(here, RULES, weights, strict=False, ignore=[r".*\.position_ids"])
    assert report == LoadReport(missing=("k.weight", "scale"), unexpected=("head.weight",))
    # A variable of which a part is missing keeps its values, the others are loaded.
    np.testing.assert_array_equal(here["qkv/kernel"].numpy(), np.zeros((24, 80)))
    np.testing.assert_array_equal(here["table"].numpy(), there["embeddings.weight"])


def test_optional_tensors_may_be_missing(tmp_path):
    there = tensors()
    del there["out.weight"], there["out.bias"], there["scale"]
    weights = saved(tmp_path, there)
    with pytest.raises(ValueError, match="lacks scale; it"):
        load(variables(), RULES, weights, optional=[r"out\..*", "sc"])
    here = variables()
    assert load(here, RULES, weights, optional=[r"out\..*", "scale"]).missing == ("out.weight", "out.bias", "scale")
    np.testing.assert_array_equal(here["out/bias"].numpy(), np.zeros(5))
    np.testing.assert_array_equal(here["table"].numpy(), there["embeddings.weight"])


def test_ignored_names_must_match_in_full(tmp_path):
    weights = saved(tmp_path, tensors() | {"a.position_ids.more": np.ones(1)})
    assert load(variables(), RULES, weights, strict=False, ignore=["position_ids", r"a\.position_ids"]).unexpected
    assert not load(variables(), RULES, weights, ignore=[r"a\..*"]).unexpected


def test_long_lists_are_shortened(tmp_path):
    weights = saved(tmp_path, tensors() | {f"more.{i:02d}": np.ones(1) for i in range(17)})
    with pytest.raises(ValueError, match=r"unknown more\.00, .*more\.04 and 12 more; "):
        load(variables(), RULES, weights)


def test_rules_and_variables_must_match(tmp_path):
    weights = saved(tmp_path, tensors())
    with pytest.raises(ValueError, match='two rules fill the variable "scale"'):
        load(variables(), [*RULES, copy("scale", "other")], weights)
    with pytest.raises(ValueError, match="variables that no rule fills: scale"):
        load(variables(), RULES[:-1], weights)
    with pytest.raises(ValueError, match="rules for variables that the network has not got: more"):
        list(dump(variables(), [*RULES, copy("more", "more")]))


def test_parts_must_add_up():
    with pytest.raises(ValueError, match="qkv: expected 3 sizes, one a tensor, got 2"):
        fused("qkv", "q", "k", "v", sizes=(1, 2))
    variable = {"qkv": keras.Variable(np.zeros((3, 10)))}
    with pytest.raises(ValueError, match="qkv: 10 columns do not divide into 3 equal parts"):
        list(dump(variable, [fused("qkv", "q", "k", "v")]))
    with pytest.raises(ValueError, match=r"qkv: sizes \[4, 3, 2\] add up to 9, the variable has 10"):
        list(dump(variable, [fused("qkv", "q", "k", "v", sizes=(4, 3, 2))]))


def test_one_variables_tensors_are_held_at_a_time(tmp_path, monkeypatch):
    here = variables()
    weights = saved(tmp_path, tensors())
    # As of a format that is not read in strips.
    whole = [(name, dataclasses.replace(weights.source(name), read_rows=None)) for name in weights]
    weights = Weights(whole, path=weights.path, close=weights.close)
    events = []
    original_read, original_assign = type(weights).__getitem__, weight_map._assign

    def read(self, name):
        events.append(name)
        return original_read(self, name)

    def assign(variable, array):
        events.append("assign")
        original_assign(variable, array)

    monkeypatch.setattr(type(weights), "__getitem__", read)
    monkeypatch.setattr(weight_map, "_assign", assign)
    load(here, RULES, weights)
    assert events[:4] == ["embeddings.weight", "assign", "out.weight", "assign"]
    assert events.count("assign") == len(RULES)
