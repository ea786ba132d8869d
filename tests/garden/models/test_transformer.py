"""The Transformer against torch.nn.Transformer's numbers (tests/golden/transformer)."""

import encoder_decoder_battery as battery
import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.models.backbone import named_variables
from garden.models.transformer import TransformerBackbone, TransformerConfig

GOLDEN = battery.GOLDEN / "transformer"


@pytest.mark.parametrize("case", ["small", "one_head"])
def test_numbers_are_the_references(case):
    battery.check_numbers(GOLDEN / case)


@pytest.mark.parametrize(
    "check",
    ["gradients", "left", "packed", "read_positions", "cache", "keras_round_trip", "low_precision", "graph"],
)
def test_battery(check):
    getattr(battery, f"check_{check}")(GOLDEN / "small")


def test_what_is_saved_is_what_was_opened(tmp_path):
    battery.check_saved(GOLDEN / "small", tmp_path / "saved")


def test_it_is_a_keras_model_that_starts_as_the_paper_has_it():
    keras.utils.set_random_seed(0)
    sizes = {"vocab_size": 400, "d_model": 64, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    model = TransformerBackbone(TransformerConfig(**sizes))
    assert isinstance(model, tf.keras.Model)
    # Scaled by sqrt(D), new embeddings are about as large as positions.
    table = named_variables(model)["words/table"].numpy()
    assert 0.8 < table.std() * 8 < 1.1
    x = model.embedded(tf.constant([[5, 5]]), tf.constant([[0, 1]]), training=False).numpy()
    np.testing.assert_allclose(x[0, 0, :2] - table[5, :2] * 8, [0, 1], atol=1e-6)
    np.testing.assert_allclose(x[0, 1, :2] - table[5, :2] * 8, [np.sin(1), np.cos(1)], atol=1e-6)
