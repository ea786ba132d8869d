"""Causal language modelling: what is predicted from what, what counts, and what a text is scored with."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import garden
from garden import CausalLM
from garden.models.gpt2 import GPT2Backbone, GPT2Config
from garden.models.llama import LlamaBackbone, LlamaConfig
from garden.tasks.causal_lm import cut, next_tokens

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "dull", "fine", "a", "the", "film", "story", "with", "an", "end", "and", "it", "was", "very"]
VOCABULARY = [*SPECIAL, *WORDS]
TEXTS = ["the film was good", "a dull story with an end and it was bad and the film was dull", "", "fine"]


def write(directory, backbone):
    backbone.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    keras.utils.set_random_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return write(tmp_path_factory.mktemp("llama"), LlamaBackbone(config))


@pytest.fixture(scope="module")
def model(tiny_llama):
    model = CausalLM.from_pretrained(tiny_llama)
    model.compile(run_eagerly=True)
    return model


def log_chances(model, ids) -> np.ndarray:
    """Each token's log-probability but the first one's, from a call with this text alone."""
    logits = model({"token_ids": np.asarray(ids, np.int32)[None]}).numpy()[0].astype(np.float64)
    normed = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return normed[np.arange(len(ids) - 1), ids[1:]]


def ids_of(model, text) -> list[int]:
    return model.tokenizer([text]).to_list()[0]


def test_targets_stay_inside_a_text():
    x = {
        "token_ids": np.array([[5, 6, 7, 8, 9, 0], [0, 5, 6, 6, 0, 0]]),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 0], [0, 1, 1, 2, 0, 0]]),
    }
    targets, weights = next_tokens(x)
    np.testing.assert_array_equal(weights, [[1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(targets.numpy()[weights.numpy() > 0], [6, 7, 9, 6])
    _, weights = next_tokens(x, np.array([[0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]]))
    np.testing.assert_array_equal(weights, [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    _, weights = next_tokens({"token_ids": np.ones((1, 3), np.int32)})
    np.testing.assert_array_equal(weights, [[1, 1, 0]])


@pytest.mark.parametrize("length", [3, 4, 7, 20])
def test_long_texts_are_cut_so_that_each_token_is_predicted_once(length):
    texts = [list(range(100, 100 + size)) for size in (0, 1, 2, 3, 4, 7, 13)]
    ids = tf.ragged.constant(texts, tf.int32)
    pieces, marks, of_text = cut(ids, ids % 7, length)
    assert max(map(len, pieces.to_list())) <= length
    np.testing.assert_array_equal(marks.values, pieces.values % 7)
    assert sorted(set(of_text.numpy())) == list(range(len(texts)))
    for index, text in enumerate(texts):
        mine = [piece for piece, owner in zip(pieces.to_list(), of_text.numpy(), strict=True) if owner == index]
        assert mine[0][:1] == text[:1]
        assert [token for piece in mine for token in piece[1:]] == text[1:]
        assert all(one[-1] == two[0] for one, two in itertools.pairwise(mine))


@pytest.mark.parametrize(("batching", "length"), [("packed", None), ("padded", 5)])
def test_loss_is_the_mean_over_all_successors(tiny_llama, batching, length):
    model = CausalLM.from_pretrained(tiny_llama, batching=batching, sequence_length=length)
    model.compile(run_eagerly=True)
    chances = []
    for text in TEXTS:
        ids = ids_of(model, text)
        step = len(ids) if length is None else length - 1
        chances += [log_chances(model, ids[at : at + step + 1]) for at in range(0, len(ids) - 1, step)]
    chances = np.concatenate(chances)
    for size in (4, 3):
        given = model.evaluate(TEXTS, batch_size=size, verbose=0, return_dict=True)
        assert given["loss"] == pytest.approx(-chances.mean(), abs=1e-5)
        assert given["perplexity"] == pytest.approx(np.exp(-chances.mean()), rel=1e-4)


def test_texts_end_once(tiny_llama):
    for end_texts in (True, False):
        model = CausalLM.from_pretrained(tiny_llama, end_texts=end_texts)
        # The template ends texts itself.
        pieces, counted, _ = model._pieces(tf.constant(TEXTS), None, ended=end_texts)
        assert pieces.to_list() == model.tokenizer(TEXTS).to_list()
        assert set(counted.values.numpy()) == {1}
    encode = model.tokenizer.encode
    bare = type("Bare", (), {"encode": lambda self, texts: encode(texts, add_special_tokens=False)})()
    bare.eos_id, bare.sep_id = None, model.tokenizer.sep_id
    plain = [ids[1:-1] for ids in model.tokenizer(TEXTS).to_list()]
    object.__setattr__(model, "tokenizer", bare)
    assert model._pieces(tf.constant(TEXTS), None, ended=False)[0].to_list() == plain
    assert model._pieces(tf.constant(TEXTS), None, ended=True)[0].to_list() == [[*ids, 3] for ids in plain]


def test_only_completions_count(model):
    prompts, completions = ["the film was", "the é\U0001f600 ", ""], [" good", "story was bad", "fine"]
    raw = model.raw_dataset((prompts, completions))
    ((_, y, weights),) = model.prepared_dataset(raw)
    counted = [model.tokenizer.vocabulary[token] for token in y.numpy()[weights.numpy() > 0]]
    assert sorted(counted) == sorted(["good", "story", "was", "bad", "fine", *["[SEP]"] * 3])
    chances = []
    for prompt, completion, count in zip(prompts, completions, (2, 4, 2), strict=True):
        chances.append(log_chances(model, ids_of(model, prompt + completion))[-count:])
    given = model.evaluate((prompts, completions), verbose=0, return_dict=True)
    assert given["loss"] == pytest.approx(-np.concatenate(chances).mean(), abs=1e-5)
    # Completions may stand where other tasks have labels.
    dataset = tf.data.Dataset.from_tensor_slices((prompts, completions)).batch(3)
    for data in ((prompts, completions), (dataset,)):
        assert model.evaluate(*data, verbose=0, return_dict=True)["loss"] == pytest.approx(given["loss"], abs=1e-6)
    answers = model.predict_text(list(zip(prompts, completions, strict=True)))
    for answer, expected in zip(answers, chances, strict=True):
        assert answer["log_likelihood"] == pytest.approx(expected.sum(), abs=1e-4)
        assert answer["tokens"] == len(expected)


def test_predict_text_scores_texts(model):
    answers = model.predict_text(TEXTS, batch_size=3)
    for text, answer in zip(TEXTS, answers, strict=True):
        expected = log_chances(model, ids_of(model, text))
        assert answer["log_likelihood"] == pytest.approx(expected.sum(), abs=1e-4)
        assert answer["perplexity"] == pytest.approx(np.exp(-expected.mean()), rel=1e-4)
        assert answer["tokens"] == len(expected)
    one = model.predict_text(TEXTS[0])
    assert one["log_likelihood"] == pytest.approx(answers[0]["log_likelihood"], abs=1e-5)


def test_answers_are_computed_a_few_logits_at_a_time(model, monkeypatch):
    whole = model.answer(tf.constant(TEXTS))
    monkeypatch.setattr("garden.tasks.causal_lm.LOGITS", 3 * len(VOCABULARY))
    parts = model.answer(tf.constant(TEXTS))
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-5)
    nothing = model._compiled_answer(tf.constant([], tf.string))
    assert {name: value.shape for name, value in nothing.items()} == dict.fromkeys(whole, (0,))


def test_logits_are_of_every_place(model):
    ids = np.array([ids_of(model, TEXTS[0])], np.int32)
    assert model({"token_ids": ids}).shape == (1, ids.shape[1], len(VOCABULARY))


@pytest.mark.slow
def test_fit_learns_and_rows_hold_several_texts(tiny_llama):
    model = CausalLM.from_pretrained(tiny_llama, row_length=32)
    ((x, _, _),) = model.prepared_dataset(model.raw_dataset(TEXTS * 4), training=True)
    assert x["token_ids"].shape[1] == 32
    assert x["segment_ids"].numpy().max() > 2
    assert "type_ids" not in x
    model.compile(learning_rate=1e-2)
    history = model.fit(TEXTS * 8, epochs=4, validation_data=TEXTS, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.5
    assert history["token_accuracy"][-1] > history["token_accuracy"][0]
    assert history["val_perplexity"][-1] == pytest.approx(np.exp(history["val_loss"][-1]), rel=1e-4)


def test_rows_of_ids_bring_their_own_targets(model):
    ids = np.array([ids_of(model, TEXTS[1])], np.int32)
    given = model.evaluate({"token_ids": ids}, verbose=0, return_dict=True)
    assert given["loss"] == pytest.approx(-log_chances(model, ids[0]).mean(), abs=1e-5)


def test_another_loss_has_no_perplexity(tiny_llama):
    model = CausalLM.from_pretrained(tiny_llama)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    assert "perplexity" not in model.evaluate(TEXTS, verbose=0, return_dict=True)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_saved_model_opens_as_it_was(family, tied, tmp_path):
    keras.utils.set_random_seed(1)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=len(VOCABULARY), n_positions=32, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=tied
        )
        backbone, name = GPT2Backbone(config), "GPT2LMHeadModel"
    else:
        config = LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
        backbone, name = LlamaBackbone(config), "LlamaForCausalLM"
    model = CausalLM.build_on(backbone, garden.Tokenizer.from_pretrained(write(tmp_path, backbone)))
    model.save_pretrained(tmp_path / "saved")
    with garden.checkpoints.open_weights(tmp_path / "saved") as weights:
        assert ("lm_head.weight" in weights) == (not tied)
        assert all(tensor.startswith((backbone.family.prefix, "lm_head.")) for tensor in weights)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [name]
    again = CausalLM.from_pretrained(tmp_path / "saved")
    ids = {"token_ids": model.tokenizer(TEXTS[:1]).to_tensor()}
    np.testing.assert_array_equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((TEXTS, [0] * 4), {}, "labels: a causal LM learns texts; give texts only, or completions; got 0 for text 0"),
        ((TEXTS,), {"sample_weight": [1.0] * 4}, "weights: causal language modelling has none"),
        ((TEXTS,), {"class_weight": {0: 1.0}}, "weights: causal language modelling has none"),
        ((tf.data.Dataset.from_tensor_slices((TEXTS, [0] * 4)).batch(2),), {}, "dataset: a causal LM learns texts"),
        (((TEXTS, TEXTS), TEXTS), {}, "dataset: a causal LM learns texts"),
    ],
)
def test_data_that_do_not_fit_are_named(model, data, options, message):
    with pytest.raises(ValueError, match=message):
        model.fit(*data, **options, verbose=0)
