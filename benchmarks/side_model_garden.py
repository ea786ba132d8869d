"""TF Model Garden's side: its `MaskedLMTask`, whose train step is made into a graph as its trainer does, with and without XLA.

Runs in the environment that reference.py makes.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras
from official.modeling import optimization
from official.nlp.configs import bert, encoders
from official.nlp.data import pretrain_dataloader
from official.nlp.tasks import masked_lm

from benchmarks.masked_rows import MaskedRows
from benchmarks.stepping import Stepping


class PreTraining(Stepping):
    """Trains a masked language model a few steps a turn."""

    variants = ("plain", "XLA")

    def __init__(self, *, precision: str, threads: int, **options):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf_keras.mixed_precision.set_global_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision])
        super().__init__(**options)

    def stepper(self, variant: str):
        tf_keras.utils.set_random_seed(self.seed)
        encoder = encoders.BertEncoderConfig(
            vocab_size=self.vocabulary_size,
            num_layers=self.layers,
            num_attention_heads=self.heads,
            hidden_size=self.width,
            intermediate_size=self.inner_width,
        )
        model = bert.PretrainerConfig(encoder=encoders.EncoderConfig(type="bert", bert=encoder), cls_heads=[])
        data = pretrain_dataloader.BertPretrainDataConfig(use_next_sentence_label=False)
        task = masked_lm.MaskedLMTask(masked_lm.MaskedLMConfig(model=model, train_data=data))
        model, metrics = task.build_model(), task.build_metrics()
        # What its BERT configurations name.
        factory = optimization.OptimizerFactory(
            optimization.OptimizationConfig(
                {
                    "optimizer": {
                        "type": "adamw",
                        "adamw": {
                            "weight_decay_rate": 0.01,
                            "exclude_from_weight_decay": ["LayerNorm", "layer_norm", "bias"],
                        },
                    },
                    "learning_rate": {
                        "type": "constant",
                        "constant": {"learning_rate": self.learning_rate},
                    },
                }
            )
        )
        optimizer = factory.build_optimizer(factory.build_learning_rate())
        batches = tf.data.Dataset.from_tensor_slices(inputs(self.rows)).batch(self.batch_rows, True).cache().repeat()
        data = iter(batches)

        def train(batch):
            task.train_step(batch, model, optimizer, metrics)

        train = tf.function(train, jit_compile=variant == "XLA")

        @tf.function
        def step():
            train(next(data))

        return step


def inputs(rows: MaskedRows) -> dict:
    """Returns all rows as the task's features."""
    ones = tf.ones(rows.token_ids.shape, tf.int32)
    return {
        "input_word_ids": rows.token_ids,
        "input_mask": ones,
        "input_type_ids": ones * 0,
        "masked_lm_positions": rows.mask_positions,
        "masked_lm_ids": rows.mask_ids,
        "masked_lm_weights": tf.ones(rows.mask_ids.shape),
    }
