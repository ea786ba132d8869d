"""Causal language modelling: each token from those before it (Radford et al., 2018).

Shapes: E texts of a batch, (L) their ragged lengths, C pieces of texts, R rows, T row length, M predicted tokens, D model
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from garden.tasks.batching import pack, pad, tokens_of
from garden.tasks.examples import as_examples
from garden.tasks.language_model import LanguageModel

LOGITS = 2**26
"""Logits that an answer computes at a time, 256 MB in float32: those of all tokens of a batch would not fit in memory."""


class CausalLM(LanguageModel):
    """A decoder with a language-model head.

        model = CausalLM.from_pretrained(directory)
        model.fit(texts)
        model.fit(prompts, completions)            # or pairs of texts: only the completions count in the loss
        model.predict_text("Paris is in France.")  # {"log_likelihood": -9.1, "perplexity": 4.6, "tokens": 6}

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,T,V]: those of the token after each place.

    What it learns: texts are tokenised as the tokenizer's template says, with a token before the first where the template has
    one; without, as in GPT-2, a text's first token is given and never predicted. Behind each text stands the tokenizer's end
    token (`eos`, else `sep`, else the config's `eos_token_id`), which is predicted too. A prompt and its completion are
    tokenised as one text, with nothing between: a token that holds a character of the completion counts. A text longer than
    `sequence_length` is not cut off: it becomes several, each of which begins with the last token of the one before, so
    that every token is predicted once. Attention, positions and targets stay inside one text of a packed row.

    Args:
        end_texts: whether texts get an end token in `fit` and `evaluate`; `predict_text` and `answer` add none.
        others: see `Task`. `row_length` is the rows' length while training.
    """

    name_in_configs = "causal-lm"
    label_field = None

    def __init__(self, backbone, tokenizer, head, *, end_texts: bool = True, row_length: int = 128, **kwargs):
        super().__init__(backbone, tokenizer, head, row_length=row_length, **kwargs)
        self.end_texts = end_texts

    @property
    def end_id(self) -> int | None:
        """Id of the token that ends a text; None where neither tokenizer nor config name one."""
        named = self.backbone.config.eos_token_id if hasattr(self.backbone.config, "eos_token_id") else None
        known = (self.tokenizer.eos_id, self.tokenizer.sep_id, named[0] if isinstance(named, list) else named)
        return next((token for token in known if token is not None), None)

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        return self.head(self.backbone(inputs, training=training), training=training)

    def weighted_losses(self, x, y, y_pred, sample_weight):
        return super().weighted_losses(x, *_given_or_made(x, y, y_pred, sample_weight))

    def metric_inputs(self, x, y, y_pred, sample_weight):
        return super().metric_inputs(x, *_given_or_made(x, y, y_pred, sample_weight))

    # Inputs.

    def label_values(self, labels):
        for index, label in enumerate(labels or []):
            if not isinstance(label, (str, bytes)):
                raise ValueError(
                    f"labels: a causal LM learns texts; give texts only, or completions; got {label!r} for text {index}"
                )
        return labels

    def labelled(self, batch, class_weight):
        if "weight" in batch or class_weight:
            raise ValueError("weights: causal language modelling has none; give texts only")
        if "label" not in batch:
            return batch
        if batch["label"].dtype != tf.string or "pair" in batch:
            raise ValueError("dataset: a causal LM learns texts; give batches of texts, or of (prompts, completions)")
        return {"text": batch["text"], "pair": batch["label"]}

    def inputs(self, batch, *, training, seed):
        pieces, counted, _ = self._pieces(batch["text"], batch.get("pair"), ended=self.end_texts)
        x, counted = self._rows(pieces, counted, training=training)
        targets, weights = next_tokens(x, counted)
        return tokens_of(x), targets, weights

    def _pieces(self, texts, pairs, *, ended: bool) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor]:
        """Returns token ids [C,(L)], whether each counts when it is predicted, and the text that each piece is of [C]."""
        whole = texts if pairs is None else tf.strings.join([texts, pairs])
        encoded = self.tokenizer.encode(whole)
        ids = encoded.token_ids
        counted = tf.ones_like(ids)
        if pairs is not None:
            # As the tokenizer reads them: what is no UTF-8 is one character.
            prompts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
            begins = tf.strings.length(prompts, unit="UTF8_CHAR")
            begins = tf.gather(begins, ids.value_rowids())
            in_completion = (encoded.ends.values > begins) | encoded.special.values
            counted = ids.with_values(tf.cast(in_completion, tf.int32))
        if ended and self.end_id is not None:
            last = tf.gather(
                tf.concat([[-1], ids.values], axis=0), tf.where(ids.row_lengths() > 0, ids.row_limits(), 0)
            )
            missing = tf.cast(last != self.end_id, tf.int64)
            end = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(missing)], self.end_id), missing)
            ids = tf.concat([ids, tf.cast(end, ids.dtype)], axis=1)
            counted = tf.concat([counted, tf.ones_like(tf.cast(end, counted.dtype))], axis=1)
        if self.sequence_length is None:
            return ids, counted, tf.range(ids.nrows(out_type=tf.int32))
        return cut(ids, counted, self.sequence_length)

    def _rows(self, pieces, counted, *, training: bool) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the pieces as rows (see `batching.pack`), and `counted` [R,T] beside them."""
        layout = {"pad_id": self.tokenizer.pad_id or 0, "multiple": 16 if training else 1}
        # What counts travels with its token, as a sentence's type would.
        if self.batching == "padded":
            x = pad(pieces, counted, **layout)
        else:
            row_length = min(self.row_length, self.sequence_length or self.row_length) if training else 1
            x = pack(pieces, counted, row_length=row_length, **layout)
        return x, x.pop("type_ids")

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Scores texts [E], or completions (`pairs`) after prompts, in the graph.

        `log_likelihood` [E] float32: the sum over all predicted tokens, natural logarithm; `perplexity` [E] float32;
        `tokens` [E] int32: how many were predicted. A text of which nothing is predicted has 0, 1 and 0.
        """
        pieces, counted, text_of_piece = self._pieces(texts, pairs, ended=False)
        x, counted = self._rows(pieces, counted, training=False)
        targets, weights = next_tokens(x, counted)
        sequence = self.backbone(tokens_of(x))["sequence"]
        places = tf.where(weights > 0)
        log_chances = self._log_chances(tf.gather_nd(sequence, places), tf.gather_nd(targets, places))
        piece = tf.gather(tf.pad(x["text_index"], [[0, 0], [1, 0]]), x["segment_ids"], batch_dims=1)
        text = tf.gather(text_of_piece, tf.gather_nd(piece, places))
        count = tf.math.unsorted_segment_sum(tf.ones_like(text), text, tf.size(texts))
        log_likelihood = tf.math.unsorted_segment_sum(log_chances, text, tf.size(texts))
        perplexity = tf.exp(tf.math.divide_no_nan(-log_likelihood, tf.cast(count, tf.float32)))
        return {"log_likelihood": log_likelihood, "perplexity": perplexity, "tokens": count}

    def _log_chances(self, x_MD: tf.Tensor, targets_M: tf.Tensor) -> tf.Tensor:
        """Returns each target's log-probability [M] float32, `LOGITS` logits at a time."""
        count = tf.shape(x_MD)[0]
        size = tf.maximum(tf.minimum(count, max(LOGITS // self.backbone.config.vocab_size, 1)), 1)
        # At least one: in a graph there is no telling what shape none have.
        parts = tf.maximum((count + size - 1) // size, 1)
        missing = parts * size - count

        def part(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            x, targets = pair
            logits = tf.cast(self.head({"sequence": x[None]})[0], tf.float32)
            return -tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)

        x = tf.reshape(tf.pad(x_MD, [[0, missing], [0, 0]]), [parts, size, x_MD.shape[-1]])
        targets = tf.reshape(tf.pad(targets_M, [[0, missing]]), [parts, size])
        log_chances = tf.map_fn(part, (x, targets), parallel_iterations=1, fn_output_signature=tf.float32)
        return tf.reshape(log_chances, [-1])[:count]

    def predict_text(self, texts, batch_size: int = 16) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns `{"log_likelihood", "perplexity", "tokens"}` for each text, or each completion of (prompt, completion).

        For one text that is no list, its answer. Texts as in `fit`.
        """
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            given = self._compiled_answer(*(tf.constant(side) for side in (part.texts, part.pairs) if side is not None))
            given = {name: value.numpy() for name, value in given.items()}
            answers += [
                {
                    "log_likelihood": float(given["log_likelihood"][index]),
                    "perplexity": float(given["perplexity"][index]),
                    "tokens": int(given["tokens"][index]),
                }
                for index in range(len(part))
            ]
        return answers[0] if isinstance(texts, str) else answers


def next_tokens(x: Mapping[str, tf.Tensor], counted: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the token after each place [R,T] and float32 weights [R,T]: 0 where it is no token of the same text.

    Args:
        x: `token_ids` and perhaps `segment_ids` [R,T].
        counted: [R,T], 0 for tokens that are not to be predicted.
    """
    token_ids = tf.convert_to_tensor(x["token_ids"])
    segment_ids = x.get("segment_ids")
    segment_ids = tf.ones_like(token_ids) if segment_ids is None else tf.convert_to_tensor(segment_ids)
    same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    if counted is not None:
        same &= counted[:, 1:] > 0
    weights = tf.pad(tf.cast(same, tf.float32), [[0, 0], [0, 1]])
    return tf.pad(token_ids[:, 1:], [[0, 0], [0, 1]]), weights


def _given_or_made(x, y, y_pred, sample_weight) -> tuple:
    # Rows of ids that come without targets have them in themselves.
    if y is not None:
        return y, y_pred, sample_weight
    targets, weights = next_tokens(x)
    return targets, y_pred, weights


def cut(
    ids: tf.RaggedTensor, counted: tf.RaggedTensor, length: int
) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.Tensor]:
    """Returns texts [E,(L)] in pieces [C,(L)] of at most `length` tokens, what counts in them, and each one's text [C].

    A piece begins with the last token of the one before, which is not predicted again.
    """
    lengths = ids.row_lengths()
    step = tf.constant(length - 1, tf.int64)
    counts = tf.maximum((lengths - 1 + step - 1) // step, 1)
    text = tf.repeat(tf.range(tf.size(lengths)), counts)
    number = tf.ragged.range(counts).values
    begins = tf.gather(ids.row_starts(), text) + number * step
    ends = tf.minimum(begins + length, tf.gather(ids.row_limits(), text))
    places = tf.ragged.range(begins, ends)
    return tf.gather(ids.values, places), tf.gather(counted.values, places), text
