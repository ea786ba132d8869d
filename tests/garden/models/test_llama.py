"""Llama, Mistral, Qwen 2 and Qwen 3 against transformers' numbers (tests/golden/llama)."""

import json
import math

import decoder_battery as battery
import numpy as np
import pytest

import garden
from garden.checkpoints import huggingface
from garden.layers import scaled_rotary
from garden.models.llama import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

GOLDEN = battery.GOLDEN / "llama"
CASES = battery.cases("llama")
WITH_HEAD = [case for case in CASES if battery.task_of(GOLDEN / case)]


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_the_references(case):
    battery.check_hidden(GOLDEN / case)


@pytest.mark.parametrize("case", WITH_HEAD)
def test_logits_are_the_references(case):
    battery.check_logits(GOLDEN / case)


@pytest.mark.parametrize("case", ["llama3", "qwen3"])
def test_gradients_are_the_references(case):
    battery.check_gradients(GOLDEN / case)


@pytest.mark.parametrize("case", ["llama3", "mistral", "qwen2", "qwen3"])
def test_packed_texts_get_what_they_get_alone(case):
    battery.check_packed(GOLDEN / case)


@pytest.mark.parametrize("case", ["llama3", "qwen3"])
def test_low_precision_stays_close(case):
    battery.check_low_precision(GOLDEN / case)


@pytest.mark.parametrize("case", ["llama_dynamic", "qwen3"])
def test_runs_in_a_graph_of_any_length(case):
    battery.check_graph(GOLDEN / case)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", ["llama3", "mistral", "qwen2", "qwen3"])
def test_one_token_at_a_time_gives_the_same(case, left):
    battery.check_cache(GOLDEN / case, left=left)


def test_one_token_at_a_time_compiles():
    battery.check_cache(GOLDEN / "mistral", left=True, jit_compile=True)


@pytest.mark.parametrize(
    "case", ["llama2", "llama2_old", "llama3", "llama_answers", "llama_yarn", "mistral_partial", "qwen3"]
)
def test_what_is_saved_is_what_was_opened(case, tmp_path):
    battery.check_round_trip(GOLDEN / case, tmp_path)


@pytest.mark.parametrize("case", ["llama3", "llama_longrope", "qwen2"])
def test_both_spellings_of_the_rotary_embedding_are_saved(case, tmp_path):
    published = huggingface.read_config(GOLDEN / case)["rope_parameters"]
    garden.Backbone.from_pretrained(GOLDEN / case).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["rope_parameters"] == published
    assert values["rope_theta"] == published["rope_theta"]
    scaling = {name: value for name, value in published.items() if name != "rope_theta"}
    assert values["rope_scaling"] == (None if scaling == {"rope_type": "default"} else scaling)
    for only in ({"rope_parameters": None}, {"rope_scaling": None, "rope_theta": None}):
        kept = {name: value for name, value in {**values, **only}.items() if value is not None}
        assert LlamaConfig.from_dict(kept).rope_scaling == values["rope_scaling"]
        assert LlamaConfig.from_dict(kept).rope_theta == published["rope_theta"]


# ------------------------------------------------------------------------------------------ configs


def test_an_absent_field_is_its_default_and_a_null_is_none():
    assert MistralConfig.from_dict({"num_hidden_layers": 2}).windows == (4096, 4096)
    assert MistralConfig.from_dict({"num_hidden_layers": 2, "sliding_window": None}).windows == (None, None)
    assert MistralConfig.from_dict({}).key_value_heads == 8
    assert MistralConfig.from_dict({"num_key_value_heads": None}).key_value_heads == 32
    assert LlamaConfig.from_dict({}).key_value_heads == 32
    assert Qwen3Config.from_dict({"head_dim": None}).head_width == 128
    assert Qwen2Config.from_dict({}).head_width == 128
    assert LlamaConfig.from_dict({"eos_token_id": [1, 2]}).eos_token_id == [1, 2]


def test_windows_of_qwen():
    sizes = {"num_hidden_layers": 4, "sliding_window": 8, "max_window_layers": 3}
    assert Qwen2Config.from_dict(sizes).windows == (None,) * 4
    assert Qwen2Config.from_dict({**sizes, "use_sliding_window": True}).windows == (None, None, None, 8)
    kinds = ["sliding_attention", "full_attention"] * 2
    given = {**sizes, "use_sliding_window": True, "layer_types": kinds}
    assert Qwen3Config.from_dict(given).windows == (8, None, 8, None)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("llama2", {"num_key_value_heads": 2}, "num_key_value_heads: 2 heads do not divide 3 heads"),
        (
            "llama2",
            {"rope_scaling": {"type": "mrope"}},
            'rope_scaling: rope_type "mrope" is not known; known: default, ',
        ),
        ("llama2", {"rope_scaling": {"type": "linear"}}, 'rope_scaling: "linear" needs factor, a number; got None'),
        (
            "llama2",
            {"rope_scaling": {"a": {"rope_type": "default"}}},
            "rope_scaling: expected one object for all layers",
        ),
        ("llama2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: only 1.0 is supported, got 0.5"),
        ("llama2", {"quantization_config": {"bits": 4}}, "quantization_config: only None is supported"),
        ("llama2", {"hidden_act": "sine"}, 'activation "sine" is not known'),
        ("llama_longrope", {"head_dim": 6}, "rope_scaling: short_factor: expected 3 numbers, got 4"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types: expected 3 kinds, one a layer, got 1"),
        ("qwen2", {"layer_types": ["chunked"] * 3}, 'layer_types: "chunked" is not supported; supported: full_att'),
        ("qwen2", {"use_sliding_window": False}, "layer_types: sliding_attention needs use_sliding_window"),
        ("mistral", {"sliding_window": 0}, "sliding_window: expected a positive number, got 0"),
        ("mistral", {"model_type": "mixtral"}, 'model_type "mixtral" is not supported; supported: .*llama, .*qwen3'),
    ],
)
def test_configs_that_are_not_supported_are_named(case, change, message, tmp_path):
    directory = battery.copied(GOLDEN / case, tmp_path / "model", **change)
    with pytest.raises(ValueError, match=rf"config.json: .*{message}"):
        garden.Backbone.from_pretrained(directory)


def test_a_missing_or_foreign_tensor_is_named(tmp_path):
    directory = battery.copied(GOLDEN / "qwen3", tmp_path / "model")
    with huggingface.open_weights(directory) as weights:
        tensors = {name: weights[name] for name in weights}
    del tensors["model.layers.1.self_attn.q_norm.weight"]
    huggingface.write_weights(directory, {**tensors, "model.layers.9.mlp.up_proj.weight": np.zeros(1, np.float32)})
    message = r"lacks layers.1.self_attn.q_norm.weight and has unknown layers.9.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=message):
        garden.Backbone.from_pretrained(directory)
    garden.Backbone.from_pretrained(directory, strict=False)


# ------------------------------------------------------------------------------------------ rotary tables


def test_short_and_long_texts_have_tables_of_their_own():
    scaling = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0], "factor": 4.0}
    rotary = scaled_rotary(4, 100.0, {**scaling, "original_max_position_embeddings": 16}, 64)
    np.testing.assert_allclose(rotary.at(np.int32(16)), [1, 0.05])
    np.testing.assert_allclose(rotary.at(np.int32(17)), [0.25, 0.0125])
    assert rotary.scale == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))


def test_a_growing_base_leaves_texts_within_the_limit_alone():
    rotary = scaled_rotary(8, 10_000.0, {"type": "dynamic", "factor": 4.0}, 32)
    for length in (1, 32):
        np.testing.assert_allclose(rotary.at(np.int32(length)), rotary.frequencies, rtol=1e-6)
    assert (rotary.at(np.int32(64)).numpy()[1:] < rotary.frequencies[1:]).all()


def test_texts_longer_than_the_limit_are_rotated_further():
    backbone = garden.Backbone.from_pretrained(GOLDEN / "llama3")
    token_ids = np.tile(np.arange(1, 11, dtype=np.int32), [1, 10])
    assert token_ids.shape[1] > backbone.config.longest
    assert np.isfinite(backbone({"token_ids": token_ids})["sequence"]).all()


def test_what_a_checkpoint_lacks_is_new_when_it_may(tmp_path):
    directory = battery.copied(GOLDEN / "llama3", tmp_path / "model")
    with huggingface.open_weights(directory) as weights:
        tensors = {name: weights[name] for name in weights if "layers.0." not in name and "embed_tokens" not in name}
    huggingface.write_weights(directory, tensors)
    backbone = garden.Backbone.from_pretrained(directory, strict=False)
    block = backbone.blocks[0]
    for new in (backbone.words.table, block.attention.query_key_value.kernel):
        assert 0.01 < new.numpy().std() < 0.03
    assert (block.attention_path.norm.scale.numpy() == 1).all()
    assert backbone.blocks[1].attention.query_key_value.kernel.numpy().any()
