"""Token classification: a label for each word, such as the kind of name that it is part of (Tjong Kim Sang, 2003).

Shapes: E texts of a batch, W windows of texts, (L) ragged numbers of tokens, N tokens in all, R rows, T row length, S segments
of a text, C classes, M words in all, K entities of a text at most.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from garden.tasks.batching import collect, lay_out, tokens_of
from garden.tasks.entities import Scheme
from garden.tasks.examples import Examples, as_examples, checked
from garden.tasks.inputs import is_prepared
from garden.tasks.labels import checked_labels, class_of, label_fields, quoted, saved_labels, settled_labels
from garden.tasks.task import Task
from garden.tasks.windows import Characters, Windows, windows
from garden.tasks.word_labels import IGNORED, decoded, segments_of, text_of

OVERLAP = 64
"""Tokens that the windows of a long text share."""


class Words(NamedTuple):
    """The words of a batch of texts, in a line, as a model judges them."""

    text: tf.Tensor  # [M] int32: which text they are of
    token: tf.Tensor  # [M] int32: the first token of each
    starts: tf.Tensor  # [M] int32: characters
    ends: tf.Tensor  # [M] int32
    scores: tf.Tensor  # [M,C] float32: probabilities of the classes


class TokenClassifier(Task):
    """A backbone with a head that classifies every token.

        model = TokenClassifier.from_pretrained(directory, labels=["O", "B-PER", "I-PER"])
        model.fit([["Ada", "Lovelace", "wrote"]], [["B-PER", "I-PER", "O"]])
        model.fit(["Ada Lovelace wrote"], [[{"start": 0, "end": 12, "label": "PER"}]])
        model.predict_text("Ada Lovelace wrote")
        # [{"label": "PER", "score": 0.98, "start": 0, "end": 12, "text": "Ada Lovelace"}]

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,T,C].

    Texts are strings or lists of words, which are joined with spaces. Labels are one a word, names or ids (a string's words
    are what white space separates), or a list of spans in characters, whose labels are those of entities: `PER` is `B-PER` for
    its first word and `I-PER` for the others where classes are called so.

    The first token of a word stands for it: in the loss, in metrics and in answers; other tokens are ignored. In a string
    without given words a word is a run of letters and digits, or one other character. A text that is longer than
    `sequence_length` is read in windows that share `OVERLAP` tokens, and each token counts in the one that shows most of
    what is around it.

    Answers are entities (`entities.Scheme` says how classes of neighbours make one); a score is the mean of its words'.

    Args:
        labels: the classes' names, in the order of their ids.
        others: see `Task`. `row_length` is the rows' length while training.
    """

    name_in_configs = "token-classification"
    takes_words = True

    def __init__(self, backbone, tokenizer, head, *, labels: Sequence[str], row_length: int = 128, **kwargs):
        super().__init__(backbone, tokenizer, head, row_length=row_length, **kwargs)
        self.labels = labels
        self.scheme = Scheme(labels)
        self._names = tf.constant(list(labels))
        keys = tf.lookup.KeyValueTensorInitializer(self._names, tf.range(len(labels)))
        self._ids = tf.lookup.StaticHashTable(keys, default_value=-1)

    @classmethod
    def build_on(cls, backbone, tokenizer, *, labels=None, **options):
        labels = checked_labels(labels)
        head_class = backbone.family.heads[cls.name_in_configs]
        head = head_class(backbone, len(labels), dtype=backbone.dtype_policy, name="head")
        return cls(backbone, tokenizer, head, labels=labels, **options)

    @classmethod
    def options_of(cls, values: Mapping, where: Path, weights, head_class, options: Mapping) -> dict[str, Any]:
        if weights is None:
            if not options.get("labels"):
                raise ValueError(f'{where}: the checkpoint has no classes yet; give labels=["O", "B-...", "I-..."]')
            return dict(options)
        saved = saved_labels(values, weights.shape(head_class.marker)[0])
        return {**options, "labels": settled_labels(options.get("labels"), saved, where)}

    def config_dict(self) -> dict[str, Any]:
        return {**super().config_dict(), **label_fields(self.labels)}

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        return self.head(self.backbone(inputs, training=training), training=training)

    def default_loss(self) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_metrics(self) -> list:
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def example_targets(self):
        return tf.zeros([1], tf.int32), tf.zeros([1, len(self.labels)])

    def flat(self, y, y_pred, sample_weight):
        """Returns labels [M], logits [M,C] and weights [M] of all places; labels below 0 (such as -100) have weight 0."""
        labels = tf.reshape(tf.cast(y, tf.int32), [-1])
        weights = tf.cast(labels >= 0, tf.float32)
        if sample_weight is not None:
            weights *= tf.cast(tf.reshape(tf.broadcast_to(sample_weight, tf.shape(y)), [-1]), tf.float32)
        logits = tf.cast(tf.reshape(y_pred, [-1, y_pred.shape[-1]]), tf.float32)
        return tf.maximum(labels, 0), logits, weights

    # Inputs. A label is a text's segments [S,3], see `word_labels`.

    def examples(self, x, y=None, *, labelled: bool = True) -> Examples:
        """As `Task`'s; texts may be lists of words, and `(text, labels)` tuples may come in one list."""
        if isinstance(x, (str, Path, Examples)):
            return as_examples(x, y, label=self.label_field if labelled else None, words=self.takes_words)
        if isinstance(x, tf.RaggedTensor):
            x = x.to_list()
        y = y.to_list() if isinstance(y, tf.RaggedTensor) else y
        x = list(x)
        if y is None and x and all(isinstance(each, tuple) and len(each) == 2 for each in x):
            x, y = zip(*x, strict=True)
        return Examples(list(x), None, None if y is None else list(y))

    def columns(self, examples: Examples, *, labelled: bool = True) -> dict[str, Any]:
        texts = [text_of(text, index) for index, text in enumerate(examples.texts)]
        if not labelled:
            return {"text": texts}
        if examples.labels is None:
            raise ValueError("labels: none given; fit and evaluate need some for each text")
        segments = [
            segments_of(given, text, labels, self.labels, self.scheme, f"text {index}")
            for index, (given, text, labels) in enumerate(zip(examples.texts, texts, examples.labels, strict=True))
        ]
        flat = np.array([row for rows in segments for row in rows], np.int32).reshape([-1, 3])
        return {"text": texts, "label": tf.RaggedTensor.from_row_lengths(flat, [len(rows) for rows in segments])}

    def label_values(self, labels):
        raise ValueError("labels: those of words need their texts; give both to fit")

    def labelled(self, batch, class_weight):
        if "label" not in batch:
            raise ValueError("dataset: no labels in it; fit and evaluate need (texts, labels)")
        label = batch["label"]
        if label.shape.rank == 2:
            batch = self._labelled_words(batch)
        elif not isinstance(label, tf.RaggedTensor) or label.shape.rank != 3:
            raise ValueError(f"dataset: expected one label a word, [batch, words] or ragged, got {label.shape}")
        if class_weight is None:
            return batch
        by_class = np.ones(len(self.labels), np.float32)
        for name, weight in class_weight.items():
            by_class[class_of(name, self.labels, "class_weight")] = weight
        return {**batch, "class_weight": tf.repeat(by_class[None], tf.shape(batch["text"])[0], axis=0)}

    def _labelled_words(self, batch: dict) -> dict:
        """Returns a user's batch of words, and of one label for each, padded or ragged, with segments as labels."""
        words, label = batch["text"], batch["label"]
        if words.shape.rank == 1:
            words = tf.strings.split(words)
        counts = words.row_lengths()
        if isinstance(label, tf.RaggedTensor):
            right = tf.reduce_all(label.row_lengths() == counts)
        else:
            right = tf.reduce_all(counts <= tf.shape(label, tf.int64)[1])
        first = tf.strings.reduce_join(words[:1].flat_values, separator=" ")
        with tf.control_dependencies([checked(right, "text", first[None], "or another has not one label a word")]):
            words = words.with_flat_values(tf.identity(words.flat_values))
        if not isinstance(label, tf.RaggedTensor):
            label = tf.RaggedTensor.from_tensor(label, lengths=counts)
        given = label.flat_values
        ids = self._ids.lookup(given) if given.dtype == tf.string else tf.cast(given, tf.int32)
        wrong = (ids >= len(self.labels)) | ((ids < 0) & (ids != -100))
        shown = tf.boolean_mask(given if given.dtype == tf.string else tf.strings.as_string(given), wrong)
        classes = f"is not one of the {len(self.labels)} classes ({quoted(self.labels)}) or their ids"
        with tf.control_dependencies([checked(tf.size(shown) == 0, "label", shown[:1], classes)]):
            ids = tf.maximum(tf.identity(ids), IGNORED)
        segments = tf.stack([word_ends(words).flat_values, ids, tf.fill(tf.shape(ids), IGNORED)], axis=1)
        text = tf.strings.reduce_join(words, axis=1, separator=" ")
        return {**batch, "text": text, "label": words.with_flat_values(segments)}

    def inputs(self, batch, *, training, seed):
        text = batch["text"]
        if text.shape.rank == 2:
            text = tf.strings.reduce_join(text, axis=1, separator=" ")
        cut = windows(self.tokenizer, text, None, length=self.sequence_length, overlap=OVERLAP)
        x = self.rows(cut.token_ids, cut.type_ids, training=training)
        if "label" not in batch:
            return (tokens_of(x),)
        classes = self._classes(text, batch["label"], cut)
        token = cut.token.with_values(tf.where(cut.owned.values, cut.token.values, -1))
        y = lay_out(token.with_values(tf.gather(tf.pad(classes + 1, [[1, 0]]), token.values + 1)), x) - 1
        weights = tf.cast(y >= 0, tf.float32)
        if "weight" in batch:
            of_token = tf.gather(tf.cast(batch["weight"], tf.float32), tf.gather(cut.text, token.value_rowids()))
            weights *= lay_out(token.with_values(of_token), x)
        if "class_weight" in batch:
            # Each text has the same ones, and an empty batch none.
            by_class = tf.concat([batch["class_weight"], tf.ones([1, len(self.labels)])], axis=0)[0]
            weights *= tf.gather(by_class, tf.maximum(y, 0))
        return tokens_of(x), y, weights

    def _classes(self, text: tf.Tensor, segments: tf.RaggedTensor, cut: Windows) -> tf.Tensor:
        """Returns each token's class [N], `IGNORED` for those that do not count."""
        row, ends = cut.starts.value_rowids(), segments[:, :, 0]
        first = _which(ends, row, cut.starts.values)
        classes = segments.flat_values
        count = tf.shape(classes)[0]
        classes = tf.pad(classes, [[0, 1], [0, 0]], constant_values=IGNORED)
        inside = tf.cast(tf.gather(segments.row_limits(), row), tf.int32)
        # A span may begin inside of a token, which is part of it then.
        last = _which(ends, row, cut.ends.values - 1)
        is_outside = classes[:, 1] == classes[:, 2]
        first = tf.where(tf.gather(is_outside, first) & (last > first) & (first + 1 < inside), first + 1, first)
        first = tf.where(first < inside, first, count)
        begins = tf.concat([[True], (first[1:] != first[:-1]) | (row[1:] != row[:-1])], axis=0)[: tf.size(first)]
        begin_words = Characters(text).begin_words(cut.starts, cut.ends)
        return tf.where(
            begins & ~tf.gather(is_outside, first),
            tf.gather(classes[:, 1], first),
            tf.where(begin_words, tf.gather(classes[:, 2], first), IGNORED),
        )

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Answers texts [E] in the graph; every output is [E, most words] or [E, most entities], padded with "" and 0.

        Of words: `labels` string, `scores` float32, `starts`, `ends` int32: characters, the end not included. Of entities:
        `entity_labels`, `entity_scores`, `entity_starts`, `entity_ends` and `entity_texts` string.
        """
        return self._answer(texts)

    def _answer(self, texts: tf.Tensor, ends: tf.RaggedTensor | None = None) -> dict[str, tf.Tensor]:
        words = self._words(texts, ends)
        classes = tf.argmax(words.scores, axis=-1, output_type=tf.int32)
        scores = tf.reduce_max(words.scores, axis=-1)
        inside, entity, labels = self.scheme.group(classes, words.text)
        count, of = tf.size(labels), lambda values: tf.gather(values, inside)
        starts = tf.math.unsorted_segment_min(of(words.starts), entity, count)
        limits = tf.math.unsorted_segment_max(of(words.ends), entity, count)
        text = tf.math.unsorted_segment_max(of(words.text), entity, count)
        whole = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
        seen = tf.strings.substr(tf.gather(whole, text), starts, limits - starts, unit="UTF8_CHAR")

        def padded(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
            return tf.RaggedTensor.from_value_rowids(values, rows, tf.size(texts), validate=False).to_tensor()

        return {
            "labels": padded(tf.gather(self._names, classes), words.text),
            "scores": padded(scores, words.text),
            "starts": padded(words.starts, words.text),
            "ends": padded(words.ends, words.text),
            "entity_labels": padded(labels, text),
            "entity_scores": padded(tf.math.unsorted_segment_mean(of(scores), entity, count), text),
            "entity_starts": padded(starts, text),
            "entity_ends": padded(limits, text),
            "entity_texts": padded(seen, text),
        }

    def _words(self, texts: tf.Tensor, ends: tf.RaggedTensor | None = None) -> Words:
        """Judges the words of texts: those that end at `ends` [E,(M)], or where characters say so."""
        cut, logits = self._judged_tokens(texts)
        scores = tf.nn.softmax(logits)
        text = tf.cast(cut.starts.value_rowids(), tf.int32)
        characters = Characters(texts)
        if ends is None:
            begins = characters.begin_words(cut.starts, cut.ends)
        else:
            word = _which(ends, text, cut.starts.values)
            begins = tf.concat([[True], (word[1:] != word[:-1]) | (text[1:] != text[:-1])], axis=0)[: tf.size(text)]
        token = tf.cast(tf.where(begins)[:, 0], tf.int32)
        limits = tf.math.unsorted_segment_max(cut.ends.values, tf.cumsum(tf.cast(begins, tf.int32)) - 1, tf.size(token))
        text = tf.gather(text, token)
        starts = characters.visible(tf.gather(cut.starts.values, token), text)
        words = Words(text, token, starts, limits, tf.gather(scores, token))
        # White space may have tokens of its own.
        return Words(*(tf.boolean_mask(values, starts < limits) for values in words))

    def _judged_tokens(self, texts: tf.Tensor) -> tuple[Windows, tf.Tensor]:
        """Returns the windows of texts, and the logits of their tokens [N,C] float32."""
        cut = windows(self.tokenizer, texts, None, length=self.sequence_length, overlap=OVERLAP)
        x = self.rows(cut.token_ids, cut.type_ids)
        logits = collect(tf.cast(self(tokens_of(x)), tf.float32), x, cut.token_ids)
        return cut, tf.boolean_mask(tf.ensure_shape(logits, [None, len(self.labels)]), cut.owned.values)

    def judged(self, examples: Examples, batch_size: int = 32) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields, a batch at a time, text, true class and likeliest class of each labelled word: three times [M]."""

        def judge(texts: tf.Tensor, segments: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            cut, logits = self._judged_tokens(texts)
            truth = self._classes(texts, segments, cut)
            values = (cut.starts.value_rowids(), truth, tf.argmax(logits, axis=-1, output_type=tf.int32))
            return tuple(tf.boolean_mask(each, truth >= 0) for each in values)

        judge = tf.function(judge, reduce_retracing=True, autograph=False)
        for batch in self.raw_dataset(examples, batch_size=batch_size):
            yield tuple(values.numpy() for values in judge(batch["text"], batch["label"]))

    def predict(self, x, batch_size: int | None = None, **kwargs):
        """Returns, for texts, a list with the logits of each one's tokens [L,C], special tokens left out; data as in `fit`.

        For rows of ids (dictionaries with `token_ids`) an array of logits, as Keras's `predict`.
        """
        data = self.raw_dataset(x, batch_size=batch_size or 32, labelled=False)
        if is_prepared(data):
            return super().predict(x, batch_size=batch_size, **kwargs)
        logits = tf.function(self._logits, reduce_retracing=True, autograph=False)
        return [row.numpy() for batch in data for row in logits(batch["text"])]

    def _logits(self, texts: tf.Tensor) -> tf.RaggedTensor:
        if texts.shape.rank == 2:
            texts = tf.strings.reduce_join(texts, axis=1, separator=" ")
        cut, logits = self._judged_tokens(texts)
        return cut.starts.with_values(logits)

    @functools.cached_property
    def _compiled_words(self):
        return tf.function(self._answer, reduce_retracing=True, autograph=False)

    def predict_text(self, texts, batch_size: int = 32) -> list:
        """Returns each text's entities in their order: `{"label", "score", "start", "end", "text"}`, places in characters.

        For one string, its entities. A list of words is a text in a list of texts; its characters count in the words joined
        with spaces.
        """
        examples = self.examples([texts] if isinstance(texts, str) else texts, labelled=False)
        answers = []
        for start in range(0, len(examples), batch_size):
            given = examples.texts[start : start + batch_size]
            strings = tf.constant([text_of(text, start + index) for index, text in enumerate(given)])
            if all(isinstance(text, (str, bytes)) for text in given):
                found = self._compiled_answer(strings)
            else:
                if any(isinstance(text, (str, bytes)) for text in given):
                    raise TypeError("texts: expected all strings, or all lists of words, got both")
                words = tf.ragged.constant(
                    [[decoded(word) for word in text] for text in given], tf.string, ragged_rank=1
                )
                found = self._compiled_words(strings, word_ends(words))
            found = {name.removeprefix("entity_"): found[name].numpy() for name in found if name.startswith("entity_")}
            answers += [_entities(found, row) for row in range(len(given))]
        return answers[0] if isinstance(texts, str) else answers


def word_ends(words: tf.RaggedTensor) -> tf.RaggedTensor:
    """Returns where words [E,(M)] end, in characters of their text, in which single spaces are between them."""
    lengths = words.with_values(
        tf.strings.length(tf.strings.unicode_transcode(words.values, "UTF-8", "UTF-8"), "UTF8_CHAR")
    )
    ends = tf.cumsum(lengths.values + 1) - 1
    before = tf.cumsum(tf.reduce_sum(lengths + 1, axis=1), exclusive=True)
    return lengths.with_values(ends - tf.gather(before, lengths.value_rowids()))


def _which(ends: tf.RaggedTensor, row: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Returns the piece that the character `at` [N] of text `row` [N] is in, counted over all texts: [N] int32.

    Pieces end at `ends` [E,(S)] and begin where the one before ends.
    """
    key = lambda row, at: tf.cast(row, tf.int64) * 2**31 + tf.cast(at, tf.int64)
    return tf.searchsorted(key(ends.value_rowids(), ends.values), key(row, at), side="right")


def _entities(found: Mapping[str, np.ndarray], row: int) -> list[dict[str, Any]]:
    count = int((found["ends"][row] > 0).sum())
    return [
        {
            "label": found["labels"][row, index].decode(),
            "score": float(found["scores"][row, index]),
            "start": int(found["starts"][row, index]),
            "end": int(found["ends"][row, index]),
            "text": found["texts"][row, index].decode(),
        }
        for index in range(count)
    ]
