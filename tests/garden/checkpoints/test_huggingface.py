"""Directories in the Hugging Face layout: whole, sharded, broken, and overwritten."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from garden.checkpoints import huggingface
from garden.checkpoints.huggingface import open_weights, read_config, write_config, write_weights
from garden.checkpoints.weights import alias, modern_names, strip_prefix

INDEX = "model.safetensors.index.json"


def arrays(value=0.0, count=5):
    return {f"layer.{i}.weight": np.full((4, i + 1), value + i, np.float32) for i in range(count)}


def assert_holds(directory, expected):
    with open_weights(directory) as weights:
        assert weights.keys() == expected.keys()
        for name, array in expected.items():
            assert weights.shape(name) == array.shape
            assert weights.dtype(name) == array.dtype
            np.testing.assert_array_equal(weights[name], array)


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_one_file(tmp_path):
    write_weights(tmp_path / "new" / "model", arrays())
    assert files(tmp_path / "new" / "model") == ["model.safetensors"]
    assert_holds(tmp_path / "new" / "model", arrays())
    with safetensors.safe_open(tmp_path / "new" / "model" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_pairs_and_no_tensors_at_all(tmp_path):
    write_weights(tmp_path, iter(arrays().items()))
    assert_holds(tmp_path, arrays())
    write_weights(tmp_path, [])
    assert_holds(tmp_path, {})


def test_shards_and_index(tmp_path):
    write_weights(tmp_path, arrays(), max_shard_bytes=100)
    # 16, 32 and 48 bytes together, 64 alone, 80 alone.
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert files(tmp_path) == [*shards, INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 240}
    assert [index["weight_map"][name] for name in arrays()] == [shards[0]] * 3 + shards[1:]
    assert_holds(tmp_path, arrays())


def test_a_tensor_larger_than_a_shard_is_alone_in_one(tmp_path):
    write_weights(tmp_path, arrays(), max_shard_bytes=1)
    assert len(files(tmp_path)) == 6
    assert_holds(tmp_path, arrays())


@pytest.mark.parametrize("before", [10_000, 100, 30])
@pytest.mark.parametrize("after", [10_000, 100, 30])
def test_a_new_save_replaces_the_old_one(tmp_path, before, after):
    (tmp_path / "tokenizer.json").write_text("{}")
    for value, size in enumerate((before, after, after)):
        write_weights(tmp_path, arrays(value), max_shard_bytes=size)
        assert_holds(tmp_path, arrays(value))
    assert (tmp_path / "tokenizer.json").exists()
    shards = [name for name in files(tmp_path) if name.startswith("model-")]
    named = {*json.loads((tmp_path / INDEX).read_text())["weight_map"].values()} if shards else set()
    assert set(shards) == named
    assert len(files(tmp_path)) == 2 + len(shards)


@pytest.mark.parametrize("before", [10_000, 100])
@pytest.mark.parametrize("after", [10_000, 100])
def test_at_every_moment_the_directory_holds_one_whole_save(tmp_path, monkeypatch, before, after):
    """Stop after each change that `write_weights` makes to the directory, and look."""
    write_weights(tmp_path, arrays(1), max_shard_bytes=before)
    seen = []

    def watched(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            with open_weights(tmp_path) as weights:
                values = {float(weights[name].flat[0]) - i for i, name in enumerate(arrays())}
            assert len(values) == 1
            seen.append(values.pop())
            return result

        return call

    monkeypatch.setattr(huggingface.os, "replace", watched(os.replace))
    monkeypatch.setattr(huggingface.Path, "unlink", watched(huggingface.Path.unlink))
    write_weights(tmp_path, arrays(2), max_shard_bytes=after)
    assert seen == sorted(seen)
    assert seen[-1] == 2


@pytest.mark.parametrize("size", [10_000, 100])
def test_a_failing_save_leaves_the_old_one_and_nothing_else(tmp_path, size):
    write_weights(tmp_path, arrays(1), max_shard_bytes=size)
    before = files(tmp_path)

    def failing():
        yield from arrays(2).items()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_weights(tmp_path, failing(), max_shard_bytes=size)
    with pytest.raises(ValueError, match=r'two tensors are called "a"'):
        write_weights(tmp_path, [("a", np.ones(2)), ("a", np.ones(2))], max_shard_bytes=8)
    with pytest.raises(ValueError, match='tensor "b" has type object'):
        write_weights(tmp_path, [("a", np.ones(2)), ("b", np.array([None]))], max_shard_bytes=8)
    assert files(tmp_path) == before
    assert_holds(tmp_path, arrays(1))


def test_the_weights_are_readable_by_everybody_whom_the_umask_lets(tmp_path):
    write_weights(tmp_path, arrays())
    write_config(tmp_path, {})
    (tmp_path / "plain").write_text("")
    expected = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "model.safetensors").stat().st_mode == expected
    assert (tmp_path / "config.json").stat().st_mode == expected


def test_bad_targets(tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file, or lies below one"):
            write_weights(target, arrays())
        with pytest.raises(ValueError, match="is a file, or lies below one"):
            write_config(target, {})
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="max_shard_bytes: expected a positive number, got 0"):
        write_weights(tmp_path / "new", arrays(), max_shard_bytes=0)


def test_no_tensor_is_read_before_it_is_asked_for(tmp_path):
    write_weights(tmp_path, arrays())
    with open_weights(tmp_path) as weights:
        os.truncate(tmp_path / "model.safetensors", 8)
        assert list(weights) == list(arrays())
        assert "layer.0.weight" in weights
        assert "nothing" not in weights
        assert len(weights) == 5
        assert weights.source("layer.0.weight").path == tmp_path / "model.safetensors"
        assert str(tmp_path) in repr(weights)
        with pytest.raises(ValueError, match="became shorter"):
            weights["layer.0.weight"]
        with pytest.raises(KeyError):
            weights["nothing"]


def test_closing_closes_all_shards_and_views(tmp_path):
    write_weights(tmp_path, arrays(), max_shard_bytes=100)
    with open_weights(tmp_path) as weights:
        view = strip_prefix(weights, "layer.")
        assert view["0.weight"].shape == (4, 1)
    for name in view:
        with pytest.raises(ValueError, match="closed"):
            view[name]


def test_a_symbolic_link_is_followed(tmp_path):
    write_weights(tmp_path / "blobs", arrays())
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "model.safetensors")
    assert_holds(tmp_path / "snapshot", arrays())


def test_views_make_heads_and_bare_models_look_the_same(tmp_path):
    write_weights(
        tmp_path, {"bert.encoder.LayerNorm.gamma": np.ones(2), "bert.LayerNorm.beta": np.ones(3), "cls.b": np.ones(1)}
    )
    with open_weights(tmp_path) as weights:
        view = modern_names(strip_prefix(weights, "bert."))
        assert set(view) == {"encoder.LayerNorm.weight", "LayerNorm.bias", "cls.b"}
        assert view.shape("LayerNorm.bias") == (3,)
        assert view.source("LayerNorm.bias").name == "bert.LayerNorm.beta"
        assert set(strip_prefix(view, "bert.")) == set(view)


def test_a_view_in_which_two_tensors_get_one_name_is_refused(tmp_path):
    write_weights(tmp_path, {"bert.a": np.ones(2), "a": np.ones(2)})
    with open_weights(tmp_path) as weights, pytest.raises(ValueError, match=r'two tensors are called "a": .*"bert.a"'):
        strip_prefix(weights, "bert.")


def test_an_alias_fills_a_name_that_is_missing(tmp_path):
    write_weights(tmp_path, {"bias": np.ones(2), "other": np.zeros(2)})
    with open_weights(tmp_path) as weights:
        view = alias(weights, "decoder.bias", "bias")
        np.testing.assert_array_equal(view["decoder.bias"], np.ones(2))
        assert view.source("decoder.bias").name == "bias"
        assert set(view) == {"bias", "other", "decoder.bias"}
        assert set(alias(weights, "decoder.bias", "nothing")) == {"bias", "other"}
        np.testing.assert_array_equal(alias(weights, "other", "bias")["other"], np.zeros(2))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        open_weights(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors and no model.safetensors.index.json; save"):
        open_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        read_config(tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(b"packed")
    (tmp_path / "tf_model.h5").write_bytes(b"hdf")
    with pytest.raises(FileNotFoundError, match=r"tf_model.h5 and flax_model.msgpack cannot be read: convert"):
        open_weights(tmp_path)
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"TensorFlow 1")
    with pytest.raises(FileNotFoundError, match=r"convert bert_model.ckpt.index first: garden convert --to"):
        open_weights(tmp_path)
    with pytest.raises(ValueError, match="not a directory"):
        open_weights(tmp_path / "tf_model.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "expected a JSON object, got list"),
    ],
)
def test_a_config_or_index_that_is_no_object_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        read_config(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(ValueError, match=f"index.json: {message}"):
        open_weights(tmp_path)


def test_config_round_trip(tmp_path):
    config = {"model_type": "bert", "id2label": {"0": "été"}, "eps": 1e-12, "nested": [1, None, True]}
    write_config(tmp_path / "new", config)
    assert read_config(tmp_path / "new") == config
    with pytest.raises(TypeError):
        write_config(tmp_path / "new", {"a": object()})
    assert files(tmp_path / "new") == ["config.json"]
    assert read_config(tmp_path / "new") == config


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": None}, "model.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path, weight_map):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match='"weight_map" does not map tensors to files'):
        open_weights(tmp_path)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path):
    write_weights(tmp_path, arrays(), max_shard_bytes=100)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["more"] = "model-00001-of-00003.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r'tensor "more" is said to be in model-00001-of-00003.safetensors, which'):
        open_weights(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard model-00002-of-00003.safetensors is missing"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["../model", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "c:a", "a\0b"])
def test_shards_outside_the_directory_are_refused(tmp_path, name):
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "model")
    directory = tmp_path / "inner"
    directory.mkdir()
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="is not the name of a file in the same directory"):
        open_weights(directory)


def test_bfloat16_goes_through(tmp_path):
    values = {"a": np.array([[1.5, -2.25]], ml_dtypes.bfloat16)}
    write_weights(tmp_path, values)
    assert_holds(tmp_path, values)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupt_index_never_crashes(tmp_path, data):
    if not (tmp_path / "whole").exists():
        write_weights(tmp_path, arrays(), max_shard_bytes=100)
        (tmp_path / INDEX).rename(tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at]
    (tmp_path / INDEX).write_bytes(content)
    try:
        weights = open_weights(tmp_path)
    except (ValueError, FileNotFoundError):
        return
    for name in weights:
        assert weights[name].shape == arrays()[name].shape
