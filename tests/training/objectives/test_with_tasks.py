"""Each objective's batches are what its task trains on, with small networks of the families that it suits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_networks import SMALL

from garden.models.backbone import family_called
from garden.tasks import TASKS
from training.models import special_ids
from training.objectives import OBJECTIVES, objective

CASES = [
    ("masked-lm", "bert", "bert"),
    ("masked-lm", "roberta", "roberta"),
    ("next-sentence", "bert", "bert"),
    ("sentence-order", "bert", "bert"),
    ("causal-lm", "gpt2", "roberta"),
    ("denoising", "bart", "roberta"),
    ("span-corruption", "t5", "t5"),
    ("span-corruption", "bart", "t5"),
    ("replaced-token-detection", "electra", "bert"),
    ("contrastive", "bert", "bert"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "kind"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_a_task_learns_from_an_objective(tokenizer_of, rows_of, name, family, kind):
    keras.utils.set_random_seed(0)
    tokenizer = tokenizer_of(kind)
    made = family_called(family)
    values = {"vocab_size": tokenizer.vocabulary_size, **SMALL[family], **special_ids(tokenizer, made.config)}
    backbone = made.backbone(made.config.from_dict(values), **made.heads[OBJECTIVES[name].task].backbone_parts)
    model = TASKS[OBJECTIVES[name].task].build_on(backbone, tokenizer)
    learn = objective(name, tokenizer).for_task(model)
    data = tf.data.Dataset.from_tensor_slices(rows_of(kind, learn.layout)).batch(16).enumerate()
    data = data.map(lambda step, rows: learn(rows, tf.stack([1, tf.cast(step, tf.int32)])))
    model.compile(learning_rate=1e-2)
    losses = model.fit(data, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
