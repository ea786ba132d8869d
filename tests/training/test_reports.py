"""Reports against numbers worked out by hand, and pictures of them."""

import json
import math

import numpy as np
import pytest

from training.plots import draw_learning_curves, draw_report
from training.reports import as_text, multi_label_report, regression_report, single_label_report


def logits_for(classes: list[int], count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes] * 3


def test_two_classes_are_measured_on_the_second():
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    results = single_label_report(truth, logits_for([0, 0, 1, 1, 1, 1, 0, 0], 2), ["no", "yes"])
    assert results["confusion_matrix"] == [[2, 1], [2, 3]]
    assert results["accuracy"] == pytest.approx(5 / 8)
    assert results["positive_class"] == "yes"
    assert (results["precision"], results["recall"], results["f1"]) == pytest.approx((3 / 4, 3 / 5, 2 / 3))
    assert results["per_class"]["no"] == pytest.approx({"precision": 1 / 2, "recall": 2 / 3, "f1": 4 / 7, "support": 3})
    assert results["f1_macro"] == pytest.approx((2 / 3 + 4 / 7) / 2)
    # Of 15 pairs of a no and a yes: 6 in order, 7 alike, 2 the wrong way round.
    assert results["roc_auc"] == pytest.approx((6 + 7 / 2) / 15)


def test_more_classes_are_averaged():
    truth = np.array([0, 1, 2, 2])
    results = single_label_report(truth, logits_for([0, 1, 1, 2], 3), ["a", "b", "c"])
    assert results["f1"] == results["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert "positive_class" not in results
    assert 0.5 < results["roc_auc"] <= 1


def test_a_class_without_examples_leaves_the_area_undefined():
    results = single_label_report(np.array([0, 0, 1]), logits_for([0, 0, 1], 3), ["a", "b", "c"])
    assert results["roc_auc"] is None
    assert results["accuracy"] == 1
    assert np.shape(results["confusion_matrix"]) == (3, 3)
    assert "roc auc: undefined" in as_text(results | {"examples": 3})
    json.dumps(results, allow_nan=False)


def test_several_labels():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
    logits = np.array([[1.0, -1], [1, -1], [-1, -2], [2, 3]])
    results = multi_label_report(truth, logits, ["x", "y"])
    assert results["accuracy"] == pytest.approx(6 / 8)
    assert results["exact_match"] == pytest.approx(2 / 4)
    assert results["confusion_matrices"] == [[[1, 1], [0, 2]], [[2, 0], [1, 1]]]
    assert results["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert results["f1_micro"] == pytest.approx(6 / 8)
    assert results["roc_auc"] == pytest.approx((0.5 + 3.5 / 4) / 2)
    assert multi_label_report(np.zeros([2, 1]), np.ones([2, 1]), ["x"])["roc_auc"] is None


def test_numbers():
    truth, predicted = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 8])
    results = regression_report(truth, predicted)
    assert results["mean_squared_error"] == 4
    assert results["mean_absolute_error"] == 1
    assert results["pearson"] == pytest.approx(11 / math.sqrt(5 * 29))
    assert results["spearman"] == pytest.approx(1)
    assert len(results["points"]) == 4
    constant = regression_report(truth, np.zeros(4))
    assert constant["pearson"] is None
    assert constant["spearman"] is None
    assert len(regression_report(np.arange(5000.0), np.arange(5000.0))["points"]) == 1000


LINES = [
    *(
        {"step": s, "loss": 1 / s, "accuracy": 0.5, "learning_rate": 1e-5, "real_tokens_per_second": 9.0}
        for s in (1, 2)
    ),
    {"step": 2, "validation_loss": 0.7, "validation_accuracy": 0.4},
]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], LINES[:2] * 60, [{**LINES[0], "accuracy": None}]])
def test_learning_curves_are_drawn(tmp_path, lines):
    draw_learning_curves(lines, tmp_path / "plots")
    assert (tmp_path / "plots" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [2, 3, 30])
def test_confusion_matrices_are_drawn(tmp_path, count):
    truth = np.arange(count * 2) % count
    labels = [f"class number {index} with a long name $x" for index in range(count)]
    draw_report(single_label_report(truth, logits_for(truth, count), labels), tmp_path / "plots")
    assert (tmp_path / "plots" / "confusion_matrix.png").exists()


def test_what_has_no_picture_has_none(tmp_path):
    draw_learning_curves([], tmp_path / "plots")
    draw_report({"loss": 1.0}, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
    draw_report(regression_report(np.arange(3.0), np.arange(3.0)), tmp_path / "plots")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["predictions.png"]
