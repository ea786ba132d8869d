"""KerasHub's side: its `BertMaskedLM` on the TensorFlow backend, with and without XLA, whichever is faster.

Compiled as its users do, with AdamW and gradients clipped at norm 1. Runs in the environment that reference.py makes.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import tensorflow as tf

from benchmarks.masked_rows import MaskedRows
from benchmarks.stepping import Stepping


class PreTraining(Stepping):
    """Trains a masked language model a few steps a turn."""

    variants = ("plain", "XLA")

    def __init__(self, *, precision: str, threads: int, **options):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision])
        super().__init__(**options)

    def stepper(self, variant: str):
        keras.utils.set_random_seed(self.seed)
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=self.vocabulary_size,
            num_layers=self.layers,
            num_heads=self.heads,
            hidden_dim=self.width,
            intermediate_dim=self.inner_width,
            dropout=0.1,
            max_sequence_length=512,
        )
        model = keras_hub.models.BertMaskedLM(backbone)
        optimizer = keras.optimizers.AdamW(self.learning_rate, weight_decay=0.01, global_clipnorm=1.0)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
            jit_compile=variant == "XLA",
        )
        data = iter(tf.data.Dataset.from_tensor_slices(inputs(self.rows)).batch(self.batch_rows, True).cache().repeat())
        # Keras builds optimiser and metrics at the first batch that `fit` sees.
        model.train_on_batch(*next(data))
        function = model.make_train_function()
        return lambda: function(data)


def inputs(rows: MaskedRows) -> tuple:
    """Returns all rows as the model's inputs, targets and weights."""
    ones = tf.ones(rows.token_ids.shape, tf.int32)
    x = {
        "token_ids": rows.token_ids,
        "padding_mask": ones,
        "segment_ids": ones * 0,
        "mask_positions": rows.mask_positions,
    }
    return x, rows.mask_ids, tf.ones(rows.mask_ids.shape)
