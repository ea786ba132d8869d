"""Question answering: the span of a context that answers a question (Rajpurkar et al., 2016).

Shapes: E questions, W windows of contexts, (L) ragged numbers of tokens, N tokens of all contexts, R rows, T row length,
Q texts in a row, M = R x Q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from garden.tasks.batching import collect, spread
from garden.tasks.examples import Examples
from garden.tasks.inputs import is_prepared
from garden.tasks.task import Task
from garden.tasks.windows import Characters, Windows, windows

NEVER = -1e9
"""A logit that has no share in a softmax of float32."""


class QuestionAnswerer(Task):
    """A backbone with a head that says where an answer starts and where it ends.

        model = QuestionAnswerer.from_pretrained(directory)
        model.fit((questions, contexts), [{"text": "Ada Lovelace", "start": 17}, ...])
        model.predict_text([("Who wrote it?", "It was written by Ada Lovelace.")])
        # [{"answer": "Ada Lovelace", "score": 0.97, "start": 18, "end": 30}]

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,T,2], of the start and the end; the softmax is over a text.

    An answer is `{"text", "start"}`, where `start` counts characters of the context, or SQuAD's
    `{"text": [...], "answer_start": [...]}`, of which the first is learned and any is right in reports. An empty text, or
    list, says that the context has no answer: the model then learns to point at the first token, and answers "" where that
    is likelier than any span.

    A context that does not fit `sequence_length` is read in windows, each behind the whole question; the likeliest answer of
    all windows is given. While training, a window that has not all of the answer is one without an answer. A question that
    would take more than half of a window is cut off.

    Args:
        stride: tokens that the windows of a context share.
        answer_length: tokens of an answer at most.
        answerless: whether a question may have no answer; `fit` sets it when there is one in lists or files, and
            `save_pretrained` keeps it.
        others: see `Task`. `row_length` is the rows' length while training.
    """

    name_in_configs = "question-answering"
    pair_field = "pair"
    kept_options = (*Task.kept_options, "stride", "answer_length", "answerless")

    def __init__(
        self,
        backbone,
        tokenizer,
        head,
        *,
        stride: int = 128,
        answer_length: int = 30,
        answerless: bool = False,
        row_length: int = 384,
        pairs: bool = True,
        **kwargs,
    ):
        super().__init__(backbone, tokenizer, head, row_length=row_length, pairs=True, **kwargs)
        if stride < 0 or answer_length < 1:
            raise ValueError(f"expected a stride from 0 and an answer_length from 1, got {stride} and {answer_length}")
        self.stride, self.answer_length, self.answerless = stride, answer_length, answerless

    @classmethod
    def build_on(cls, backbone, tokenizer, **options):
        head_class = backbone.family.heads[cls.name_in_configs]
        return cls(backbone, tokenizer, head_class(backbone, 2, dtype=backbone.dtype_policy, name="head"), **options)

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        return self.head(self.backbone(inputs, training=training), training=training)

    def default_loss(self) -> keras.losses.Loss:
        return SpanCrossentropy()

    def default_metrics(self) -> list:
        return [
            keras.metrics.MeanMetricWrapper(function, name=name)
            for name, function in (
                ("start_accuracy", start_accuracy),
                ("end_accuracy", end_accuracy),
                ("exact_match", exact_match),
            )
        ]

    def example_targets(self):
        return tf.zeros([1, 2], tf.int32), tf.zeros([1, 2, 1])

    def weighted_losses(self, x, y, y_pred, sample_weight):
        return super().weighted_losses(x, y, self._by_text(x, y_pred), sample_weight)

    def metric_inputs(self, x, y, y_pred, sample_weight):
        return super().metric_inputs(x, y, self._by_text(x, y_pred), sample_weight)

    def _by_text(self, x: Mapping[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """Returns the logits [R,T,2] of each text of a row, [R,Q,2,T], `NEVER` at the places of others."""
        logits = tf.linalg.matrix_transpose(tf.cast(logits, tf.float32))[:, None]
        segment_ids = x.get("segment_ids")
        if segment_ids is None:
            return logits
        most = tf.shape(x["text_index"])[1] if "text_index" in x else 1
        own = tf.range(1, most + 1)[:, None] == tf.cast(segment_ids, tf.int32)[:, None]
        return tf.where(own[:, :, None], logits, NEVER)

    def flat(self, y, y_pred, sample_weight):
        """Returns places of start and end [M,2], logits [M,2,T] and weights [M] of all rows' texts in one line."""
        places = tf.reshape(tf.cast(y, tf.int32), [-1, 2])
        logits = tf.reshape(y_pred, tf.concat([[-1], tf.shape(y_pred)[-2:]], axis=0))
        count = tf.shape(places)[0]
        weights = tf.ones([count]) if sample_weight is None else tf.cast(tf.reshape(sample_weight, [-1]), tf.float32)
        return places, tf.ensure_shape(logits, [None, 2, None]), weights

    # Inputs. A label is where the answer starts and ends in its context, [2] characters; 0 and 0 where there is none.

    def examples(self, x, y=None, *, labelled: bool = True) -> Examples:
        """As `Task`'s; ValueError for questions without contexts."""
        examples = super().examples(x, y, labelled=labelled)
        if examples.pairs is None and len(examples):
            raise ValueError("texts: expected pairs, a question and its context each; give (questions, contexts)")
        return examples

    def columns(self, examples: Examples, *, labelled: bool = True) -> dict[str, Any]:
        columns = {"text": examples.texts, "pair": examples.pairs}
        if not labelled:
            return columns
        if examples.labels is None:
            raise ValueError("labels: none given; fit and evaluate need an answer to each question")
        spans = np.zeros([len(examples), 2], np.int32)
        for index, (context, label) in enumerate(zip(examples.pairs, examples.labels, strict=True)):
            answers = answers_of(label, context, f"answer to question {index}")
            if answers:
                text, start = answers[0]
                spans[index] = start, start + len(text)
        return {**columns, "label": spans}

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `Task`'s; labels are answers."""
        if x is not None and not isinstance(x, (tf.data.Dataset, dict)):
            x, y = self.examples(x, y), None
            self.answerless |= any(not answers_of(label) for label in x.labels or ())
        return super().fit(x, y, *args, **kwargs)

    def label_values(self, labels):
        raise ValueError("labels: answers need their contexts; give both to fit")

    def labelled(self, batch, class_weight):
        if class_weight:
            raise ValueError("class_weight: answers have no classes; give sample_weight")
        if "label" not in batch or "pair" not in batch:
            raise ValueError("dataset: expected ((questions, contexts), answers)")
        if not batch["label"].shape.is_compatible_with([None, 2]):
            raise ValueError(
                "dataset: expected answers of shape [batch, 2], the characters at which they start and end, got "
                f"{batch['label'].shape}"
            )
        return {**batch, "label": tf.cast(batch["label"], tf.int32)}

    def inputs(self, batch, *, training, seed):
        cut = self._windows(batch["text"], batch["pair"])
        x = self.rows(cut.token_ids, cut.type_ids, training=training)
        if "label" not in batch:
            return (x,)
        places = spread(self._places(batch["label"], cut), x["text_index"])
        # A place counts from the beginning of its text; one that is not there stays at 0.
        places += tf.where(x["text_index"] < 0, 0, x["text_positions"])[:, :, None]
        weight = tf.cast(batch["weight"], tf.float32) if "weight" in batch else tf.ones(tf.shape(batch["text"]))
        return x, places, spread(tf.gather(weight, cut.text), x["text_index"])

    def _windows(self, questions: tf.Tensor, contexts: tf.Tensor) -> Windows:
        return windows(self.tokenizer, questions, contexts, length=self.sequence_length, overlap=self.stride)

    def _places(self, spans: tf.Tensor, cut: Windows) -> tf.Tensor:
        """Returns the places of each window [W,2] at which its answer [E,2] starts and ends; 0 for both if it has it not."""
        row = tf.cast(cut.starts.value_rowids(), tf.int32)
        span = tf.gather(spans, row)
        # Tokens that have some of the answer; those of no character have nothing of it.
        inside = (cut.ends.values > span[:, 0]) & (cut.starts.values < span[:, 1])
        tokens = tf.cast(tf.where(inside)[:, 0], tf.int32)
        rows = tf.gather(row, tokens)
        count = tf.shape(spans)[0]
        first = tf.gather(tf.math.unsorted_segment_min(tokens, rows, count), cut.text)
        last = tf.gather(tf.math.unsorted_segment_max(tokens, rows, count), cut.text)
        window = cut.token.value_rowids()
        place = tf.cast(tf.range(tf.size(window)), tf.int32) - tf.cast(
            tf.gather(cut.token.row_starts(), window), tf.int32
        )

        def of(token: tf.Tensor) -> tf.Tensor:
            here = tf.where(cut.token.values == tf.gather(token, window), place, -1)
            return tf.math.unsorted_segment_max(here, window, tf.size(cut.text))

        start, end = of(first), of(last)
        return tf.where(((start >= 0) & (end >= start))[:, None], tf.stack([start, end], axis=1), 0)

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Answers questions [E] about contexts (`pairs`) [E] in the graph.

        `answer` [E] string; `score` [E] float32, the product of the probabilities of its start and its end, among a window's
        tokens of the context and its first token; `start`, `end` [E] int32, characters of the context, the end not included.
        Without an answer "", the score of that, 0 and 0.
        """
        cut = self._windows(texts, pairs)
        x = self.rows(cut.token_ids, cut.type_ids)
        logits = collect(tf.cast(self(x), tf.float32), x, cut.token_ids)
        # One place more than tokens: there may be none at all.
        token = tf.pad(cut.token.to_tensor(default_value=-1), [[0, 0], [0, 1]], constant_values=-1)  # [W,L]
        logits = cut.token.with_values(tf.ensure_shape(logits, [None, 2])).to_tensor()
        logits = tf.pad(logits, [[0, 0], [0, 1], [0, 0]])  # [W,L,2]
        in_context = token >= 0
        first = tf.range(tf.shape(token)[1]) == 0
        chances = tf.nn.softmax(tf.where((in_context | first)[:, :, None], logits, NEVER), axis=1)
        spans = tf.where(in_context[:, :, None] & ~first[None, :, None], chances, 0.0)

        # [W,L,answer_length]: the chance of a span that starts at a place and is so much longer than one token.
        longer = tf.range(self.answer_length)
        ends = tf.pad(spans[:, :, 1], [[0, 0], [0, self.answer_length]])
        ends = tf.gather(ends, tf.range(tf.shape(token)[1])[:, None] + longer, axis=1)
        scores = tf.reshape(spans[:, :, :1] * ends, [tf.shape(token)[0], -1])
        best = tf.argmax(scores, axis=1, output_type=tf.int32)
        score = tf.reduce_max(scores, axis=1)

        count = tf.size(texts)
        best_score = tf.math.unsorted_segment_max(score, cut.text, count)
        candidates = tf.where(score >= tf.gather(best_score, cut.text), tf.range(tf.size(score)), tf.size(score))
        window = tf.math.unsorted_segment_min(candidates, cut.text, count)
        place = tf.gather(best, window)
        at = lambda places: tf.gather_nd(token, tf.stack([window, places], axis=1))
        start_token = at(place // self.answer_length)
        end_token = at(place // self.answer_length + place % self.answer_length)
        none = tf.math.unsorted_segment_min(chances[:, 0, 0] * chances[:, 0, 1], cut.text, count)
        empty = best_score <= 0
        if self.answerless:
            empty |= none >= best_score
        start = self._characters(cut.starts, start_token, empty)
        end = self._characters(cut.ends, end_token, empty)
        start = tf.where(empty, 0, tf.minimum(Characters(pairs).visible(start, tf.range(count)), end))
        contexts = tf.strings.unicode_transcode(pairs, "UTF-8", "UTF-8")
        return {
            "answer": tf.strings.substr(contexts, start, end - start, unit="UTF8_CHAR"),
            "score": tf.where(empty, none if self.answerless else 0.0, best_score),
            "start": start,
            "end": end,
        }

    def _characters(self, of_tokens: tf.RaggedTensor, token: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
        # There may be no token at all.
        values = tf.pad(of_tokens.values, [[0, 1]])
        return tf.where(empty, 0, tf.gather(values, tf.where(empty, 0, token)))

    def predict(self, x, batch_size: int | None = None, **kwargs):
        """Returns the logits [B,T,2] of rows of ids (dictionaries with `token_ids`), as Keras's `predict`.

        Raises ValueError for texts: their windows differ in number and length, and `predict_text` answers them.
        """
        if not (isinstance(x, dict) or (isinstance(x, tf.data.Dataset) and is_prepared(x))):
            raise ValueError("predict: contexts are read in windows of many lengths; use predict_text for answers")
        return super().predict(x, batch_size=batch_size, **kwargs)

    def predict_text(self, texts, batch_size: int = 16) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns `{"answer", "score", "start", "end"}` for each (question, context); for one such pair, its answer.

        The places are characters of the context, so that `context[start:end]` is the answer; it is "" where there is none.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts: expected pairs, a question and its context each, got {texts!r:.60}")
        one = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(side, str) for side in texts)
        examples = self.examples([texts] if one else texts, labelled=False)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            given = self._compiled_answer(tf.constant(part.texts), tf.constant(part.pairs))
            given = {name: value.numpy() for name, value in given.items()}
            answers += [
                {
                    "answer": given["answer"][index].decode(),
                    "score": float(given["score"][index]),
                    "start": int(given["start"][index]),
                    "end": int(given["end"][index]),
                }
                for index in range(len(part))
            ]
        return answers[0] if one else answers


@keras.saving.register_keras_serializable("garden")
class SpanCrossentropy(keras.losses.Loss):
    """The mean of two cross-entropies, of where an answer starts and of where it ends: places [M,2], logits [M,2,T]."""

    def call(self, y_true, y_pred):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y_true, tf.int32), y_pred)
        return tf.reduce_mean(losses, axis=-1)


def start_accuracy(y_true, y_pred):
    """Whether the likeliest start is right: places [M,2], logits [M,2,T] -> [M]."""
    return _right(y_true, y_pred)[:, 0]


def end_accuracy(y_true, y_pred):
    """Whether the likeliest end is right: places [M,2], logits [M,2,T] -> [M]."""
    return _right(y_true, y_pred)[:, 1]


def exact_match(y_true, y_pred):
    """Whether both are right: places [M,2], logits [M,2,T] -> [M]."""
    return tf.reduce_prod(_right(y_true, y_pred), axis=1)


def _right(places: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == tf.cast(places, tf.int32), tf.float32)


def answers_of(label: Any, context: str | None = None, where: str = "answer") -> list[tuple[str, int]]:
    """Returns the texts and first characters of a question's right answers; none for a question without.

    Raises ValueError for anything but `{"text", "start"}` or SQuAD's lists, and for a text that the context has not there.
    """
    if label is None or (isinstance(label, Sequence) and not isinstance(label, (str, bytes)) and not len(label)):
        return []
    if isinstance(label, Sequence) and not isinstance(label, (str, bytes)):
        return [answer for each in label for answer in answers_of(each, context, where)]
    if not isinstance(label, Mapping) or "text" not in label or not {"start", "answer_start"} & set(label):
        raise ValueError(f'{where}: expected {{"text", "start"}}, got {label!r:.80}')
    texts, starts = label["text"], label.get("start", label.get("answer_start"))
    if isinstance(texts, str):
        texts, starts = [texts], [starts]
    answers = [(text, start) for text, start in zip(texts, starts, strict=True) if text]
    for text, start in answers:
        if not isinstance(start, (int, np.integer)) or isinstance(start, bool):
            raise ValueError(f"{where}: expected the character at which it starts, got {start!r}")
        there = text if context is None else context[start : start + len(text)]
        if start < 0 or there != text:
            raise ValueError(
                f"{where}: {text!r:.60} does not start at character {start} of its context, but {there!r:.60}"
            )
    return [(text, int(start)) for text, start in answers]
