"""GPT-2 against transformers' numbers (tests/golden/gpt2)."""

import decoder_battery as battery
import numpy as np
import pytest

import garden
from garden.checkpoints import huggingface
from garden.models.gpt2 import GPT2Backbone, GPT2Config

GOLDEN = battery.GOLDEN / "gpt2"
CASES = battery.cases("gpt2")
WITH_HEAD = [case for case in CASES if battery.task_of(GOLDEN / case) and case != "published"]


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_the_references(case):
    battery.check_hidden(GOLDEN / case)


@pytest.mark.parametrize("case", WITH_HEAD)
def test_logits_are_the_references(case):
    battery.check_logits(GOLDEN / case)


def test_gradients_are_the_references():
    battery.check_gradients(GOLDEN / "scaled")


def test_packed_texts_get_what_they_get_alone():
    battery.check_packed(GOLDEN / "scaled")


def test_low_precision_stays_close():
    battery.check_low_precision(GOLDEN / "untied")


def test_runs_in_a_graph_of_any_length():
    battery.check_graph(GOLDEN / "base")


@pytest.mark.parametrize("left", [True, False])
def test_one_token_at_a_time_gives_the_same(left):
    battery.check_cache(GOLDEN / "base", left=left)


@pytest.mark.parametrize("case", ["base", "published", "untied", "answers"])
def test_what_is_saved_is_what_was_opened(case, tmp_path):
    battery.check_round_trip(GOLDEN / case, tmp_path)


def test_published_buffers_are_left_out(tmp_path):
    with huggingface.open_weights(GOLDEN / "published") as weights:
        assert "h.0.attn.bias" in weights
        assert "wte.weight" in weights, "no prefix"
    garden.Backbone.from_pretrained(GOLDEN / "published").save_pretrained(tmp_path)
    with huggingface.open_weights(tmp_path) as weights:
        assert not [name for name in weights if name.endswith(".attn.bias")]


def test_texts_longer_than_the_table_are_refused():
    backbone = GPT2Backbone(GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="token_ids: 5 tokens a row, the network has positions for 4"):
        backbone({"token_ids": np.ones((1, 5), np.int32)})
    # A row of several texts, and its padding, may be longer.
    row = np.array([[1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0]], np.int32)
    assert np.isfinite(backbone({"token_ids": row, "segment_ids": row})["sequence"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add_cross_attention": True}, "config.json: add_cross_attention: only False is supported, got True"),
        ({"n_head": 5}, "config.json: n_head: 5 heads do not divide n_embd 12"),
        ({"n_layer": 0}, "config.json: n_layer: expected a positive number, got 0"),
        ({"activation_function": "sine"}, 'config.json: activation "sine" is not known'),
        ({"n_inner": "24"}, "config.json: n_inner: expected int, got '24'"),
        ({"quantization_config": {"bits": 4}}, "config.json: quantization_config: only None is supported"),
    ],
)
def test_configs_that_are_not_supported_are_named(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        garden.Backbone.from_pretrained(battery.copied(GOLDEN / "base", tmp_path / "model", **change))


def test_what_new_blocks_add_to_the_stream_is_as_large_whatever_their_number():
    backbone = GPT2Backbone(GPT2Config(vocab_size=8, n_positions=4, n_embd=64, n_layer=8, n_head=2))
    block = backbone.blocks[0]
    # Cut at two standard deviations, a normal draw has 0.88 of its standard deviation.
    for kernel in (block.attention.output_projection.kernel, block.feed_forward.outer.kernel):
        assert np.std(kernel) == pytest.approx(0.88 * 0.02 / 4, rel=0.05)
    assert np.std(block.feed_forward.inner.kernel) == pytest.approx(0.88 * 0.02, rel=0.05)


def test_defaults_are_the_smallest_published_networks():
    config = GPT2Config.from_dict({"n_inner": None, "summary_type": "cls_index"})
    assert (config.n_embd, config.n_layer, config.n_head, config.longest) == (768, 12, 12, 1024)
