"""T5, mT5 and umT5 against transformers' numbers (tests/golden/t5)."""

import shutil

import encoder_decoder_battery as battery
import keras
import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.checkpoints import huggingface
from garden.models.backbone import named_variables
from garden.models.encoder_decoder import RelativePositionBias
from garden.models.t5 import T5Backbone, T5Config

GOLDEN = battery.GOLDEN / "t5"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_the_references(case):
    battery.check_numbers(GOLDEN / case)


def test_gradients_are_the_references():
    battery.check_gradients(GOLDEN / "lm")


@pytest.mark.parametrize("case", ["lm", "umt5_lm"])
@pytest.mark.parametrize("check", ["left", "packed", "read_positions", "cache", "keras_round_trip"])
def test_battery(case, check):
    getattr(battery, f"check_{check}")(GOLDEN / case)


def test_an_encoder_alone():
    for check in (battery.check_left, battery.check_packed, battery.check_read_positions):
        check(GOLDEN / "encoder")


@pytest.mark.parametrize("case", sorted(set(CASES) - {"lm_old"}))
def test_what_is_saved_is_what_the_reference_saves(case, tmp_path):
    battery.check_saved(GOLDEN / case, tmp_path / "saved")


def test_low_precision_and_graphs():
    battery.check_low_precision(GOLDEN / "lm_gated")
    battery.check_graph(GOLDEN / "lm_gated")


def test_float16_holds_a_stream_beyond_its_range():
    backbone, head = battery.opened(GOLDEN / "lm_gated", "mixed_float16")
    # As in published checkpoints: feed-forward networks whose answers are larger than 65,504.
    for stack in (backbone.encoder, backbone.decoder):
        kernel = stack.blocks[0].feed_forward.outer.kernel
        kernel.assign(kernel * 1e6)
    batch = battery.golden(GOLDEN / "lm_gated")
    states = backbone(battery.inputs_of(batch), hidden_states=True)
    assert tf.reduce_max(tf.abs(states["source_hidden_states"][1])) > 65_504
    assert np.isfinite(head(states).numpy()).all()


def test_buckets_are_the_references():
    with np.load(GOLDEN / "buckets.npz") as arrays:
        for name, expected in arrays.items():
            both_ways, buckets, longest = name.split(".")
            layer = RelativePositionBias(int(buckets), int(longest), 2, both_ways=both_ways == "True")
            np.testing.assert_array_equal(layer.bucket_of(np.arange(-300, 301)), expected, err_msg=name)


def test_new_weights_are_drawn_as_t5_draws_them():
    keras.utils.set_random_seed(0)
    config = T5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4)
    variables = named_variables(T5Backbone(config))
    kernel = variables["encoder/block_0/attention/query_key_value/kernel"].numpy()
    spreads = {
        "queries": (kernel[:, :64], (64 * 16) ** -0.5),
        "keys": (kernel[:, 64:128], 64**-0.5),
        "values": (kernel[:, 128:], 64**-0.5),
        "output": (variables["encoder/block_0/attention/output/kernel"].numpy(), 64**-0.5),
        "inner": (variables["decoder/block_0/feed_forward/inner/kernel"].numpy(), 64**-0.5),
        "outer": (variables["decoder/block_0/feed_forward/outer/kernel"].numpy(), 96**-0.5),
        "words": (variables["words/table"].numpy(), 0.88),
    }
    for name, (array, spread) in spreads.items():
        assert 0.9 < array.std() / spread < 1.1, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-wavy"}, 'activation "wavy" is not known'),
        ({"feed_forward_proj": "very-gated-gelu"}, 'feed_forward_proj: expected an activation, .* "very-gated-gelu"'),
        ({"is_decoder": True}, "is_decoder: only False is supported, got True"),
        ({"num_decoder_layers": 3}, r"lacks decoder.block.2"),
        ({"relative_attention_max_distance": 2}, "relative_attention_max_distance: expected more than half"),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(tmp_path, changes, message):
    shutil.copytree(GOLDEN / "bare", tmp_path / "t5")
    huggingface.write_config(tmp_path / "t5", huggingface.read_config(tmp_path / "t5") | changes)
    with pytest.raises(ValueError, match=message):
        garden.Backbone.from_pretrained(tmp_path / "t5")
