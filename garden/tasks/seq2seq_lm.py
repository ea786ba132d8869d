"""Sequence-to-sequence language modelling: a target text, token by token, from a source text (Sutskever et al., 2014).

Shapes: E examples of a batch, R rows, S and T row lengths of sources and targets, M target tokens, L tokens of an answer,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from garden.models.encoder_decoder import EncoderDecoder
from garden.tasks.batching import pack_pairs, pad, pad_pairs, spread, tokens_of
from garden.tasks.examples import Examples, as_examples
from garden.tasks.language_model import LanguageModel
from garden.tokenizers.template import Part, Template


class Seq2SeqLM(LanguageModel):
    """An encoder-decoder with a language-model head.

        model = Seq2SeqLM.from_pretrained(directory)
        model.fit(sources, targets)                   # or a JSONL file with the fields `text` and `target`
        model.predict_text("translate English to German: Hello.")    # {"generated_text": "Hallo.", "score": -0.2}
        model.score_text(sources, targets)            # [{"log_likelihood": -9.1, "perplexity": 4.6, "tokens": 6}]

    Called with `{"token_ids": [B,S], "target_ids": [B,T], ...}` it returns logits [B,T,V]: those of the token after each
    place of the target. `target_ids` is what the decoder reads: the target behind the family's start token.

    What it learns: sources and targets are tokenised as the tokenizer's template says, and an end token stands behind a
    target whose template puts none there. The decoder reads the target moved one place to the right, behind its start
    token (`backbone.shifted`), and each of the target's tokens counts once in the loss, its end token too.

    Any `garden.models.encoder_decoder.EncoderDecoder` will do as a backbone: called with source and target it returns
    `sequence`; `shifted` says what the decoder reads; answers need its `encode`, `decode` and `empty_cache`.

    Args:
        target_length: tokens of a target at most, special tokens included. Default: as `sequence_length`.
        answer_length: tokens that an answer of `predict_text` and `answer` has at most.
        label_smoothing: share of each target that is spread over the whole vocabulary.
        source_language, target_language: language tokens, such as mBART's "en_XX", to put where the tokenizer's template
            has one.
        others: see `Task`. `row_length` is the sources' while training.
    """

    name_in_configs = "seq2seq-lm"
    label_field = "target"
    kept_options = (*LanguageModel.kept_options, "target_length", "answer_length", "source_language", "target_language")

    def __init__(
        self,
        backbone: EncoderDecoder,
        tokenizer,
        head,
        *,
        target_length: int | None = None,
        answer_length: int = 128,
        label_smoothing: float = 0.0,
        source_language: str | None = None,
        target_language: str | None = None,
        row_length: int = 128,
        **kwargs,
    ):
        super().__init__(backbone, tokenizer, head, row_length=row_length, **kwargs)
        longest = backbone.config.longest
        for name, length in (("target_length", target_length), ("answer_length", answer_length)):
            if length is not None and length < (1 if name == "answer_length" else 3):
                raise ValueError(f"{name}: expected a few tokens, got {length}")
        if target_length is not None and longest and target_length > longest:
            raise ValueError(f"target_length: expected 3 to {longest} tokens, got {target_length}")
        self.target_length = target_length or self.sequence_length
        self.answer_length = min(answer_length, longest) if longest else answer_length
        self.label_smoothing = label_smoothing
        self.source_language, self.target_language = source_language, target_language
        self._source_tokenizer, self._target_tokenizer = (
            tokenizer if language is None else tokenizer.with_template(self._template_of(language, name))
            for name, language in (("source_language", source_language), ("target_language", target_language))
        )
        first, last = self._around_targets()
        self.end_id, self._adds_end = self._end_of(last)
        self.start_id, self.forced_id = self._start_of(first, [*last, self.end_id] if self._adds_end else last)

    # What stands around texts.

    def _template_of(self, language: str, name: str) -> Template:
        """Returns the tokenizer's template with another language in the place of its own."""
        if language not in self.tokenizer.vocabulary:
            raise ValueError(f'{name}: "{language}" is not a token of the vocabulary')
        part = Part(source="special", name=language, ids=(self.tokenizer.id_of(language),))
        config, tokenizer = self.backbone.config, self.tokenizer
        usual = {getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        usual |= {tokenizer.cls_id, tokenizer.sep_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}
        single = tokenizer.template.single
        places = [i for i, known in enumerate(single) if known.source == "special" and not usual & set(known.ids)]
        if len(places) != 1:
            raise ValueError(f"{name}: the tokenizer's template has {len(places)} language tokens, expected one")
        return dataclasses.replace(tokenizer.template, single=(*single[: places[0]], part, *single[places[0] + 1 :]))

    def _around_targets(self) -> tuple[list[int], list[int]]:
        """Returns the ids that the template puts before a target, and those behind it."""
        single = self._target_tokenizer.template.single
        text = next(index for index, part in enumerate(single) if part.source == "first")
        return tuple([token for part in parts for token in part.ids] for parts in (single[:text], single[text + 1 :]))

    def _end_of(self, last: list[int]) -> tuple[int, bool]:
        """Returns the token that ends a target, and whether it has to be put there."""
        named = getattr(self.backbone.config, "eos_token_id", None)
        named = named[0] if isinstance(named, list) else named
        if named in last or last:
            return (named if named in last else last[-1]), False
        known = [token for token in (named, self.tokenizer.eos_id, self.tokenizer.sep_id) if token is not None]
        if not known:
            raise ValueError("eos_token_id: neither the tokenizer nor the config names a token that ends targets")
        return known[0], True

    def _start_of(self, first: list[int], last: list[int]) -> tuple[int, int | None]:
        """Returns the token that the decoder begins with, and the one that an answer has to begin with, if any."""
        config = self.backbone.config
        start, forced = config.decoder_start_token_id, getattr(config, "forced_bos_token_id", None)
        if start is None or self.target_language is not None:
            ids = tf.constant([[*first, *last]])
            start = int(self.backbone.shifted(ids, tf.ones_like(ids))[0, 0])
        return start, first[0] if self.target_language is not None and first else forced

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        return self.head(self.backbone(inputs, training=training), training=training)

    # Inputs.

    def examples(self, x, y=None, *, labelled: bool = True) -> Examples:
        """As `TextInputs`'; pairs of texts are sources and their targets."""
        examples = super().examples(x, y, labelled=labelled)
        if examples.pairs is None:
            return examples
        if examples.labels is not None:
            raise ValueError("targets: sources are pairs of texts; give one text for each target")
        return Examples(examples.texts, None, examples.pairs)

    def label_values(self, labels):
        if labels is None:
            raise ValueError("targets: none given; fit and evaluate need one for each text")
        for index, label in enumerate(labels):
            if not isinstance(label, (str, bytes)):
                raise ValueError(f"target of text {index}: expected a string, got {label!r}")
        return labels

    def labelled(self, batch, class_weight):
        if class_weight:
            raise ValueError("class_weight: targets are texts, which have no classes; give sample_weight")
        if "pair" in batch and "label" not in batch:
            batch = {**{name: value for name, value in batch.items() if name != "pair"}, "label": batch["pair"]}
        if "label" not in batch or batch["label"].dtype != tf.string or batch["label"].shape.rank != 1:
            raise ValueError("dataset: expected batches of (sources, targets), both of them strings of shape [batch]")
        return batch

    def inputs(self, batch, *, training, seed):
        x = self.batched_pairs(batch["text"], batch["label"], training=training)
        ids, segment_ids = x["target_ids"], x["target_segment_ids"]
        weights = tf.cast(segment_ids > 0, tf.float32)
        if "weight" in batch:
            of_segment = spread(tf.cast(batch["weight"], tf.float32), x["text_index"])
            weights *= tf.gather(tf.pad(of_segment, [[0, 0], [1, 0]]), segment_ids, batch_dims=1)
        x = {**tokens_of(x), "target_ids": self.backbone.shifted(ids, segment_ids)}
        return x, ids, weights

    def batched_pairs(self, sources: tf.Tensor, targets: tf.Tensor, *, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns sources and targets as rows, the way `batching` says (see `batching.pack_pairs`)."""
        source_ids = self._source_tokenizer.encode(sources, max_length=self.sequence_length).token_ids
        room = self.target_length and self.target_length - int(self._adds_end)
        target_ids = self._target_tokenizer.encode(targets, max_length=room).token_ids
        if self._adds_end:
            ends = tf.fill([target_ids.nrows(), 1], self.end_id)
            target_ids = tf.concat([target_ids, tf.RaggedTensor.from_tensor(ends)], axis=1)
        layout = {"pad_id": self.tokenizer.pad_id or 0, "multiple": 16 if training else 1}
        if self.batching == "padded":
            return pad_pairs(source_ids, target_ids, **layout)
        row_length = min(self.row_length, self.sequence_length or self.row_length) if training else 1
        return pack_pairs(source_ids, target_ids, row_length=row_length, **layout)

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Writes an answer to each text [E] in the graph, always with the likeliest next token (greedily).

        `generated_text` [E] string; `score` [E] float32, its log-likelihood, the end token's included.
        """
        if pairs is not None:
            raise ValueError("pairs: a sequence-to-sequence model answers one text; join the two")
        encoded = self._source_tokenizer.encode(texts, max_length=self.sequence_length)
        x = tokens_of(pad(encoded.token_ids, encoded.type_ids, pad_id=self.tokenizer.pad_id or 0))
        written, score = self._written(self.backbone.encode(x))
        return {"generated_text": self.tokenizer.detokenize(written), "score": score}

    def _written(self, source: Mapping[str, Any]) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """Returns the answers' tokens [E,(L)], without their ends, and their log-likelihoods [E]."""
        count, length = tf.shape(source["sequence"])[0], self.answer_length

        def step(i, last, done, written, score, cache):
            outputs = self.backbone.decode({"target_ids": last[:, None]}, cache=cache)
            logits = tf.cast(self.head({"sequence": outputs["sequence"]})[:, 0], tf.float32)
            token = tf.argmax(logits, axis=-1, output_type=tf.int32)
            if self.forced_id is not None:
                token = tf.where(i == 0, self.forced_id, token)
            gained = -tf.nn.sparse_softmax_cross_entropy_with_logits(token, logits)
            score += tf.where(done, 0.0, gained)
            written = tf.tensor_scatter_nd_update(written, [[i]], tf.where(done, self.end_id, token)[None])
            return i + 1, token, done | (token == self.end_id), written, score, outputs["cache"]

        _, _, _, written, score, _ = tf.while_loop(
            lambda i, last, done, *_: (i < length) & ~tf.reduce_all(done),
            step,
            (
                tf.constant(0),
                tf.fill([count], self.start_id),
                tf.zeros([count], tf.bool),
                tf.fill([length, count], self.end_id),
                tf.zeros([count]),
                self.backbone.empty_cache(source, length),
            ),
            parallel_iterations=1,
        )
        tokens = tf.transpose(written)
        ended = tf.cumsum(tf.cast(tokens == self.end_id, tf.int32), axis=1)
        return tf.ragged.boolean_mask(tokens, ended == 0), score

    def predict_text(self, texts, batch_size: int = 32) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns an answer to each text: `{"generated_text": "...", "score": log-likelihood}`; for one text, its own."""
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        if examples.pairs is not None:
            raise ValueError("pairs: a sequence-to-sequence model answers one text; join the two")
        answers = []
        for start in range(0, len(examples), batch_size):
            given = self._compiled_answer(tf.constant(examples[start : start + batch_size].texts))
            columns = (given[name].numpy() for name in ("generated_text", "score"))
            answers += [
                {"generated_text": text.decode(errors="replace"), "score": float(score)}
                for text, score in zip(*columns, strict=True)
            ]
        return answers[0] if isinstance(texts, str) else answers

    def score_text(self, sources, targets, batch_size: int = 32) -> list[dict[str, Any]]:
        """Returns how likely each target is after its source: `{"log_likelihood", "perplexity", "tokens"}`.

        All tokens count that the target has of its own or gets from the tokenizer's template, its end token included.
        """
        examples = as_examples(sources, targets, label=self.label_field)
        labels = self.label_values(examples.labels)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = slice(start, start + batch_size)
            sums, counts = self._compiled_scores(tf.constant(examples.texts[part]), tf.constant(labels[part]))
            answers += [
                {
                    "log_likelihood": float(total),
                    "perplexity": float(np.exp(min(-total / max(count, 1), 700.0))),
                    "tokens": int(count),
                }
                for total, count in zip(sums.numpy(), counts.numpy(), strict=True)
            ]
        return answers

    @functools.cached_property
    def _compiled_scores(self):
        return tf.function(self._scores, reduce_retracing=True, autograph=False)

    def _scores(self, sources: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the targets' log-likelihoods [E] and their numbers of tokens [E]."""
        x = self.batched_pairs(sources, targets)
        ids, segment_ids = x["target_ids"], x["target_segment_ids"]
        logits = self({**tokens_of(x), "target_ids": self.backbone.shifted(ids, segment_ids)})
        gained = -tf.nn.sparse_softmax_cross_entropy_with_logits(ids, tf.cast(logits, tf.float32))
        example = tf.gather(tf.pad(x["text_index"], [[0, 0], [1, 0]], constant_values=-1), segment_ids, batch_dims=1)
        example, count = tf.reshape(example, [-1]), tf.size(sources)
        sums = tf.math.unsorted_segment_sum(tf.reshape(gained, [-1]), example, count)
        return sums, tf.math.unsorted_segment_sum(tf.ones_like(example), example, count)

    def config_dict(self) -> dict[str, Any]:
        values = {**super().config_dict(), "eos_token_id": self.end_id}
        return values if self.target_language is None else {**values, "decoder_start_token_id": self.start_id}
