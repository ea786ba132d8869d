"""Elman's network, LSTM, GRU and Bahdanau's encoder-decoder against PyTorch's numbers, see tests/golden/make_recurrent.py."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import GOLDEN, FamilyTests

import garden
from garden.models.backbone import family_called
from garden.models.bahdanau import BahdanauConfig
from garden.models.recurrent import ElmanConfig, RecurrentConfig

RECURRENT = ("elman", "gru", "lstm")
SMALL = {"embedding_size": 12, "hidden_size": 16, "dropout": 0.0}


class TestRecurrent(FamilyTests):
    golden = "recurrent"
    small = "lstm"


def made(model_type: str, task: str, tokenizer, **config):
    """A new task on a small network."""
    keras.utils.set_random_seed(0)
    family = family_called(model_type)
    config = family.config.from_dict({"vocab_size": tokenizer.vocabulary_size, **SMALL, **config})
    backbone = family.backbone(config, **family.heads[task].backbone_parts)
    options = {"labels": ["negative", "positive"]} if task == "text-classification" else {}
    return garden.tasks.TASKS[task].build_on(backbone, tokenizer, **options)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    return garden.Tokenizer.from_pretrained(tiny_bert)


# ------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("case", ["bahdanau", "bahdanau_lstm"])
def test_a_target_written_step_by_step_is_the_one_written_at_once(case):
    backbone = garden.Backbone.from_pretrained(GOLDEN / "recurrent" / case)
    with np.load(GOLDEN / "recurrent" / case / "golden.npz") as arrays:
        for batch in ("right", "left"):
            names = {"token_ids": "token_ids", "segment_ids": "mask"}
            names |= {"target_ids": "target_ids", "target_segment_ids": "target_mask"}
            inputs = {ours: arrays[f"{batch}.{theirs}"].astype(np.int32) for ours, theirs in names.items()}
            whole = backbone(inputs)["sequence"].numpy()
            cache, pieces = backbone.empty_cache(backbone.encode(inputs), 8), []
            for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
                asked = {name: inputs[name][:, part] for name in ("target_ids", "target_segment_ids")}
                outputs = backbone.decode(asked, cache=cache)
                pieces.append(outputs["sequence"])
                cache = outputs["cache"]
            real = inputs["target_segment_ids"] > 0
            np.testing.assert_allclose(np.concatenate(pieces, axis=1)[real], whole[real], atol=1e-6)
    rows = backbone.reordered(cache, [2, 0, 0])
    ours = backbone.decode({"target_ids": np.array([[5], [6], [7]])}, cache=rows)["sequence"]
    theirs = backbone.decode({"target_ids": np.array([[6], [6], [5]])}, cache=cache)["sequence"]
    np.testing.assert_allclose(ours[:2], tf.gather(theirs, [2, 0]), atol=1e-6)


@pytest.mark.parametrize("case", ["lstm_causal", "elman_relu"])
def test_token_by_token_gives_what_all_at_once_gives(case):
    backbone = garden.Backbone.from_pretrained(GOLDEN / "recurrent" / case)
    token_ids = np.array([[1, 2, 3, 4, 5, 0], [0, 0, 6, 7, 8, 9], [3, 2, 1, 0, 0, 7]], np.int32)
    segment_ids = (token_ids > 0).astype(np.int32)
    whole = backbone({"token_ids": token_ids, "segment_ids": segment_ids})["sequence"]
    for steps in ([1] * 6, [4, 2]):
        cache, pieces, begin = backbone.empty_cache(3, 6), [], 0
        shapes = [part.shape for part in tf.nest.flatten(cache)]
        for size in steps:
            part = slice(begin, begin + size)
            outputs = backbone({"token_ids": token_ids[:, part], "segment_ids": segment_ids[:, part]}, cache=cache)
            pieces.append(outputs["sequence"])
            cache, begin = outputs["cache"], begin + size
        assert [part.shape for part in tf.nest.flatten(cache)] == shapes
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)
    # Its first dimension is the batch's: a beam picks rows.
    rows = tf.nest.map_structure(lambda part: tf.gather(part, [2, 2, 0]), cache)
    last = np.array([[4], [5], [4]], np.int32)
    ours = backbone({"token_ids": last}, cache=rows)["sequence"]
    theirs = backbone({"token_ids": last[[2, 1, 1]]}, cache=cache)["sequence"]
    np.testing.assert_allclose(ours[1:], tf.gather(theirs, [2, 0]), atol=1e-6)


def test_each_text_of_a_row_is_pooled_alone():
    backbone = garden.Backbone.from_pretrained(GOLDEN / "recurrent" / "lstm")
    texts = [[1, 2, 3, 4], [5], [6, 7]]
    row, segments = np.array([[*texts[0], *texts[1], *texts[2], 0]]), np.array([[1, 1, 1, 1, 2, 3, 3, 0]])
    together = backbone({"token_ids": row, "segment_ids": segments}, read_positions=np.array([[0, 4, 6, 0]]))["pooled"]
    for index, text in enumerate([*texts, texts[0]]):
        alone = backbone({"token_ids": np.array([text])})["pooled"]
        np.testing.assert_allclose(together[0, index], alone[0], atol=1e-6)


@pytest.mark.parametrize("model_type", RECURRENT)
def test_configs_round_trip_through_keras(model_type):
    family = family_called(model_type)
    backbone = family.backbone(family.config(vocab_size=9, hidden_size=4, bidirectional=True), pooler=False)
    again = type(backbone).from_config(json.loads(json.dumps(backbone.get_config())))
    assert again.config == backbone.config
    assert again.pooler is None
    assert [variable.shape for variable in again.weights] == [variable.shape for variable in backbone.weights]
    assert backbone.width == 8
    assert backbone.words.width == 4


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ElmanConfig, {"hidden_act": "gelu"}, 'hidden_act: expected "tanh", "sigmoid" or "relu", got "gelu"'),
        (RecurrentConfig, {"num_layers": 0}, "num_layers: expected a positive number, got 0"),
        (RecurrentConfig, {"embedding_size": 0}, "embedding_size: expected a positive number, got 0"),
        (RecurrentConfig, {"bidirectional": "yes"}, "bidirectional: expected bool, got 'yes'"),
        (BahdanauConfig, {"cell": "rnn"}, 'cell: expected one of elman, gru, lstm, got "rnn"'),
    ],
)
def test_configs_that_say_nothing_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config.from_dict({"vocab_size": 9, **values})


def test_a_causal_lm_reads_in_one_direction(tokenizer):
    with pytest.raises(ValueError, match="bidirectional: true: a causal LM"):
        made("lstm", "causal-lm", tokenizer, bidirectional=True)
    backbone = made("lstm", "masked-lm", tokenizer, bidirectional=True).backbone
    with pytest.raises(ValueError, match="bidirectional network has no memory"):
        backbone.empty_cache(1, 8)


# ------------------------------------------------------------------------------------------ tasks


def examples(path) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


@pytest.mark.slow
def test_an_lstm_learns_to_classify(tokenizer, tiny_data, tmp_path):
    model = made("lstm", "text-classification", tokenizer, bidirectional=True)
    model.compile(learning_rate=2e-2)
    model.fit(*examples(tiny_data["train"]), epochs=6, batch_size=16, verbose=0)
    texts, labels = examples(tiny_data["test"])
    answers = model.predict_text(texts)
    assert np.mean([answer["label"] == label for answer, label in zip(answers, labels, strict=True)]) > 0.9
    model.save_pretrained(tmp_path / "saved")
    again = garden.TextClassifier.from_pretrained(tmp_path / "saved")
    assert again.predict_text(texts) == answers


@pytest.mark.parametrize(
    ("model_type", "task"), [pytest.param("gru", "masked-lm", marks=pytest.mark.slow), ("elman", "causal-lm")]
)
def test_language_models_train(tokenizer, tiny_data, model_type, task):
    model = made(model_type, task, tokenizer)
    model.compile(learning_rate=1e-2)
    losses = model.fit(examples(tiny_data["train"])[0], epochs=3, batch_size=24, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_translator_learns_to_copy(tokenizer):
    texts = ["good film", "the story", "bad actors", "an awful end"]
    model = made("bahdanau", "seq2seq-lm", tokenizer)
    model.compile(learning_rate=2e-2)
    model.fit(texts * 8, texts * 8, epochs=12, batch_size=16, verbose=0)
    answers = [answer["generated_text"] for answer in model.predict_text(texts)]
    assert answers == texts
