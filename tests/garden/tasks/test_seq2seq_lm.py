"""Seq2SeqLM: what it learns from, that packing changes nothing, likelihoods, and greedy answers against transformers'."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.models.backbone import family_of
from garden.models.bart import BartBackbone, BartConfig, MBartBackbone, MBartConfig
from garden.models.t5 import T5Backbone, T5Config
from garden.models.transformer import TransformerBackbone, TransformerConfig
from garden.tasks.perplexity import Perplexity
from garden.tokenizers.template import Part, Template

GOLDEN = Path(__file__).parents[2] / "golden"
PAD, CLS, SEP = 0, 2, 3
SOURCES = ["good film", "the story was dull and bad", "great", "a lovely story with an end"]
TARGETS = ["film good", "bad", "great great great", "end"]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return garden.Tokenizer.from_pretrained(tiny_bert)


def transformer(tokenizer, seed: int = 0, **options):
    """A Transformer of 1 layer x 16 without dropout, with weights large enough to tell texts apart."""
    keras.utils.set_random_seed(seed)
    sizes = {"vocab_size": tokenizer.vocabulary_size, "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    backbone = TransformerBackbone(TransformerConfig(**sizes, dropout=0.0, max_position_embeddings=64))
    return garden.Seq2SeqLM.build_on(backbone, tokenizer, **options)


def made(model, sources, targets, weights=None) -> tuple:
    """What `fit` makes of a batch."""
    batch = {"text": tf.constant(sources), "label": tf.constant(targets)}
    batch |= {} if weights is None else {"weight": tf.constant(weights)}
    return model.inputs(batch, training=False, seed=tf.constant([0, 0]))


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer([text])[0].numpy().tolist()


# ------------------------------------------------------------------------------------------ inputs


def test_the_decoder_reads_the_target_behind_its_start_token(tokenizer):
    model = transformer(tokenizer, batching="padded")
    x, y, weights = made(model, SOURCES, TARGETS)
    assert set(x) == {"token_ids", "segment_ids", "positions", "target_ids", "target_segment_ids", "target_positions"}
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        source_ids, target_ids = ids(tokenizer, source), ids(tokenizer, target)
        size = len(target_ids)
        assert x["token_ids"][row, : len(source_ids)].numpy().tolist() == source_ids
        assert y[row, :size].numpy().tolist() == target_ids
        assert x["target_ids"][row, :size].numpy().tolist() == [PAD, *target_ids[:-1]]
        assert weights[row].numpy().tolist() == [1.0] * size + [0.0] * (weights.shape[1] - size)


def test_packed_and_padded_batches_have_one_loss_and_one_gradient(tokenizer):
    results = []
    for batching in ("packed", "padded"):
        model = transformer(tokenizer, batching=batching, row_length=32)
        model.compile()
        x, y, weights = made(model, SOURCES, TARGETS, [1.0, 2.0, 0.5, 1.0])
        with tf.GradientTape() as tape:
            losses, counted = model.weighted_losses(x, y, model(x), weights)
            loss = tf.reduce_sum(losses * counted) / tf.reduce_sum(counted)
        results.append((loss, tape.gradient(loss, model.trainable_variables)))
    (packed, packed_gradients), (padded, padded_gradients) = results
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    for ours, theirs in zip(packed_gradients, padded_gradients, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs), atol=1e-5)


def test_all_kinds_of_data_are_the_same_data(tokenizer, tmp_path):
    model = transformer(tokenizer)
    rows = [{"text": source, "target": target} for source, target in zip(SOURCES, TARGETS, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = tf.data.Dataset.from_tensor_slices((SOURCES, TARGETS)).batch(4)
    pairs = tf.data.Dataset.from_tensor_slices(((SOURCES, TARGETS),)).batch(4)
    for data in (
        (SOURCES, TARGETS),
        ((SOURCES, TARGETS),),
        (list(zip(SOURCES, TARGETS, strict=True)),),
        (str(tmp_path / "pairs.jsonl"),),
        (dataset,),
        (pairs,),
    ):
        batch = next(iter(model.raw_dataset(*data)))
        assert {name: [text.decode() for text in texts.numpy()] for name, texts in batch.items()} == {
            "text": SOURCES,
            "label": TARGETS,
        }


def test_long_texts_are_cut_each_side_to_its_own_length(tokenizer):
    model = transformer(tokenizer, sequence_length=5, target_length=4, batching="padded")
    x, y, _ = made(model, SOURCES, TARGETS)
    assert (x["token_ids"].shape[1], y.shape[1]) == (5, 4)
    assert y.numpy()[2].tolist() == [CLS, *[tokenizer.id_of("great")] * 2, SEP]


def test_target_tokens_are_real_tokens(tokenizer):
    model = transformer(tokenizer)
    model.compile()
    model.evaluate(SOURCES, TARGETS, verbose=0)
    expected = sum(len(ids(tokenizer, text)) for text in [*SOURCES, *TARGETS])
    assert float(model._real_tokens.result()) == expected


# ------------------------------------------------------------------------------------------ losses and likelihoods


def test_likelihoods_and_perplexity_are_those_of_the_logits(tokenizer):
    model = transformer(tokenizer)
    scores = model.score_text(SOURCES, TARGETS)
    total, count = 0.0, 0
    for score, source, target in zip(scores, SOURCES, TARGETS, strict=True):
        wanted = ids(tokenizer, target)
        logits = model({"token_ids": np.array([ids(tokenizer, source)]), "target_ids": np.array([[PAD, *wanted[:-1]]])})
        assert logits.shape == (1, len(wanted), tokenizer.vocabulary_size)
        gained = tf.nn.log_softmax(logits)[0].numpy()[np.arange(len(wanted)), wanted]
        assert score["tokens"] == len(wanted)
        np.testing.assert_allclose(score["log_likelihood"], gained.sum(), rtol=1e-4)
        np.testing.assert_allclose(score["perplexity"], np.exp(-gained.mean()), rtol=1e-4)
        total, count = total + gained.sum(), count + len(wanted)
    # Batches of 3 and 1 examples, and labels smoothed or not: it is one number.
    for smoothing in (0.0, 0.3):
        results = transformer(tokenizer, label_smoothing=smoothing).evaluate(
            SOURCES, TARGETS, batch_size=3, verbose=0, return_dict=True
        )
        np.testing.assert_allclose(results["perplexity"], np.exp(-total / count), rtol=1e-4)
        assert (abs(results["loss"] + total / count) < 1e-3) == (smoothing == 0)


def test_perplexity_leaves_out_what_has_no_weight():
    metric = Perplexity()
    metric.update_state([1, 0], [[0.0, 2.0], [5.0, 0.0]], sample_weight=[1.0, 0.0])
    np.testing.assert_allclose(metric.result(), 1 + np.exp(-2), rtol=1e-6)


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.slow
def test_it_learns_to_copy(tokenizer):
    random = np.random.default_rng(0)
    words = ["good", "great", "bad", "dull", "film", "story"]
    sources = [" ".join(random.choice(words, random.integers(1, 3))) for _ in range(128)]
    model = transformer(tokenizer, answer_length=8)
    model.compile(learning_rate=0.02)
    history = model.fit(sources, sources, epochs=12, batch_size=16, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["token_accuracy"][-1] > 0.8
    answer = model.predict_text("great")
    assert answer["generated_text"] == "great"
    # What is written with a cache is as likely as when it is given.
    likely = model.score_text(["great"], ["great"])[0]
    np.testing.assert_allclose(answer["score"], likely["log_likelihood"], rtol=1e-3)


@pytest.mark.parametrize("case", ["bart/lm", "t5/lm", "t5/lm_gated", "t5/mt5_lm", "t5/umt5_lm"])
def test_answers_are_transformers_greedy_ones(tokenizer, case):
    directory = GOLDEN / case
    with np.load(directory / "golden.npz") as arrays:
        batch = {name: arrays[name].astype(np.int32) for name in ("token_ids", "mask", "generated")}
    model = opened(directory, tokenizer, answer_length=8)
    inputs = {"token_ids": tf.constant(batch["token_ids"]), "segment_ids": tf.constant(batch["mask"])}
    written, scores = tf.function(lambda x: model._written(model.backbone.encode(x)), autograph=False)(inputs)
    assert np.isfinite(scores).all()
    for ours, theirs in zip(written.to_list(), batch["generated"], strict=True):
        assert theirs[0] == model.start_id
        ends = np.flatnonzero(theirs[1:] == model.end_id)
        assert ours == theirs[1 : 1 + ends[0] if len(ends) else None].tolist()


def opened(directory: Path, tokenizer, **options):
    """A golden case as a task, with the end token that its config names."""
    from garden.checkpoints import huggingface
    from garden.models.backbone import load_weights, open_weights

    values = huggingface.read_config(directory)
    family = family_of(values)
    without = tokenizer.with_template(Template((Part(source="first"),)))
    with open_weights(directory, family) as weights:
        backbone = family.backbone(family.config.from_dict(values).settled(weights))
        model = garden.Seq2SeqLM.build_on(backbone, without, **options)
        load_weights(backbone, {"head": model.head}, weights, strict=True)
    return model


def test_a_start_and_an_end_for_every_template(tokenizer):
    bare = tokenizer.with_template(Template((Part(source="first"),)))
    ended = tokenizer.with_template(Template((Part(source="first"), Part(source="special", name="[SEP]", ids=(SEP,)))))
    t5 = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    for given, end, adds in ((bare, 1, True), (ended, SEP, False), (tokenizer, SEP, False)):
        model = garden.Seq2SeqLM.build_on(T5Backbone(t5), given, batching="padded")
        assert (model.start_id, model.end_id, model.forced_id) == (0, end, None)
        _, y, weights = made(model, ["good"], ["bad"])
        assert y.numpy().tolist() == [[*ids(given, "bad"), *([1] if adds else [])]]
        assert weights.numpy().all()


def test_languages_take_the_place_of_the_templates_own(tokenizer):
    # As mBART has it: text, end, language. The tokens that stand for languages are words here.
    end, language = Part(source="special", name="[SEP]", ids=(SEP,)), Part(source="special", name="a", ids=(15,))
    sizes = dict.fromkeys(BartConfig.sizes, 1) | {"vocab_size": 40, "d_model": 8, "max_position_embeddings": 16}
    config = MBartConfig(**sizes, eos_token_id=SEP, pad_token_id=PAD, bos_token_id=CLS)
    languages = {"source_language": "film", "target_language": "story"}
    film, story = (tokenizer.id_of(name) for name in ("film", "story"))
    first = tokenizer.with_template(Template((Part(source="first"), end, language)))
    model = garden.Seq2SeqLM.build_on(MBartBackbone(config), first, batching="padded", **languages)
    x, y, _ = made(model, ["good"], ["bad"])
    good, bad = tokenizer.id_of("good"), tokenizer.id_of("bad")
    assert x["token_ids"].numpy().tolist() == [[good, SEP, film]]
    assert y.numpy().tolist() == [[bad, SEP, story]]
    assert x["target_ids"].numpy().tolist() == [[story, bad, SEP]]
    assert (model.start_id, model.end_id, model.forced_id) == (story, SEP, None)
    # As its successor has it: language, text, end.
    second = tokenizer.with_template(Template((language, Part(source="first"), end)))
    model = garden.Seq2SeqLM.build_on(MBartBackbone(config), second, batching="padded", answer_length=4, **languages)
    x, y, _ = made(model, ["good"], ["bad"])
    assert x["target_ids"].numpy().tolist() == [[SEP, story, bad]]
    assert (model.start_id, model.end_id, model.forced_id) == (SEP, SEP, story)
    assert model.predict_text("good")["generated_text"].startswith("story")
    with pytest.raises(ValueError, match='source_language: "xx" is not a token of the vocabulary'):
        garden.Seq2SeqLM.build_on(MBartBackbone(config), second, source_language="xx")
    with pytest.raises(
        ValueError, match="target_language: the tokenizer's template has 0 language tokens, expected one"
    ):
        garden.Seq2SeqLM.build_on(MBartBackbone(config), tokenizer, target_language="story")


# ------------------------------------------------------------------------------------------ keeping and exporting


def test_what_is_saved_answers_the_same(tokenizer, tmp_path):
    model = transformer(tokenizer, answer_length=6, target_length=9)
    model.save_pretrained(tmp_path / "model")
    again = garden.Seq2SeqLM.from_pretrained(tmp_path / "model")
    assert (again.answer_length, again.target_length, again.end_id) == (6, 9, SEP)
    assert again.predict_text(SOURCES) == model.predict_text(SOURCES)
    assert again.score_text(SOURCES, TARGETS) == model.score_text(SOURCES, TARGETS)


def test_an_export_writes_the_same_texts(tokenizer, tmp_path):
    import serving

    model = transformer(tokenizer, answer_length=5)
    directory = serving.export(model, tmp_path / "base")
    answer = tf.saved_model.load(str(directory)).signatures["serving_default"](text=tf.constant(SOURCES))
    expected = model.predict_text(SOURCES)
    assert [text.decode() for text in answer["generated_text"].numpy()] == [one["generated_text"] for one in expected]
    np.testing.assert_allclose(answer["score"], [one["score"] for one in expected], rtol=1e-3)


# ------------------------------------------------------------------------------------------ other tasks on the families


@pytest.mark.parametrize("family", ["bart", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mbart", "t5"))])
def test_classifiers_read_each_texts_end(tokenizer, family):
    keras.utils.set_random_seed(0)
    if family == "t5":
        backbone = T5Backbone(
            T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, eos_token_id=SEP)
        )
    else:
        sizes = dict.fromkeys(BartConfig.sizes, 1) | {"vocab_size": 40, "d_model": 8, "max_position_embeddings": 32}
        kinds = {"bart": (BartBackbone, BartConfig), "mbart": (MBartBackbone, MBartConfig)}
        network, config = kinds[family]
        backbone = network(config(**sizes, init_std=0.5, eos_token_id=SEP))
    # A language behind the end, as mBART has it.
    after = [Part(source="special", name="a", ids=(15,))] if family == "mbart" else []
    parts = [Part(source="first"), Part(source="special", name="[SEP]", ids=(SEP,)), *after]
    given = tokenizer.with_template(Template(tuple(parts)))
    logits = {}
    for batching in ("packed", "padded"):
        keras.utils.set_random_seed(1)
        model = garden.TextClassifier.build_on(backbone, given, labels=["no", "yes"], batching=batching)
        logits[batching] = model.predict(SOURCES, verbose=0)
    np.testing.assert_allclose(logits["packed"], logits["padded"], atol=1e-5)
    for source, expected in zip(SOURCES, logits["padded"], strict=True):
        token_ids = np.array([given([source])[0].numpy()])
        np.testing.assert_allclose(model({"token_ids": token_ids})[0], expected, atol=1e-5)
        state = backbone({"token_ids": token_ids})["sequence"][:, -2 if after else -1][:, None]
        np.testing.assert_allclose(model.head({"sequence": state})[0, 0], expected, atol=1e-5)


def test_bart_fills_masks(tokenizer):
    keras.utils.set_random_seed(0)
    sizes = dict.fromkeys(BartConfig.sizes, 1) | {"vocab_size": 40, "d_model": 8, "max_position_embeddings": 32}
    backbone = BartBackbone(BartConfig(**sizes, init_std=0.5))
    model = garden.MaskedLM.build_on(backbone, tokenizer)
    token_ids = np.array([ids(tokenizer, "good [MASK] bad")])
    logits = model({"token_ids": token_ids})
    np.testing.assert_allclose(
        model({"token_ids": token_ids, "mask_positions": np.array([[2]])})[:, 0], logits[:, 2], atol=1e-5
    )
    assert model.predict_text("good [MASK] bad")[0]["token"] == tokenizer.vocabulary[int(tf.argmax(logits[0, 2, :27]))]


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.fit(SOURCES), "targets: none given"),
        (lambda model: model.fit(SOURCES, [1, 2, 3, 4]), "target of text 0: expected a string, got 1"),
        (lambda model: model.fit(SOURCES, TARGETS[:2]), "expected as many labels as texts"),
        (lambda model: model.fit((SOURCES, SOURCES), TARGETS), "targets: sources are pairs of texts"),
        (lambda model: model.fit(SOURCES, TARGETS, class_weight={0: 1.0}), "class_weight: targets are texts"),
        (lambda model: model.predict(SOURCES), "predict: texts have rows of many lengths; use predict_text"),
        (lambda model: model.predict_text([("a", "b")]), "pairs: a sequence-to-sequence model answers one text"),
    ],
)
def test_data_that_does_not_fit_is_refused(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(transformer(tokenizer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_length": 2}, "target_length: expected a few tokens, got 2"),
        ({"target_length": 65}, "target_length: expected 3 to 64 tokens, got 65"),
        ({"answer_length": 0}, "answer_length: expected a few tokens, got 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        transformer(tokenizer, **options)
