"""Text classification: one label a text, several, or a number (regression).

Shapes: E texts of a batch, R rows, Q texts in a row, C classes, M = R x Q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from garden.tasks.batching import spread, unpack
from garden.tasks.examples import as_examples, checked
from garden.tasks.labels import checked_labels, class_of, label_fields, quoted, saved_labels, settled_labels
from garden.tasks.task import Task

PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""Kinds of problem, and their names in config.json."""


class TextClassifier(Task):
    """A backbone with a classification head.

        model = TextClassifier.from_pretrained(directory, labels=["negative", "positive"])
        model.fit(texts, ["positive", "negative", ...])
        model.predict_text(["..."])   # [{"label": "positive", "score": 0.98}]

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,C], of one text a row; with `text_positions`, `text_ends` and
    `text_index` [R,Q] (packed rows, see `batching.pack`) logits [R,Q,C].

    Args:
        labels: the classes' names, in the order of their ids. Not for regression.
        problem: "single_label"; "multi_label", where a label is a list of names or ids; "regression", where it is a number.
        label_smoothing: share of the target that is spread over all classes, for "single_label".
        others: see `Task`.
    """

    name_in_configs = "text-classification"

    def __init__(
        self,
        backbone,
        tokenizer,
        head,
        *,
        labels: Sequence[str] | None,
        problem: str = "single_label",
        label_smoothing: float = 0.0,
        **kwargs,
    ):
        super().__init__(backbone, tokenizer, head, **kwargs)
        self.labels, self.problem, self.label_smoothing = labels, problem, label_smoothing
        if labels:
            self._names = tf.constant(list(labels))
            keys = tf.lookup.KeyValueTensorInitializer(self._names, tf.range(len(labels)))
            self._ids = tf.lookup.StaticHashTable(keys, default_value=-1)

    @classmethod
    def build_on(cls, backbone, tokenizer, *, labels=None, problem: str = "single_label", **options):
        if problem not in PROBLEMS:
            raise ValueError(f'problem: expected one of {", ".join(PROBLEMS)}, got "{problem}"')
        if problem == "regression" and labels:
            raise ValueError("labels: a regression has none")
        if problem != "regression":
            labels = checked_labels(labels)
        head_class = backbone.family.heads[cls.name_in_configs]
        head = head_class(backbone, len(labels) if labels else 1, dtype=backbone.dtype_policy, name="head")
        return cls(backbone, tokenizer, head, labels=labels, problem=problem, **options)

    @classmethod
    def options_of(cls, values: Mapping, where: Path, weights, head_class, options: Mapping) -> dict[str, Any]:
        options = dict(options)
        if weights is None:
            if not options.get("labels") and options.get("problem") != "regression":
                raise ValueError(f'{where}: the checkpoint has no classes yet; give labels=["...", "..."]')
            return options
        classes = weights.shape(head_class.marker)[0]
        kinds = {published: ours for ours, published in PROBLEMS.items()}
        problem = kinds.get(values.get("problem_type"), "regression" if classes == 1 else "single_label")
        options["problem"] = options.get("problem", problem)
        if options["problem"] == "regression":
            return options
        saved = saved_labels(values, classes)
        return {**options, "labels": settled_labels(options.get("labels"), saved, where)}

    def config_dict(self) -> dict[str, Any]:
        return {
            **super().config_dict(),
            "problem_type": PROBLEMS[self.problem],
            **label_fields(self.labels or ["LABEL_0"]),
        }

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        outputs = self.backbone(inputs, read_positions=self.read_places(inputs), training=training)
        logits = self.head(outputs, training=training)
        return logits if "text_index" in inputs else logits[:, 0]

    def default_loss(self) -> keras.losses.Loss:
        if self.problem == "regression":
            return keras.losses.MeanSquaredError()
        if self.problem == "multi_label":
            return keras.losses.BinaryCrossentropy(from_logits=True)
        if self.label_smoothing:
            return SmoothedCrossentropy(self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_metrics(self) -> list:
        if self.problem == "regression":
            return [keras.metrics.MeanAbsoluteError(name="mean_absolute_error")]
        if self.problem == "multi_label":
            return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)]
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def example_targets(self):
        classes = len(self.labels) if self.labels else 1
        labels = tf.zeros([1], tf.int32) if self.problem == "single_label" else tf.zeros([1, classes])
        return labels, tf.zeros([1, classes])

    def flat(self, y, y_pred, sample_weight):
        """Returns labels [M] or [M,C], logits [M,C] and weights [M], all rows' texts in one line."""
        logits = tf.cast(y_pred, tf.float32)
        logits = tf.reshape(logits, [-1, logits.shape[-1]])
        count = tf.shape(logits)[0]
        labels = tf.reshape(y, [count] if self.problem == "single_label" else [count, -1])
        weights = tf.ones([count]) if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
        return labels, logits, weights

    # Inputs.

    def label_values(self, labels: list | None) -> np.ndarray:
        if labels is None:
            raise ValueError("labels: none given; fit and evaluate need one for each text")
        if self.problem == "regression":
            return np.asarray([_number(label, index) for index, label in enumerate(labels)], np.float32)
        if self.problem == "multi_label":
            return self._indicators(labels)
        return np.asarray([self._class_of(label, f"label of text {i}") for i, label in enumerate(labels)], np.int32)

    def _indicators(self, labels: list) -> np.ndarray:
        """Returns several labels a text as [E,C] numbers from 0 to 1, whether given so or as lists of names or ids."""
        for index, several in enumerate(labels):
            if isinstance(several, (str, bytes)) or not hasattr(several, "__iter__"):
                raise ValueError(f"label of text {index}: expected a list of names or ids, got {several!r}")
        labels, width = [list(several) for several in labels], len(self.labels)
        values = np.zeros([len(labels), width], np.float32)
        # Read as ids, a table of zeros and ones would give each text the first two classes.
        table = all(len(several) == width and all(value in (0, 1) for value in several) for several in labels)
        for index, several in enumerate(labels):
            if table or (len(several) == width and all(isinstance(value, float) for value in several)):
                values[index] = several
            else:
                values[index, [self._class_of(label, f"label of text {index}") for label in several]] = 1.0
        return values

    def _class_of(self, label: Any, where: str) -> int:
        return class_of(label, self.labels, where)

    def labelled(self, batch, class_weight):
        if "label" not in batch:
            raise ValueError("dataset: no labels in it; fit and evaluate need (texts, labels)")
        label = batch["label"]
        width = len(self.labels) if self.problem == "multi_label" else 1
        shapes = [[None, width]] if width > 1 else [[None], [None, 1]]
        if not any(label.shape.is_compatible_with(shape) for shape in shapes):
            raise ValueError(f"dataset: expected labels of shape [batch, {width}], got {label.shape}")
        if self.problem == "single_label":
            label = tf.reshape(label, [-1])
            ids = self._ids.lookup(label) if label.dtype == tf.string else tf.cast(label, tf.int32)
            wrong = tf.boolean_mask(label, (ids < 0) | (ids >= len(self.labels)))
            shown = wrong if label.dtype == tf.string else tf.strings.as_string(wrong)
            classes = f"is not one of the {len(self.labels)} classes ({quoted(self.labels)}) or their ids"
            with tf.control_dependencies([checked(tf.size(wrong) == 0, "label", shown[:1], classes)]):
                batch = {**batch, "label": tf.identity(ids)}
        elif label.dtype == tf.string:
            raise ValueError(f'dataset: problem "{self.problem}": expected labels as numbers, got strings')
        else:
            batch = {**batch, "label": tf.cast(label, tf.float32)}
        if class_weight is None:
            return batch
        if self.problem != "single_label":
            raise ValueError(f'class_weight: problem "{self.problem}" has no single class a text; give sample_weight')
        by_class = np.ones(len(self.labels), np.float32)
        for name, weight in class_weight.items():
            by_class[self._class_of(name, "class_weight")] = weight
        weight = tf.gather(by_class, batch["label"])
        return {**batch, "weight": weight * tf.cast(batch["weight"], tf.float32) if "weight" in batch else weight}

    def inputs(self, batch, *, training, seed):
        x = self.batched(batch["text"], batch.get("pair"), training=training)
        if "label" not in batch:
            return (x,)
        weight = tf.cast(batch["weight"], tf.float32) if "weight" in batch else tf.ones(tf.shape(batch["text"]))
        return x, spread(batch["label"], x["text_index"]), spread(weight, x["text_index"])

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Answers texts [E] in the graph: `label` [E] string, `score` [E] and `scores` [E,C] float32, `classes` [E,C] string.

        Scores are probabilities; with several labels each class has its own. A regression gives `score` only. Any text has
        an answer: an empty one is judged as such, one that is too long by its beginning, and bytes that are not UTF-8
        are read as U+FFFD.
        """
        x = self.batched(texts, pairs)
        logits = unpack(tf.cast(self(x), tf.float32), x["text_index"], tf.size(texts))
        if self.problem == "regression":
            return {"score": logits[:, 0]}
        scores = tf.sigmoid(logits) if self.problem == "multi_label" else tf.nn.softmax(logits)
        best = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return {
            "label": tf.gather(self._names, best),
            "score": tf.gather(scores, best, batch_dims=1),
            "scores": scores,
            "classes": tf.repeat(self._names[None], tf.size(texts), axis=0),
        }

    def embed(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `embedding` [E,D] float32 in the graph: the mean of each text's last hidden states."""
        x = self.batched(texts)
        sequence = tf.cast(self.backbone(x)["sequence"], tf.float32)
        text = tf.gather(tf.pad(x["text_index"], [[0, 0], [1, 0]], constant_values=-1), x["segment_ids"], batch_dims=1)
        text, rows = tf.reshape(text, [-1]), tf.reshape(sequence, [-1, sequence.shape[-1]])
        return {"embedding": tf.math.unsorted_segment_mean(rows, text, tf.size(texts))}

    def predict_text(self, texts, batch_size: int = 64) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns plain answers: `{"label": "positive", "score": 0.98}` each; for one text that is no list, its answer.

        With several labels, `{"labels": [those at 0.5 and over], "scores": {label: score}}`; for a regression,
        `{"score": number}`. Texts as in `fit`.
        """
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            given = self._compiled_answer(*(tf.constant(side) for side in (part.texts, part.pairs) if side is not None))
            given = {name: value.numpy() for name, value in given.items()}
            answers += [self._plain(given, index) for index in range(len(part))]
        return answers[0] if isinstance(texts, str) else answers

    def _plain(self, given: dict[str, np.ndarray], index: int) -> dict[str, Any]:
        if self.problem == "regression":
            return {"score": float(given["score"][index])}
        if self.problem == "multi_label":
            scores = {name: float(score) for name, score in zip(self.labels, given["scores"][index], strict=True)}
            return {"labels": [name for name, score in scores.items() if score >= 0.5], "scores": scores}
        return {"label": given["label"][index].decode(), "score": float(given["score"][index])}


@keras.saving.register_keras_serializable("garden")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of ids against logits with a share of the target spread over all classes (Szegedy et al., 2016)."""

    def __init__(self, smoothing: float, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share from 0 to below 1, got {smoothing}")
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        log_probabilities = tf.nn.log_softmax(y_pred)
        right = tf.gather(log_probabilities, tf.cast(y_true, tf.int32), batch_dims=1)
        return -(1 - self.smoothing) * right - self.smoothing * tf.reduce_mean(log_probabilities, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}


def _number(label: Any, index: int) -> float:
    try:
        return float(label)
    except (TypeError, ValueError):
        raise ValueError(f"label of text {index}: expected a number, got {label!r}") from None
