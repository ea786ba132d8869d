"""Entities and answers: reports against numbers worked out by hand, and runs of both tasks from files."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from garden.tasks import Examples, QuestionAnswerer, TokenClassifier
from garden.tasks.entities import Scheme
from training.config import make_config
from training.models import open_task, word_labels_in
from training.reports import answer_report, as_text, entity_report
from training.run import run

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def judging(*batches):
    """A model that judges words as given: (texts, true names, given names) of each batch."""
    ids = lambda names: np.array([LABELS.index(name) for name in names.split()], np.int32)
    found = [(np.array(texts, np.int32), ids(true), ids(given)) for texts, true, given in batches]
    return SimpleNamespace(scheme=Scheme(LABELS), judged=lambda examples, batch_size: iter(found))


def test_entities_are_right_as_a_whole():
    model = judging(
        ([0, 0, 0, 0, 1], "B-PER I-PER O B-LOC B-PER", "B-PER O O B-LOC B-PER"),
        ([0, 0, 0], "B-LOC I-LOC O", "B-LOC I-LOC B-PER"),
    )
    results = entity_report(model, None)
    assert (results["accuracy"], results["words"]) == (6 / 8, 8)
    # Found: PER, LOC, PER and LOC, PER; true: PER, LOC, PER and LOC; right: LOC, PER, LOC.
    assert (results["precision"], results["recall"]) == (3 / 5, 3 / 4)
    assert results["f1"] == pytest.approx(2 * 3 / 9)
    assert results["per_class"]["LOC"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    assert results["per_class"]["PER"] == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2}
    )
    assert results["f1_macro"] == pytest.approx((1 + 2 / 5) / 2)
    json.dumps(results)
    assert "f1: 0.6667" in as_text({"examples": 3, **results})


def test_entities_that_nobody_finds():
    results = entity_report(judging(([0, 0], "O O", "O O")), None)
    assert (results["accuracy"], results["precision"], results["recall"], results["f1"]) == (1, 0, 0, 0)


def test_answers_as_squad_counts_them():
    context = "The cat, a dog and the other cat sat."
    examples = Examples(
        ["?"] * 5,
        [context] * 5,
        [
            {"text": "cat", "start": 4},
            {"text": ["cat, a dog", "other cat"], "answer_start": [4, 23]},
            {"text": [], "answer_start": []},
            [],
            {"text": "sat", "start": 33},
        ],
    )
    given = ["The Cat!", "dog and the other cat", "", "dog", "dog"]
    model = SimpleNamespace(predict_text=lambda pairs, batch_size: [{"answer": answer} for answer in given])
    results = answer_report(model, examples)
    # Articles and punctuation do not count: {dog, and, other, cat} against {other, cat}.
    assert results["exact_match"] == pytest.approx(2 / 5)
    assert results["f1"] == pytest.approx((1 + 4 / 6 + 1) / 5)
    assert results["answered"] == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 4 / 6) / 3})
    assert results["answerless"] == {"exact_match": 0.5, "f1": 0.5}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["B-X", "O"], ["I-X"]], ["O", "B-X", "I-X"]),
        (["NOUN VERB", "ADJ"], ["ADJ", "NOUN", "VERB"]),
        ([[0, 2], [-100, 1]], ["0", "1", "2"]),
        ([[{"start": 0, "end": 1, "label": "PER"}], [], [{"label": "LOC"}]], ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]),
    ],
)
def test_classes_in_the_data(labels, expected):
    assert word_labels_in(labels) == expected


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr("training.plots.draw_learning_curves", lambda lines, directory: None)
    monkeypatch.setattr("training.plots.draw_report", lambda results, directory: None)


def written(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def config(task, data, tiny_bert, output):
    values = {
        "task": task,
        "model": {"pretrained": str(tiny_bert)},
        "data": data,
        "training": {"steps": 3, "batch_size": 4, "log_steps": 1},
        "output": str(output),
    }
    return make_config(values)


@pytest.mark.slow
def test_a_run_on_words(tiny_bert, tmp_path, without_pictures):
    lines = [
        {"tokens": ["a", "good", "film"], "tags": ["O", "B-X", "I-X"]},
        {"tokens": ["dull"], "tags": ["B-X"]},
    ] * 4
    data = {"train": written(tmp_path / "a.jsonl", lines), "text": "tokens", "label": "tags", "validation_share": 0.25}
    results = run(config("token-classification", data, tiny_bert, tmp_path / "run"))
    report = results["report"]
    assert report["examples"] == 2
    assert {"accuracy", "precision", "recall", "f1"} <= report.keys()
    model = open_task(results["model"])
    assert isinstance(model, TokenClassifier)
    assert model.labels == ["O", "B-X", "I-X"]


@pytest.mark.slow
def test_a_run_on_answers(tiny_bert, tmp_path, without_pictures):
    lines = [
        {"question": "it was?", "context": "it was a good film", "answers": {"text": ["good"], "answer_start": [9]}},
        {"question": "the end?", "context": "it was dull", "answers": {"text": [], "answer_start": []}},
    ] * 4
    file = written(tmp_path / "a.jsonl", lines)
    data = {"train": file, "validation": file, "text": "question", "pair": "context", "label": "answers"}
    results = run(config("question-answering", data, tiny_bert, tmp_path / "run"))
    assert {"exact_match", "f1", "answered", "answerless"} <= results["report"].keys()
    model = open_task(results["model"])
    assert isinstance(model, QuestionAnswerer)
    assert model.answerless


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("question-answering", "data.labels", '["a", "b"]'),
        ("token-classification", "data.problem", "regression"),
        ("token-classification", "training.label_smoothing", "0.1"),
        ("question-answering", "training.target_length", "9"),
    ],
)
def test_keys_of_other_tasks(task, key, value):
    values = {"task": task, "model": {"pretrained": "x"}, "data": {"train": "y"}, "output": "z"}
    with pytest.raises(ValueError, match=f'{key}: only for task ".*", and the task is "{task}"'):
        make_config(values, [f"{key}={value}"])
