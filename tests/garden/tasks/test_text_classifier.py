"""Text classification: labels in all their forms, what a loss and a metric count, answers, and directories."""

import json

import numpy as np
import pytest
import tensorflow as tf

from garden import TextClassifier, read_examples
from garden.tasks.examples import clear_errors

TEXTS = [
    "a good film",
    "dull",
    "the story was moving and the actors fine",
    "an awful end",
    "it was great",
    "poor actors with a tiresome story and a bad end it was awful",
    "",
]
LABELS = [1, 0, 1, 0, 1, 0, 0]


@pytest.fixture(scope="module")
def make(still_bert):
    """Makes a classifier of the two or three classes that a problem here has."""

    def make(problem="single_label", **options):
        labels = {"single_label": ["negative", "positive"], "multi_label": ["x", "y", "z"]}.get(problem)
        return TextClassifier.from_pretrained(still_bert, **{"labels": labels, "problem": problem, **options})

    return make


@pytest.fixture(scope="module")
def single(make):
    model = make()
    model.compile(run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def multi(make):
    model = make("multi_label")
    model.compile(run_eagerly=True)
    return model


def alone(model, texts, pairs=None):
    """The logits of each text in a row of its own, by the model's parts."""
    rows = []
    for index, text in enumerate(texts):
        encoded = model.tokenizer.encode([text], None if pairs is None else [pairs[index]])
        rows.append(model({"token_ids": encoded.token_ids.to_tensor(), "type_ids": encoded.type_ids.to_tensor()}))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def logits(single):
    return alone(single, TEXTS)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# Labels.


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0, 1],
        np.array([1, 0, 1]),
        ["positive", "negative", "positive"],
        [b"positive", "negative", 1],
        tf.constant(["positive", "negative", "positive"]),
        ["1", "0", "1"],
    ],
    ids=repr,
)
def test_labels_are_names_or_ids(single, labels):
    (batch,) = single.raw_dataset(["a", "b", "c"], labels)
    np.testing.assert_array_equal(batch["label"], [1, 0, 1])
    assert batch["label"].dtype == tf.int32


def test_ids_as_text_are_not_guessed_where_names_are_numbers(make):
    stars = make(labels=["1", "2"])
    np.testing.assert_array_equal(stars.label_values(["1", "2", 0]), [0, 1, 0])
    with pytest.raises(ValueError, match=r"label of text 0: '0' is not one of the 2 classes \(\"1\", \"2\"\)"):
        stars.label_values(["0"])


@pytest.mark.parametrize("label", ["neutral", 2, -1, None, 0.5, True, [1], "2", b"\xff"], ids=repr)
def test_a_label_that_is_none_of_the_classes(single, label):
    with pytest.raises(ValueError, match=r'label of text 1: .* is not one of the 2 classes \("negative", "positive"\)'):
        single.fit(["a", "b"], [0, label])


@pytest.mark.parametrize("labels", [[1, 0, 1], ["positive", "negative", "positive"], [[1], [0], [1]], [1.0, 0.0, 1.0]])
def test_datasets_bring_ids_or_names(single, labels):
    dataset = tf.data.Dataset.from_tensor_slices((["a", "b", "c"], labels)).batch(2)
    given = np.concatenate([batch["label"] for batch in single.raw_dataset(dataset)])
    np.testing.assert_array_equal(given, [1, 0, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["positive", "ärgerlich"],
            'dataset: label "ärgerlich" is not one of the 2 classes ("negative", "positive") or their ids',
        ),
        ([0, 7], 'dataset: label "7" is not one of the 2 classes ("negative", "positive") or their ids'),
        ([0, -1], 'dataset: label "-1" is not one of the 2 classes ("negative", "positive") or their ids'),
        ([[0, 1], [1, 0]], "dataset: expected labels of shape [batch, 1], got (None, 2)"),
    ],
)
def test_datasets_with_wrong_labels_give_one_line(single, labels, message):
    dataset = tf.data.Dataset.from_tensor_slices((["a", "b"], labels)).batch(2)
    with pytest.raises(ValueError) as raised, clear_errors():
        list(single.raw_dataset(dataset))
    assert str(raised.value) == message


def test_fit_gives_the_same_line(single):
    with pytest.raises(ValueError) as raised:
        single.fit(tf.data.Dataset.from_tensors((["a"], ["c"])), verbose=0)
    assert str(raised.value) == 'dataset: label "c" is not one of the 2 classes ("negative", "positive") or their ids'


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (tf.data.Dataset.from_tensor_slices((["a"], [1])), r"got texts of shape \(\); add .batch\(32\)"),
        (tf.data.Dataset.from_tensors(([1.0], [1])), "expected elements of texts, .texts, labels. or"),
        (tf.data.Dataset.from_tensors((["a"], [1], [1.0], [2.0])), "expected elements of texts, .texts, labels. or"),
    ],
    ids=["unbatched", "numbers", "four parts"],
)
def test_datasets_of_something_else(single, dataset, message):
    with pytest.raises(TypeError, match=message):
        single.fit(dataset)


@pytest.mark.parametrize(
    "labels",
    [
        [["x"], [], ["z", "y"]],
        [[0], [], [1, 2]],
        [["x"], np.array([], int), (1, "z")],
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]],
        np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]]),
        [[1, 0, 0], [0, 0, 0], [0, 1, 1]],
        [[True, False, False], [False] * 3, [False, True, True]],
    ],
    ids=repr,
)
def test_several_labels_are_names_ids_or_a_table(multi, labels):
    np.testing.assert_array_equal(multi.label_values(list(labels)), [[1, 0, 0], [0, 0, 0], [0, 1, 1]])


def test_several_labels_may_be_shares(multi):
    np.testing.assert_allclose(multi.label_values([[0.2, 0.5, 1.0], ["y"]]), [[0.2, 0.5, 1], [0, 1, 0]])


@pytest.mark.parametrize("label", ["x", b"x", 1, None])
def test_several_labels_are_a_list(multi, label):
    with pytest.raises(ValueError, match="label of text 0: expected a list of names or ids, got"):
        multi.label_values([label])


@pytest.mark.parametrize("labels", [["x", "y"], [0, 1], [[1.0, 0.0], [0.0, 1.0]]], ids=repr)
def test_datasets_of_several_labels_are_tables(multi, labels):
    with pytest.raises(ValueError, match=r"dataset: expected labels of shape \[batch, 3\], got"):
        multi.raw_dataset(tf.data.Dataset.from_tensor_slices((["a", "b"], labels)).batch(2))


def test_regression_labels_are_numbers(make):
    model = make("regression")
    np.testing.assert_allclose(model.label_values([1, "2.5", np.float64(3)]), [1, 2.5, 3])
    with pytest.raises(ValueError, match="label of text 1: expected a number, got 'much'"):
        model.label_values([1, "much"])
    with pytest.raises(ValueError, match="expected labels as numbers, got strings"):
        model.raw_dataset(tf.data.Dataset.from_tensors((["a"], ["1"])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, 'the checkpoint has no classes yet; give labels=\\["...", "..."\\]'),
        ({"labels": "negative"}, "labels: expected a list of names, got 'negative'"),
        ({"labels": ["a"]}, 'labels: expected at least two different names, got "a"'),
        ({"labels": ["a", "a"]}, 'labels: expected at least two different names, got "a", "a"'),
        ({"problem": "ranking"}, 'problem: expected one of single_label, multi_label, regression, got "ranking"'),
        ({"problem": "regression", "labels": ["a", "b"]}, "labels: a regression has none"),
        ({"batching": "none"}, 'batching: expected one of packed, padded, got "none"'),
        ({"sequence_length": 65}, "sequence_length: expected 3 to 64 tokens, got 65"),
        ({"sequence_length": 2}, "sequence_length: expected 3 to 64 tokens, got 2"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**{"labels": ["negative", "positive"], **options})


# What a loss counts.


def test_evaluate_counts_each_text_once(single, logits):
    given = single.evaluate(TEXTS, LABELS, batch_size=3, verbose=0, return_dict=True)
    right = logits.argmax(-1) == LABELS
    losses = -np.log(softmax(logits)[np.arange(len(TEXTS)), LABELS])
    assert given["accuracy"] == pytest.approx(right.mean())
    assert given["loss"] == pytest.approx(losses.mean(), abs=1e-5)


def test_weights_weigh_the_loss_but_not_the_metrics(single, logits):
    weights = np.array([2.0, 0.5, 0.0, 1.0, 3.0, 0.0, 1.0])
    given = single.evaluate(TEXTS, LABELS, batch_size=4, sample_weight=weights, verbose=0, return_dict=True)
    losses = -np.log(softmax(logits)[np.arange(len(TEXTS)), LABELS])
    assert given["loss"] == pytest.approx((losses * weights).sum() / weights.sum(), abs=1e-5)
    counted = weights > 0
    assert given["accuracy"] == pytest.approx((logits.argmax(-1) == LABELS)[counted].mean())


@pytest.mark.parametrize("class_weight", [{"positive": 3.0}, {1: 3.0}, {"negative": 1, 1: 3}], ids=str)
def test_class_weights_are_by_name_or_id(single, class_weight):
    (batch,) = single.raw_dataset(["a", "b", "c"], [0, 1, 1], [1.0, 2.0, 0.0], class_weight=class_weight)
    np.testing.assert_array_equal(batch["weight"], [1, 6, 0])


def test_class_weights_of_unknown_classes(single, multi):
    with pytest.raises(ValueError, match=r"^class_weight: 'neutral' is not one of the 2 classes"):
        single.fit(TEXTS, LABELS, class_weight={"neutral": 1})
    with pytest.raises(ValueError, match=r'^class_weight: problem "multi_label" has no single class a text'):
        multi.fit(TEXTS, [["x"]] * len(TEXTS), class_weight={"x": 1})


def test_sample_weights_are_as_many_as_texts(single):
    with pytest.raises(ValueError, match="sample_weight: expected one for each of 7 texts, got 1"):
        single.fit(TEXTS, LABELS, sample_weight=[1.0])


def test_label_smoothing_spreads_a_share_of_the_target(make, logits):
    smoothing = 0.3
    model = make(label_smoothing=smoothing)
    model.compile(run_eagerly=True)
    targets = (1 - smoothing) * np.eye(2)[LABELS] + smoothing / 2
    expected = -(targets * np.log(softmax(logits))).sum(-1).mean()
    assert model.evaluate(TEXTS, LABELS, verbose=0)[0] == pytest.approx(expected, abs=1e-5)


def test_several_labels_are_binary_choices(multi):
    labels = [["x"], ["y", "z"], [], ["x", "y", "z"], ["z"], [], ["y"]]
    table, logits = multi.label_values(labels), alone(multi, TEXTS)
    chances = 1 / (1 + np.exp(-logits))
    loss = -(table * np.log(chances) + (1 - table) * np.log(1 - chances)).mean()
    given = multi.evaluate(TEXTS, labels, batch_size=3, verbose=0, return_dict=True)
    assert given["loss"] == pytest.approx(loss, abs=1e-5)
    assert given["accuracy"] == pytest.approx(((logits > 0) == table).mean())
    answers = multi.predict_text(TEXTS)
    for answer, row in zip(answers, chances, strict=True):
        assert answer["scores"] == pytest.approx(dict(zip("xyz", row, strict=True)), abs=1e-5)
        assert answer["labels"] == [name for name, chance in answer["scores"].items() if chance >= 0.5]


def test_regression_is_squared_error(make):
    model = make("regression")
    model.compile(run_eagerly=True)
    targets, given = np.linspace(-1, 2, len(TEXTS)), alone(model, TEXTS)[:, 0]
    results = model.evaluate(TEXTS, targets, batch_size=3, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(((given - targets) ** 2).mean(), abs=1e-5)
    assert results["mean_absolute_error"] == pytest.approx(np.abs(given - targets).mean(), abs=1e-5)
    assert [answer["score"] for answer in model.predict_text(TEXTS)] == pytest.approx(list(given), abs=1e-5)


# Answers.


def test_predict_keeps_the_order(single, logits):
    np.testing.assert_allclose(single.predict(TEXTS, batch_size=3, verbose=0), logits, atol=1e-5)


def test_predict_needs_no_labels(single, logits, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    np.testing.assert_allclose(single.predict(path, verbose=0), logits, atol=1e-5)
    labelled = tf.data.Dataset.from_tensor_slices((TEXTS, ["unknown"] * len(TEXTS))).batch(4)
    np.testing.assert_allclose(single.predict(labelled, verbose=0), logits, atol=1e-5)


def test_predict_text_names_the_best_class(single, logits):
    answers = single.predict_text(TEXTS, batch_size=3)
    scores = softmax(logits)
    assert [answer["label"] for answer in answers] == [single.labels[index] for index in logits.argmax(-1)]
    assert [answer["score"] for answer in answers] == pytest.approx(list(scores.max(-1)), abs=1e-5)
    json.dumps(answers)  # plain Python


def test_predict_text_of_one_text_and_of_none(single, logits):
    answer = single.predict_text(TEXTS[0])
    assert answer["score"] == pytest.approx(softmax(logits)[0].max(), abs=1e-5)
    assert single.predict_text([]) == []


def test_any_text_has_an_answer(single):
    long = "good " * 500
    given = single.answer(tf.constant(["", long, b"\xff\xfe good", "🦊"]))
    assert np.isfinite(given["scores"]).all()
    np.testing.assert_allclose(given["scores"].numpy().sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(given["scores"][1], single.answer(tf.constant([long[:400]]))["scores"][0], atol=1e-6)
    assert given["classes"].numpy().tolist() == [[b"negative", b"positive"]] * 4
    empty = single.answer(tf.constant([], tf.string))
    assert empty["scores"].shape == (0, 2)
    assert empty["label"].shape == (0,)


def test_pairs_of_texts(make):
    model = make()
    first, second = TEXTS[:3], TEXTS[3:6]
    model.compile(run_eagerly=True)
    model.fit((first, second), [0, 1, 0], epochs=1, verbose=0)
    assert model.pairs
    expected = alone(model, first, second)
    assert np.abs(expected - alone(model, second, first)).max() > 1e-3, "the order matters"
    np.testing.assert_allclose(model.predict((first, second), batch_size=2, verbose=0), expected, atol=1e-5)
    answers = model.predict_text(list(zip(first, second, strict=True)))
    assert [answer["score"] for answer in answers] == pytest.approx(list(softmax(expected).max(-1)), abs=1e-5)


def test_embed_is_the_mean_of_the_hidden_states(single):
    given = single.embed(tf.constant(TEXTS))["embedding"]
    for text, embedding in zip(TEXTS, given, strict=True):
        ids = single.tokenizer([text]).to_tensor()
        np.testing.assert_allclose(
            embedding, single.backbone({"token_ids": ids})["sequence"][0].numpy().mean(0), atol=1e-5
        )


def test_calling_reads_the_first_text_of_each_row(single, logits):
    ids = single.tokenizer(TEXTS[:2]).to_tensor()
    segment_ids = tf.cast(ids > 0, tf.int32)
    np.testing.assert_allclose(single({"token_ids": ids, "segment_ids": segment_ids}), logits[:2], atol=1e-5)


# Directories.


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_a_saved_model_opens_as_it_was(make, tmp_path, problem):
    model = make(problem, sequence_length=16, seed=3)
    model.pairs = True
    model.save_pretrained(tmp_path / "saved")
    again = TextClassifier.from_pretrained(tmp_path / "saved")
    assert (again.problem, again.labels) == (problem, model.labels)
    assert (again.sequence_length, again.pairs) == (16, True)
    np.testing.assert_array_equal(alone(again, TEXTS), alone(model, TEXTS))


@pytest.fixture(scope="module")
def saved(single, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "model"
    single.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("labels", [["bad", "good"], ["positive", "negative"], ["a", "b", "c"]], ids=str)
def test_labels_that_do_not_match_the_checkpoint(saved, labels):
    with pytest.raises(
        ValueError, match=r'labels: .* has 2 classes \("negative", "positive"\), asked for .* new_head=True'
    ):
        TextClassifier.from_pretrained(saved, labels=labels)


def test_a_new_head_has_labels_of_its_own(saved, single):
    model = TextClassifier.from_pretrained(saved, labels=["a", "b", "c"], new_head=True)
    assert model.labels == ["a", "b", "c"]
    assert alone(model, ["x"]).shape == (1, 3)
    np.testing.assert_array_equal(model.backbone.words.table, single.backbone.words.table)


def test_heads_without_names_take_those_given(saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    config.pop("id2label"), config.pop("label2id"), config.pop("problem_type")
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert TextClassifier.from_pretrained(tmp_path).labels == ["LABEL_0", "LABEL_1"]
    assert TextClassifier.from_pretrained(tmp_path, labels=["bad", "good"]).labels == ["bad", "good"]


def test_files_of_examples_are_data_too(single, tiny_data):
    examples = read_examples(tiny_data["test"])
    for data in [(tiny_data["test"],), (str(tiny_data["test"]),), (examples,), (examples.texts, examples.labels)]:
        (batch,) = single.raw_dataset(*data, batch_size=100)
        assert batch["text"].numpy().tolist() == [text.encode() for text in examples.texts]
        assert [single.labels[label] for label in batch["label"]] == examples.labels
