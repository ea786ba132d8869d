"""BERT's two objectives at once: what stood where the masks are, and whether two parts of a text belong together.

The second is next-sentence prediction (Devlin et al., 2019) or sentence order (Lan et al., 2020), as the data says: label 0 is
a second part that belongs where it stands, label 1 one that does not.
Shapes: E texts of a batch, B rows, P masked places a row, Q texts a row, V vocabulary.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from garden.tasks.batching import spread
from garden.tasks.masked_lm import MaskedLM

PARTS = ("masked", "pair")
"""The two kinds of targets, in the order of labels and weights."""


class MaskedLMWithPairs(MaskedLM):
    """A backbone with a masked-LM head, and a classifier over each text's pooled first token.

    Its loss is the sum of two means, `masked_loss` and `pair_loss`, each over its own targets. Called with `mask_positions`
    [B,P] and `text_positions` [B,Q], where texts begin, it returns `{"masked": [B,P,V], "pair": [B,Q,2]}`; else, and in its
    answers, it is a `MaskedLM`.

    Prepared batches are `(x, (mask_ids [B,P], pair_labels [B,Q]), (mask_weights, pair_weights))`. Raw ones are pairs of texts
    with labels 0 and 1; without labels, or with texts that are no pairs, only masks are learnt.

    Args:
        as `MaskedLM`.
    """

    name_in_configs = "masked-lm-with-pairs"
    label_field = "label"
    loss_factors = {"masked_loss": 1.0, "pair_loss": 1.0}
    entropy_name = "masked_loss"

    # Network.

    def call(self, inputs, training: bool = False):
        places, texts = inputs.get("mask_positions"), inputs.get("text_positions")
        if places is None or texts is None:
            return super().call(inputs, training=training)
        outputs = self.backbone(inputs, read_positions=tf.concat([places, texts], axis=1), training=training)
        count = tf.shape(places)[1]
        masked = self.head({"sequence": outputs["sequence"][:, :count]}, training=training)
        return {"masked": masked, "pair": self.head.pair_logits(outputs["pooled"][:, count:])}

    # Losses.

    def default_loss(self) -> None:
        return None

    def default_metrics(self) -> dict[str, list]:
        return {part: [keras.metrics.SparseCategoricalAccuracy(name="accuracy")] for part in PARTS}

    def example_targets(self):
        classes = {"masked": self.backbone.config.vocab_size, "pair": 2}
        return dict.fromkeys(PARTS, tf.zeros([1], tf.int32)), {part: tf.zeros([1, classes[part]]) for part in PARTS}

    def loss_terms(self, x, y, y_pred, sample_weight):
        return {
            f"{part}_loss": (tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), weights)
            for part, (labels, logits, weights) in self._targets(y, y_pred, sample_weight).items()
        }

    def metric_inputs(self, x, y, y_pred, sample_weight):
        targets = self._targets(y, y_pred, sample_weight)
        labels, logits, weights = ({part: targets[part][each] for part in PARTS} for each in range(3))
        return labels, logits, {part: tf.cast(weight > 0, tf.float32) for part, weight in weights.items()}

    def _targets(self, y, y_pred, sample_weight) -> dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Returns each part's labels [M], logits [M,...] and weights [M]."""
        if not isinstance(y_pred, dict):
            raise ValueError("inputs: expected text_positions beside mask_positions, for the pairs to be judged")
        weights = sample_weight or (None, None)
        return {
            part: self.flat(labels, y_pred[part], weight)
            for part, labels, weight in zip(PARTS, y, weights, strict=True)
        }

    # Inputs.

    def label_values(self, labels):
        if labels is None:
            return None
        for index, label in enumerate(labels):
            if label not in (0, 1):
                raise ValueError(
                    f"label of text {index}: expected 0, the second text belongs to the first, or 1, it does not; got {label!r}"
                )
        return np.asarray(labels, np.int32)

    def inputs(self, batch, *, training, seed):
        x = self.batched(batch["text"], batch.get("pair"), training=training)
        x, mask_ids, mask_weights = self.hidden(x, seed)
        judged = "pair" in batch and "label" in batch
        labels = tf.cast(batch["label"], tf.int32) if judged else tf.zeros_like(batch["text"], tf.int32)
        weights = tf.cast(tf.fill(tf.shape(labels), judged), tf.float32)
        pairs, pair_weights = (spread(values, x["text_index"]) for values in (labels, weights))
        return x, (mask_ids, pairs), (mask_weights, pair_weights)
