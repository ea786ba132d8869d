"""Each objective's batches are what its task trains on, with small networks of the families that it suits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.models.backbone import family_called
from garden.tasks import TASKS
from training.models import special_ids
from training.objectives import OBJECTIVES, objective

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 70,
    "embedding_size": 16,
}
FAMILIES = {
    "bert": SIZES,
    "electra": SIZES,
    "roberta": SIZES,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "bart": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
    },
}
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
    values = {"vocab_size": tokenizer.vocabulary_size, **FAMILIES[family], **special_ids(tokenizer, made.config)}
    backbone = made.backbone(made.config.from_dict(values), **made.heads[OBJECTIVES[name].task].backbone_parts)
    model = TASKS[OBJECTIVES[name].task].build_on(backbone, tokenizer)
    learn = objective(name, tokenizer).for_task(model)
    data = tf.data.Dataset.from_tensor_slices(rows_of(kind, learn.layout)).batch(16).enumerate()
    data = data.map(lambda step, rows: learn(rows, tf.stack([1, tf.cast(step, tf.int32)])))
    model.compile(learning_rate=1e-2)
    losses = model.fit(data, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
