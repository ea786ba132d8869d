"""What a model gets right on examples it has not seen: the usual measures, by scikit-learn and scipy.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import sklearn.metrics
import tensorflow as tf

from garden.tasks import Examples, QuestionAnswerer, Task, TextClassifier, TokenClassifier
from garden.tasks.question_answerer import answers_of


def report(model: Task, examples: Examples, *, batch_size: int = 32) -> dict[str, Any]:
    """Returns how well a model does on labelled examples: numbers, lists and dictionaries that JSON can hold.

    For text classification see `single_label_report`, `multi_label_report` and `regression_report`, whose keys come after
    `task`, `problem` and `examples`; for others `entity_report` and `answer_report`. For language models: their loss and
    metrics, and perplexity.

    Raises ValueError, naming the first, for labels that are not the model's.
    """
    if isinstance(model, TextClassifier):
        truth = model.label_values(examples.labels)
        logits = predicted_logits(model, examples, batch_size=batch_size)
        given = {"task": model.name_in_configs, "problem": model.problem, "examples": len(examples)}
        if model.problem == "regression":
            return given | regression_report(truth, logits[:, 0])
        by_problem = {"single_label": single_label_report, "multi_label": multi_label_report}
        return given | by_problem[model.problem](truth, logits, model.labels)
    given = {"task": model.name_in_configs, "examples": len(examples)}
    if isinstance(model, TokenClassifier):
        return given | entity_report(model, examples, batch_size=batch_size)
    if isinstance(model, QuestionAnswerer):
        return given | answer_report(model, examples, batch_size=batch_size)
    results = model.evaluate(examples, batch_size=batch_size, verbose=0, return_dict=True)
    results = {name: float(value) for name, value in results.items() if name != "real_tokens_per_second"}
    return {**given, **results}


def predicted_logits(model: Task, examples: Examples, *, batch_size: int = 32) -> np.ndarray:
    """Returns a classifier's logits [N,C] float32.

    Computed on one device, whatever strategy the model was made under, so that no worker waits for another.
    """
    raw = model.raw_dataset(examples, batch_size=batch_size, labelled=False)
    predict = tf.function(model.predict_step, reduce_retracing=True, autograph=False)
    return np.concatenate([predict(batch).numpy() for batch in model.prepared_dataset(raw)])


def single_label_report(truth: np.ndarray, logits: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Measures one class a text.

    Args:
        truth: [N] ids.
        logits: [N,C].
        labels: names of the C classes.

    Returns:
        `accuracy`; `precision`, `recall` and `f1`: of two classes those of the second, `positive_class`, of more their
        means (macro); `f1_macro`; `roc_auc`: of two classes the second's, of more the mean of each against the rest, None
        where a class has no examples; `per_class`; `classes` and `confusion_matrix` [C,C], rows the true classes.
    """
    ids = list(range(len(labels)))
    predicted = logits.argmax(axis=1)
    by_class = _precision_recall_f1(truth, predicted, labels=ids, average=None)
    macro = {name: float(np.mean(values)) for name, values in by_class.items() if name != "support"}
    binary = len(labels) == 2
    main = {name: float(values[1]) for name, values in by_class.items() if name != "support"} if binary else macro
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    roc_auc = None
    if len(np.unique(truth)) == len(labels):
        score = probabilities[:, 1] if binary else probabilities
        roc_auc = float(sklearn.metrics.roc_auc_score(truth, score, multi_class="ovr", average="macro"))
    return {
        "accuracy": float(sklearn.metrics.accuracy_score(truth, predicted)),
        **({"positive_class": labels[1]} if binary else {}),
        **main,
        "f1_macro": macro["f1"],
        "roc_auc": roc_auc,
        "per_class": _named(by_class, labels),
        "classes": list(labels),
        "confusion_matrix": sklearn.metrics.confusion_matrix(truth, predicted, labels=ids).tolist(),
    }


def multi_label_report(truth: np.ndarray, logits: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Measures any number of classes a text; a class is given where its probability is one half or more.

    Args:
        truth: [N,C] of 0 and 1 (soft labels count as 1 from one half on).
        logits: [N,C].
        labels: names of the C classes.

    Returns:
        `accuracy`: share of right decisions; `exact_match`: share of texts with all of theirs right; `precision`,
        `recall`, `f1`: macro; `f1_micro`; `roc_auc`: mean over the classes that have both texts with and without them,
        None where there is none; `per_class`; `classes`; `confusion_matrices` [C,2,2], of each class, rows the truth
        (without, with).
    """
    truth, predicted = (truth >= 0.5).astype(int), (logits >= 0).astype(int)
    by_class = _precision_recall_f1(truth, predicted, average=None)
    varied = [index for index in range(len(labels)) if 0 < truth[:, index].sum() < len(truth)]
    areas = [sklearn.metrics.roc_auc_score(truth[:, index], logits[:, index]) for index in varied]
    return {
        "accuracy": float((truth == predicted).mean()),
        "exact_match": float((truth == predicted).all(axis=1).mean()),
        **{name: float(np.mean(values)) for name, values in by_class.items() if name != "support"},
        "f1_micro": float(sklearn.metrics.f1_score(truth, predicted, average="micro", zero_division=0)),
        "roc_auc": float(np.mean(areas)) if areas else None,
        "per_class": _named(by_class, labels),
        "classes": list(labels),
        "confusion_matrices": sklearn.metrics.multilabel_confusion_matrix(truth, predicted).tolist(),
    }


def regression_report(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Measures numbers [N] against numbers [N]: mean squared and absolute error, and Pearson's and Spearman's correlation.

    The correlations are None where either side is all one number. `points`: up to 1,000 pairs (true, predicted), evenly
    chosen, for a picture.
    """
    truth, predicted = np.asarray(truth, np.float64).reshape(-1), np.asarray(predicted, np.float64)
    varied = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(predicted) > 0
    shown = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), 1000)).astype(int))
    return {
        "mean_squared_error": float(sklearn.metrics.mean_squared_error(truth, predicted)),
        "mean_absolute_error": float(sklearn.metrics.mean_absolute_error(truth, predicted)),
        "pearson": float(scipy.stats.pearsonr(truth, predicted).statistic) if varied else None,
        "spearman": float(scipy.stats.spearmanr(truth, predicted).statistic) if varied else None,
        "points": np.stack([truth, predicted], axis=1)[shown].tolist(),
    }


def entity_report(model: TokenClassifier, examples: Examples, *, batch_size: int = 32) -> dict[str, Any]:
    """Measures entities, each right when its words and its name are, as conlleval and seqeval do; and single words.

    Returns:
        `accuracy`: share of words with the right class; `precision`, `recall`, `f1`: of all entities (micro); `f1_macro`: mean
        over the names; `per_class`: of each name. Where classes make no entities, each word is one.
    """
    names = model.scheme.types
    right, found, true = (np.zeros(len(names), int) for _ in range(3))
    words = right_words = 0
    for text, truth, predicted in model.judged(examples, batch_size=batch_size):
        words, right_words = words + len(truth), right_words + int((truth == predicted).sum())
        both = [_entities(model, classes, text) for classes in (truth, predicted)]
        for counts, entities in ((true, both[0]), (found, both[1]), (right, both[0] & both[1])):
            for *_, name in entities:
                counts[names.index(name)] += 1
    per_class = {
        name: {**_rates(right[index], found[index], true[index]), "support": int(true[index])}
        for index, name in enumerate(names)
    }
    return {
        "accuracy": right_words / max(words, 1),
        **_rates(right.sum(), found.sum(), true.sum()),
        "f1_macro": float(np.mean([rates["f1"] for rates in per_class.values()])),
        "words": words,
        "per_class": per_class,
    }


def _entities(model: TokenClassifier, classes: np.ndarray, text: np.ndarray) -> set[tuple[int, int, str]]:
    """Returns entities as first word, last word and name."""
    words, entity, names = (values.numpy() for values in model.scheme.group(tf.constant(classes), tf.constant(text)))
    firsts, lasts = np.searchsorted(entity, range(len(names))), np.searchsorted(entity, range(len(names)), side="right")
    return {
        (int(words[first]), int(words[last - 1]), name.decode())
        for first, last, name in zip(firsts, lasts, names, strict=True)
    }


def _rates(right: int, found: int, true: int) -> dict[str, float]:
    precision, recall = float(right / max(found, 1)), float(right / max(true, 1))
    return {"precision": precision, "recall": recall, "f1": float(2 * right / max(found + true, 1))}


def answer_report(model: QuestionAnswerer, examples: Examples, *, batch_size: int = 32) -> dict[str, Any]:
    """Measures answers as SQuAD's evaluation does: `exact_match`, and `f1` of their words, with
    the best of the right answers.

    Case, punctuation, English articles and white space do not count. A question without an answer is right when "" is
    given. `answered` and `answerless` have both measures of the questions with and without an answer, where there are both.
    """
    truths = [
        [text for text, _ in answers_of(label, context, f"answer to question {index}")]
        for index, (context, label) in enumerate(zip(examples.pairs, examples.labels, strict=True))
    ]
    given = model.predict_text(list(zip(examples.texts, examples.pairs, strict=True)), batch_size=batch_size)
    scores = np.array(
        [
            np.max([_overlap(answer["answer"], truth) for truth in right or [""]], axis=0)
            for answer, right in zip(given, truths, strict=True)
        ]
    )
    has_answer = np.array([bool(right) for right in truths])
    parts = {"answered": has_answer, "answerless": ~has_answer} if 0 < has_answer.sum() < len(truths) else {}
    means = lambda chosen: dict(zip(("exact_match", "f1"), scores[chosen].mean(axis=0).tolist(), strict=True))
    return {**means(slice(None)), **{name: means(chosen) for name, chosen in parts.items()}}


def _overlap(given: str, right: str) -> tuple[float, float]:
    """Returns whether two answers are the same, and F1 of their words."""
    given_words, right_words = _plain_words(given), _plain_words(right)
    if not given_words or not right_words:
        return (float(given_words == right_words),) * 2
    common = sum((Counter(given_words) & Counter(right_words)).values())
    return float(given_words == right_words), 2 * common / (len(given_words) + len(right_words))


def _plain_words(text: str) -> list[str]:
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def as_text(results: dict[str, Any]) -> str:
    """Returns a report for people to read: a measure a line, then the confusion matrix where there is one."""
    lines = [f"{name}: {results[name]}" for name in ("examples", "rows") if name in results]
    for name, value in results.items():
        if value is None or isinstance(value, float):
            lines.append(f"{name.replace('_', ' ')}: {'undefined' if value is None else format(value, '.4f')}")
    if "confusion_matrix" in results:
        classes, counts = results["classes"], results["confusion_matrix"]
        first = max(len(label) for label in classes)
        widths = [max(len(label), 6) for label in classes]
        lines.append("confusion matrix (rows: true, columns: predicted):")
        lines.append(
            " ".join([" " * first, *(f"{label:>{width}}" for label, width in zip(classes, widths, strict=True))])
        )
        for label, row in zip(classes, counts, strict=True):
            cells = [f"{count:>{width}}" for count, width in zip(row, widths, strict=True)]
            lines.append(" ".join([f"{label:<{first}}", *cells]))
    return "\n".join(lines)


def _precision_recall_f1(truth, predicted, **options) -> dict[str, np.ndarray]:
    names = ("precision", "recall", "f1", "support")
    values = sklearn.metrics.precision_recall_fscore_support(truth, predicted, zero_division=0, **options)
    return dict(zip(names, values, strict=True))


def _named(by_class: dict[str, np.ndarray], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        label: {name: values[index].item() for name, values in by_class.items()} for index, label in enumerate(labels)
    }
