"""BART and mBART against transformers' numbers (tests/golden/bart)."""

import shutil

import encoder_decoder_battery as battery
import numpy as np
import pytest

import garden
from garden.checkpoints import huggingface
from garden.models.bart import FAMILIES, BartBackbone, BartConfig, MBartBackbone
from garden.models.encoder_decoder import segment_lasts, shift_right

GOLDEN = battery.GOLDEN / "bart"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_the_references(case):
    battery.check_numbers(GOLDEN / case)


def test_gradients_are_the_references():
    battery.check_gradients(GOLDEN / "lm")


@pytest.mark.parametrize("case", ["lm", "mbart_lm"])
@pytest.mark.parametrize("check", ["left", "packed", "read_positions", "cache", "keras_round_trip"])
def test_battery(case, check):
    getattr(battery, f"check_{check}")(GOLDEN / case)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"lm_old"}))
def test_what_is_saved_is_what_the_reference_saves(case, tmp_path):
    battery.check_saved(GOLDEN / case, tmp_path / "saved")


def test_low_precision_and_graphs():
    battery.check_low_precision(GOLDEN / "lm")
    battery.check_graph(GOLDEN / "lm")


def test_shifting_stays_inside_segments_and_mbart_brings_the_last_token_round():
    ids = np.array([[11, 12, 13, 21, 22, 0], [0, 0, 11, 12, 13, 14]], np.int32)
    segment_ids = np.array([[1, 1, 1, 2, 2, 0], [0, 0, 1, 1, 1, 1]], np.int32)
    ours = np.where(segment_ids > 0, shift_right(ids, segment_ids, 9), 0)
    np.testing.assert_array_equal(ours, [[9, 11, 12, 9, 21, 0], [0, 0, 9, 11, 12, 13]])
    ours = np.where(segment_ids > 0, shift_right(ids, segment_ids, segment_lasts(ids, segment_ids)), 0)
    np.testing.assert_array_equal(ours, [[13, 11, 12, 22, 21, 0], [0, 0, 14, 11, 12, 13]])


def test_families_name_their_classes():
    assert [family.model_type for family in FAMILIES] == ["bart", "mbart"]
    assert BartBackbone.family.architectures["seq2seq-lm"] == "BartForConditionalGeneration"
    assert MBartBackbone.family.architectures["masked-lm"] == "MBartForConditionalGeneration"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_attention_heads": 3}, "decoder_attention_heads: 3 heads do not divide d_model 8"),
        ({"encoder_attention_heads": 3}, "encoder_attention_heads: 3 heads do not divide d_model 8"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: only True is supported, got False"),
        ({"activation_function": "wavy"}, 'activation "wavy" is not known'),
        ({"decoder_layers": 0}, "decoder_layers: expected a positive number, got 0"),
        ({"decoder_ffn_dim": 11}, r'tensor "decoder.layers.0.fc1.weight"|has shape'),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(tmp_path, changes, message):
    shutil.copytree(GOLDEN / "lm", tmp_path / "lm")
    huggingface.write_config(tmp_path / "lm", huggingface.read_config(tmp_path / "lm") | changes)
    with pytest.raises(ValueError, match=message):
        garden.Backbone.from_pretrained(tmp_path / "lm")


def test_rows_longer_than_the_table_of_positions_are_refused():
    backbone = BartBackbone(BartConfig(**{**dict.fromkeys(BartConfig.sizes, 4), "vocab_size": 9}))
    with pytest.raises(ValueError, match="token_ids: 5 tokens a row, the network has positions for 4"):
        backbone({"token_ids": np.ones((1, 5), np.int32)})
    with pytest.raises(ValueError, match="target_ids: 5 tokens a row, the network has positions for 4"):
        backbone({"token_ids": np.ones((1, 3), np.int32), "target_ids": np.ones((1, 5), np.int32)})
    with pytest.raises(ValueError, match='expected a dictionary with "target_ids", got token_ids'):
        backbone.decode({"token_ids": np.ones((1, 3), np.int32)})
