"""Masked language modelling: what stood where the masks are (Devlin et al., 2019).

Shapes: E texts of a batch, R rows, T row length, P masked places a row, V vocabulary, K candidates.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from garden.tasks.batching import pad, tokens_of
from garden.tasks.examples import as_examples
from garden.tasks.language_model import LanguageModel
from garden.tasks.masking import is_special, mask_tokens

CANDIDATES = 5
"""How many candidates for a mask an answer names."""


class MaskedLM(LanguageModel):
    """A backbone with a masked-LM head.

        model = MaskedLM.from_pretrained(directory)
        model.predict_text("Paris is the [MASK] of France.")   # [{"token": "capital", "score": 0.99, "text": "..."}, ...]
        model.fit(texts)

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,T,V]; with `mask_positions` [B,P] only those places', [B,P,V].

    Args:
        mask_rate: share of each row's tokens that are predicted. Of these, 80 % become the mask, 10 % a random token, and
            10 % stay.
        others: see `Task`. `row_length` is the rows' length while training.
    """

    name_in_configs = "masked-lm"
    label_field = None
    accuracy_name = "masked_accuracy"
    mask_shares: ClassVar[tuple[float, float]] = (0.8, 0.1)
    """Shares of the predicted tokens that become the mask, and that become a random token."""

    def __init__(self, backbone, tokenizer, head, *, mask_rate: float = 0.15, row_length: int = 128, **kwargs):
        super().__init__(backbone, tokenizer, head, row_length=row_length, **kwargs)
        if not 0 < mask_rate < 1:
            raise ValueError(f"mask_rate: expected a share between 0 and 1, got {mask_rate}")
        if tokenizer.mask_id is None:
            raise ValueError("the tokenizer has no mask token: it cannot serve a masked-LM task")
        self.mask_rate = mask_rate

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        outputs = self.backbone(inputs, read_positions=inputs.get("mask_positions"), training=training)
        return self.head(outputs, training=training)

    # Inputs.

    def label_values(self, labels):
        if labels is not None:
            raise ValueError("labels: masked language modelling makes its own; give texts only")

    def labelled(self, batch, class_weight):
        if "weight" in batch or class_weight:
            raise ValueError("weights: masked language modelling has none; give texts only")
        return batch

    def inputs(self, batch, *, training, seed):
        return self.hidden(tokens_of(self.batched(batch["text"], batch.get("pair"), training=training)), seed)

    def hidden(self, x: dict[str, tf.Tensor], seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Returns rows with some of their tokens hidden, what these were and whether they count: see `mask_tokens`."""
        masked = mask_tokens(
            x["token_ids"],
            (x["segment_ids"] > 0) & ~tf.gather(is_special(self.tokenizer), x["token_ids"]),
            seed,
            rate=self.mask_rate,
            shares=self.mask_shares,
            mask_id=self.tokenizer.mask_id,
            vocabulary_size=self.tokenizer.vocabulary_size,
        )
        x = {**x, "token_ids": masked["token_ids"], "mask_positions": masked["mask_positions"]}
        return x, masked["mask_ids"], masked["mask_weights"]

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the likeliest tokens for each text's first mask, in the graph.

        `tokens` [E,K] string, `scores` [E,K] float32, likeliest first. A text without a mask has empty tokens with score 0.
        """
        token_ids, positions, rows = self._masks(texts, pairs)
        first = tf.math.unsorted_segment_min(tf.range(tf.size(rows)), rows, tf.size(texts))
        has_mask = first < tf.size(rows)
        place = tf.where(has_mask, tf.gather(tf.pad(positions, [[0, 1]]), tf.minimum(first, tf.size(rows))), 0)
        logits = self({**token_ids, "mask_positions": place[:, None]})[:, 0]
        scores, ids = self._likeliest(logits, CANDIDATES)
        tokens = tf.gather(tf.constant(self.tokenizer.vocabulary), ids)
        return {
            "tokens": tf.where(has_mask[:, None], tokens, ""),
            "scores": tf.where(has_mask[:, None], scores, 0.0),
        }

    def predict_text(self, texts, batch_size: int = 32, candidates: int = CANDIDATES) -> list:
        """Returns, for one text, its mask's candidates, likeliest first: `{"token", "score", "text"}` each.

        A list of texts gives a list of such lists; a text with several masks has a list of candidates for each of them.
        ValueError for a text without a mask.
        """
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            sides = (tf.constant(side) for side in (part.texts, part.pairs) if side is not None)
            x, positions, rows = self._masks(*sides)
            masks_of = [np.flatnonzero(rows.numpy() == row) for row in range(len(part))]
            if missing := [text for text, masks in zip(part.texts, masks_of, strict=True) if not len(masks)]:
                mask = self.tokenizer.vocabulary[self.tokenizer.mask_id]
                raise ValueError(f"no {mask} in the text {missing[0]!r}; write {mask} where a word is wanted")
            most = max(len(masks) for masks in masks_of)
            places = np.zeros([len(part), most], np.int32)
            for row, masks in enumerate(masks_of):
                places[row, : len(masks)] = positions.numpy()[masks]
            likeliest = self._likeliest(self({**x, "mask_positions": places}), candidates)
            scores, ids = (part.numpy() for part in likeliest)
            token_ids, lengths = x["token_ids"].numpy(), (x["segment_ids"].numpy() > 0).sum(axis=1)
            for row, masks in enumerate(masks_of):
                ids_of_row = token_ids[row, : lengths[row]]
                found = [
                    self._candidates(ids_of_row, places[row, i], ids[row, i], scores[row, i]) for i in range(len(masks))
                ]
                answers.append(found[0] if len(found) == 1 else found)
        return answers[0] if isinstance(texts, str) else answers

    def _masks(
        self, texts: tf.Tensor, pairs: tf.Tensor | None = None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Returns texts one a row, and their masks' positions [M] and rows [M], in order."""
        encoded = self.tokenizer.encode(texts, pairs, max_length=self.sequence_length)
        x = pad(encoded.token_ids, encoded.type_ids, pad_id=self.tokenizer.pad_id or 0)
        x = tokens_of(x)
        places = tf.cast(tf.where(x["token_ids"] == self.tokenizer.mask_id), tf.int32)
        return x, places[:, 1], places[:, 0]

    def _likeliest(self, logits: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the scores and ids [...,K] of the likeliest tokens; a table may have rows that are no token's."""
        scores = tf.nn.softmax(tf.cast(logits, tf.float32))[..., : self.tokenizer.vocabulary_size]
        return tf.math.top_k(scores, min(count, self.tokenizer.vocabulary_size))

    def _candidates(
        self, token_ids: np.ndarray, place: int, ids: np.ndarray, scores: np.ndarray
    ) -> list[dict[str, Any]]:
        filled = np.repeat(token_ids[None], len(ids), axis=0)
        filled[:, place] = ids
        texts = [text.decode() for text in self.tokenizer.detokenize(filled).numpy()]
        return [
            {"token": self.tokenizer.vocabulary[token], "score": float(score), "text": text}
            for token, score, text in zip(ids, scores, texts, strict=True)
        ]
