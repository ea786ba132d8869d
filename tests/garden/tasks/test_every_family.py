"""Every family serves every task that it has a head for: it trains on raw text, is kept whole, and answers the same again."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from garden.models.backbone import FAMILIES, family_called
from garden.tasks import TASKS
from garden.tokenizers import Tokenizer

SIZES = {
    **dict.fromkeys(("hidden_size", "dim", "n_embd", "d_model"), 16),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    "decoder_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "d_kv": 8,
    "embedding_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
    "initializer_range": 0.2,
}
"""Small values for whatever fields a family's config has."""

TEXTS = ["the film is good", "a dull story with an end", "lovely actors", "it was awful and the end was bad"]
WORDS = [text.split() for text in TEXTS]
TAGS = [["B-X" if word in ("film", "story", "actors") else "O" for word in words] for words in WORDS]
QUESTIONS = [("the film", text) for text in TEXTS]
ANSWERS = [{"text": text.split()[-1], "start": text.rindex(text.split()[-1])} for text in TEXTS]
DATA = {
    "text-classification": (TEXTS, ["positive", "negative", "positive", "negative"]),
    "token-classification": (WORDS, TAGS),
    "question-answering": (QUESTIONS, ANSWERS),
    "text-embedding": (list(zip(TEXTS, TEXTS[::-1], strict=True)), None),
    "masked-lm": (TEXTS, None),
    "masked-lm-with-pairs": (list(zip(TEXTS, TEXTS[::-1], strict=True)), [0, 1, 0, 1]),
    "replaced-token-detection": (TEXTS, None),
    "causal-lm": (TEXTS, None),
    "seq2seq-lm": (TEXTS, TEXTS[::-1]),
}
"""What each task is trained on."""

OPTIONS = {
    "text-classification": {"labels": ["negative", "positive"]},
    "token-classification": {"labels": ["O", "B-X"]},
    "seq2seq-lm": {"answer_length": 4},
    "replaced-token-detection": {"generator_size": 0.5},
}
QUICK = {("distilbert", "token-classification"), ("llama", "text-classification"), ("t5", "seq2seq-lm")}
"""The others take minutes together."""

PAIRS = [
    pytest.param(model_type, task, marks=() if (model_type, task) in QUICK else pytest.mark.slow)
    for model_type in FAMILIES
    for task in family_called(model_type).heads
    if task in TASKS
]


def small_model(model_type: str, task: str, tokenizer: Tokenizer, **options):
    """A new model of a family, made for a task; options are values of its config, where it has such fields."""
    family = family_called(model_type)
    known = {field.name for field in dataclasses.fields(family.config)}
    sizes = {name: value for name, value in {**SIZES, **options}.items() if name in known}
    values = {**sizes, "vocab_size": tokenizer.vocabulary_size}
    if task == "causal-lm" and "bidirectional" in known:
        values["bidirectional"] = False
    keras.utils.set_random_seed(0)
    backbone = family.backbone(family.config.from_dict(values), **family.heads[task].backbone_parts)
    return TASKS[task].build_on(backbone, tokenizer, **OPTIONS.get(task, {}))


@pytest.fixture(scope="module")
def tokenizer(tiny_bert) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_bert)


def asked(task: str):
    if task.startswith("masked-lm"):
        return ["the [MASK] is good"]
    return QUESTIONS[:1] if task == "question-answering" else TEXTS[:1]


@pytest.mark.parametrize(("model_type", "task"), PAIRS)
def test_it_trains_is_kept_and_answers(tokenizer, tmp_path: Path, model_type, task):
    model = small_model(model_type, task, tokenizer)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.compile(learning_rate=1e-2)
    x, y = DATA[task]
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    still = [
        variable.path
        for variable, old in zip(model.trainable_variables, before, strict=True)
        if np.array_equal(variable.numpy(), old)
    ]
    assert not still, f"no gradient reaches {still}"

    answers = model.predict_text(asked(task))
    model.save_pretrained(tmp_path / "kept")
    again = TASKS[task].from_pretrained(tmp_path / "kept", **OPTIONS.get(task, {}))
    for ours, theirs in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    # Vectors are arrays.
    np.testing.assert_equal(again.predict_text(asked(task)), answers)


STILL = dict.fromkeys(
    (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
        *("dropout", "attention_dropout", "activation_dropout", "dropout_rate"),
    ),
    0.0,
)
"""No dropout: XLA draws other numbers."""

COMPILED = [
    ("bert", "masked-lm"),
    ("bert", "masked-lm-with-pairs"),
    ("bert", "text-classification"),
    ("bert", "token-classification"),
    ("bert", "question-answering"),
    ("bert", "text-embedding"),
    ("electra", "replaced-token-detection"),
    ("gpt2", "causal-lm"),
    ("llama", "causal-lm"),
    ("llama", "text-classification"),
    ("t5", "seq2seq-lm"),
    ("bart", "seq2seq-lm"),
]
"""Every task, and every kind of network."""


@pytest.mark.parametrize(
    ("model_type", "task"),
    [pytest.param(*pair, marks=() if pair == ("bert", "masked-lm") else pytest.mark.slow) for pair in COMPILED],
)
def test_a_step_is_one_program_as_tpus_run_it(tokenizer, model_type, task):
    """XLA compiles the whole step, whose shapes are all known, so no operation is one that it has not; losses are the same."""
    losses = {}
    for compiled in (False, True):
        model = small_model(model_type, task, tokenizer, **STILL)
        model.compile(learning_rate=1e-2, jit_compile=compiled)
        x, y = DATA[task]
        batch = next(iter(model.prepared_dataset(model.raw_dataset(x, y, batch_size=4), training=True)))
        batch = tf.nest.map_structure(lambda values: tf.constant(values.numpy()), batch)
        data = tf.data.Dataset.from_tensors(batch).repeat(3)
        losses[compiled] = model.fit(data, epochs=2, verbose=0).history["loss"]
        if compiled:
            assert np.isfinite(model.evaluate(data, verbose=0, return_dict=True)["loss"])
    if task == "replaced-token-detection":  # draws what the generator writes
        assert losses[True][1] < losses[True][0]
    else:
        np.testing.assert_allclose(losses[True], losses[False], rtol=1e-3)
