"""DistilBERT: the battery, and what it has not got."""

import keras
import numpy as np
import pytest
from battery import GOLDEN, Case, FamilyTests, bare

from garden.layers import sinusoidal_table
from garden.models.distilbert import DistilBertBackbone, DistilBertConfig


class TestDistilBert(FamilyTests):
    golden = "distilbert"
    old = ("masked_lm_old",)


def test_it_has_neither_types_nor_a_pooler():
    backbone = bare(Case(GOLDEN / "distilbert" / "base"))
    inputs = {"token_ids": np.array([[3, 4, 5]])}
    outputs = backbone({**inputs, "type_ids": np.array([[0, 1, 1]])})
    np.testing.assert_array_equal(outputs["sequence"], backbone(inputs)["sequence"])
    assert set(outputs) == {"sequence"}


def test_heads_have_the_configs_rates_of_dropout():
    keras.utils.set_random_seed(0)
    config = DistilBertConfig(
        vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=8, dropout=0.3, seq_classif_dropout=0.4, qa_dropout=0.5
    )
    backbone = DistilBertBackbone(config)
    rates = {"text-classification": 0.4, "token-classification": 0.3, "question-answering": 0.5}
    for task, rate in rates.items():
        assert backbone.family.heads[task](backbone, 2).dropout.rate == rate, task


def test_a_new_table_of_positions_may_start_from_sines():
    sizes = {"vocab_size": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "max_position_embeddings": 10}
    backbone = DistilBertBackbone(DistilBertConfig(**sizes, sinusoidal_pos_embds=True))
    np.testing.assert_array_equal(backbone.positions.table, sinusoidal_table(10, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 5}, "n_heads: 5 heads do not divide dim 12"),
        ({"activation": "wavy"}, 'activation "wavy" is not known'),
        ({"n_layers": 0}, "n_layers: expected a positive number, got 0"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_by_name(changes, message):
    values = Case(GOLDEN / "distilbert" / "base").config
    with pytest.raises(ValueError, match=message):
        DistilBertConfig.from_dict({**values, **changes})
