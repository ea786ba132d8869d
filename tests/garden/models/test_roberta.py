"""RoBERTa, XLM-RoBERTa and CamemBERT: the battery, and positions that begin behind the padding id."""

import numpy as np
import pytest
from battery import GOLDEN, Case, FamilyTests, bare, opened

import garden


class TestRoberta(FamilyTests):
    golden = "roberta"
    old = ("masked_lm_old",)
    unread = ("lm_head.bias",)  # untied, the head adds the decoder's own


def test_each_name_is_a_network_of_its_own():
    names = {"base": "Roberta", "xlm_classifier": "XLMRoberta", "camembert_tokens": "Camembert"}
    for case, published in names.items():
        backbone = bare(Case(GOLDEN / "roberta" / case))
        assert type(backbone).__name__ == f"{published}Backbone"
        assert backbone.config_dict()["architectures"] == [f"{published}Model"]


def test_rows_of_the_table_that_hold_no_position_do_not_count():
    backbone = bare(Case(GOLDEN / "roberta" / "base"))
    assert backbone.config.longest == 12
    assert backbone({"token_ids": np.ones([1, 12], np.int32)})["sequence"].shape == (1, 12, 12)
    with pytest.raises(ValueError, match="13 tokens a row, the network has positions for 12"):
        backbone({"token_ids": np.ones([1, 13], np.int32)})


def test_a_network_of_one_type_does_not_mind_numbered_pairs():
    backbone = bare(Case(GOLDEN / "roberta" / "masked_lm_old"))
    assert backbone.config.type_vocab_size == 1
    ids = {"token_ids": np.array([[3, 4, 5]])}
    numbered = backbone({**ids, "type_ids": np.array([[0, 0, 1]])})
    np.testing.assert_array_equal(numbered["sequence"], backbone(ids)["sequence"])


def test_an_old_masked_lm_and_one_of_today_have_the_same_parts():
    old, new = (opened(Case(GOLDEN / "roberta" / name)) for name in ("masked_lm_old", "masked_lm"))
    assert [rule.tensors for rule in old.head.rules()] == [rule.tensors for rule in new.head.rules()]


def test_another_familys_weights_are_refused(tmp_path):
    case = Case(GOLDEN / "roberta" / "base")
    (tmp_path / "config.json").write_bytes((case.directory / "config.json").read_bytes())
    other = GOLDEN / "distilbert" / "base" / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"model.safetensors: "):
        garden.Backbone.from_pretrained(tmp_path)
