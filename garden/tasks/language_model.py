"""What the language-modelling tasks share: scores of the whole vocabulary at every place that is predicted.

Shapes: M predicted places of all rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from garden.tasks.entropy import VocabularyAccuracy, VocabularyEntropy
from garden.tasks.inputs import is_prepared
from garden.tasks.perplexity import Perplexity
from garden.tasks.task import Task
from garden.tasks.text_classifier import SmoothedCrossentropy


class LanguageModel(Task):
    """Base of `MaskedLM`, `CausalLM` and `Seq2SeqLM`: a backbone with a head over its vocabulary.

    With the task's own loss `perplexity` is reported, exp of the mean cross-entropy of all tokens.
    """

    accuracy_name: ClassVar[str] = "token_accuracy"
    entropy_name: ClassVar[str] = "loss"
    """The metric that is the tokens' mean cross-entropy, with the task's own loss."""

    label_smoothing: float = 0.0
    _entropy_loss: bool = False

    @classmethod
    def build_on(cls, backbone, tokenizer, **options):
        head_class = backbone.family.heads[cls.name_in_configs]
        return cls(backbone, tokenizer, head_class(backbone, dtype=backbone.dtype_policy, name="head"), **options)

    def compile(self, optimizer="auto", loss="auto", metrics="auto", **kwargs):
        """As `Task`'s."""
        self._entropy_loss = isinstance(loss, str) and loss == "auto" and not self.label_smoothing
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def default_loss(self) -> keras.losses.Loss:
        if self.label_smoothing:
            return SmoothedCrossentropy(self.label_smoothing)
        return VocabularyEntropy()

    def default_metrics(self) -> list:
        accuracy = VocabularyAccuracy(name=self.accuracy_name)
        return [accuracy, Perplexity()] if self.label_smoothing else [accuracy]

    def get_metrics_result(self) -> dict[str, Any]:
        results = super().get_metrics_result()
        if self._entropy_loss and self.entropy_name in results:
            # Of the loss that is aggregated over replicas and batches: a mean of perplexities would be another number.
            results["perplexity"] = float(np.exp(min(float(results[self.entropy_name]), 700.0)))
        return results

    def predict(self, x, batch_size: int | None = None, **kwargs):
        """Returns the logits of rows of ids (dictionaries with `token_ids`), as Keras's `predict`.

        Raises ValueError for texts: their rows differ in length, and `predict_text` answers them.
        """
        if not (isinstance(x, dict) or (isinstance(x, tf.data.Dataset) and is_prepared(x))):
            raise ValueError("predict: texts have rows of many lengths; use predict_text for answers")
        return super().predict(x, batch_size=batch_size, **kwargs)

    def example_targets(self):
        return tf.zeros([1], tf.int32), tf.zeros([1, self.backbone.config.vocab_size])

    def flat(self, y, y_pred, sample_weight):
        """Returns labels [M], logits [M,V] and weights [M] of all rows' places in one line."""
        labels = tf.reshape(y, [-1])
        weights = tf.ones(tf.shape(labels)) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        logits = tf.reshape(y_pred, [-1, y_pred.shape[-1]])
        # The task's own loss takes bfloat16 as it is; what others do in it is not known.
        return labels, logits if self._entropy_loss else tf.cast(logits, tf.float32), tf.reshape(weights, [-1])
