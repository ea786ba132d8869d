"""ELECTRA: the battery, for generators and discriminators."""

import numpy as np
import pytest
from battery import GOLDEN, Case, FamilyTests, bare, opened

from garden.models.backbone import named_variables
from garden.models.electra import ElectraConfig


class TestElectra(FamilyTests):
    golden = "electra"
    old = ("generator_old", "discriminator_old")


def test_the_token_table_is_narrow_and_widened():
    backbone = bare(Case(GOLDEN / "electra" / "base"))
    assert named_variables(backbone)["words/table"].shape == (24, 8)
    assert named_variables(backbone)["wider/kernel"].shape == (8, 12)
    assert "wider/kernel" not in named_variables(bare(Case(GOLDEN / "electra" / "one_width")))


def test_the_discriminator_has_one_logit_for_each_token():
    network = opened(Case(GOLDEN / "electra" / "discriminator"))
    assert network.task == "replaced-token-detection"
    assert network.logits({"token_ids": np.ones([2, 5], np.int32)}).shape == (2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_size": 0}, "embedding_size: expected a positive number, got 0"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: only 'absolute' is supported"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        ElectraConfig.from_dict({**Case(GOLDEN / "electra" / "base").config, **changes})
