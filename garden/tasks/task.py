"""What every task shares: a backbone, a tokenizer and a head, trained on raw texts and asked with raw texts.

A task is one file that says what its head is, how texts and labels become inputs, what a batch's losses are, and how an
answer reads. Shapes: E texts of a batch, R rows of several texts each, Q texts in a row.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import keras
import tensorflow as tf

from garden.checkpoints import huggingface
from garden.checkpoints.weight_map import dump
from garden.layers import first_positions, last_positions
from garden.models.backbone import (
    Backbone,
    blank_weights,
    combined,
    family_of,
    load_weights,
    open_weights,
    without_lists,
)
from garden.tasks.batching import unpack
from garden.tasks.distributed import DistributedModel
from garden.tasks.examples import clear_errors
from garden.tasks.inputs import Elsewhere, TextInputs, is_prepared
from garden.tasks.optimization import AdamW, LinearSchedule
from garden.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

BATCHING = ("packed", "padded")


class Task(TextInputs, DistributedModel):
    """Base of the task classes.

    Args:
        backbone: a `garden.Backbone`.
        tokenizer: a `garden.Tokenizer`.
        head: a layer from the backbone's outputs to logits.
        sequence_length: tokens of a text at most, special tokens included; longer texts are truncated. Default: what
            backbone and tokenizer allow.
        batching: "packed" puts several texts in one row, which wastes least (benchmarks/finetune.py --batching);
            "padded" gives each text a row of its own.
        row_length: with "packed", the shortest row while training.
        pairs: whether an example is a pair of texts; `fit` sets it, and exports then take `text_pair` beside `text`.
        seed: of dropout, shuffling and, where the task has them, masks.
    """

    name_in_configs: ClassVar[str]
    """The task's name in run configs and in families' `heads`."""

    label_field: ClassVar[str | None] = "label"
    """The field of a file that holds labels; None for a task without."""

    pair_field: ClassVar[str | None] = None
    """The field of a file that holds second texts, for a task that has no examples without."""

    answers_pairs: ClassVar[bool] = True
    """Whether an answer may be about a pair of texts."""

    kept_options: ClassVar[tuple[str, ...]] = ("sequence_length", "pairs")
    """Options that `save_pretrained` keeps, each an attribute of its name."""

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: Tokenizer,
        head: keras.layers.Layer,
        *,
        sequence_length: int | None = None,
        batching: str = "packed",
        row_length: int = 64,
        pairs: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, dtype=backbone.dtype_policy, **kwargs)
        if batching not in BATCHING:
            raise ValueError(f'batching: expected one of {", ".join(BATCHING)}, got "{batching}"')
        limits = [backbone.config.longest, tokenizer.model_max_length]
        limits = [limit for limit in limits if limit]
        if sequence_length is not None and limits and not 2 < sequence_length <= min(limits):
            raise ValueError(f"sequence_length: expected 3 to {min(limits)} tokens, got {sequence_length}")
        if tokenizer.vocabulary_size > backbone.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocabulary_size} tokens, the network only {backbone.config.vocab_size} "
                "embeddings: they do not belong together"
            )
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.head = head
        self.sequence_length = sequence_length or (min(limits) if limits else None)
        self.batching, self.row_length, self.pairs = batching, row_length, pairs
        self._default_rate: float | None = None
        self.built = True

    # Making one, and keeping it.

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        dtype: str | None = None,
        new_head: bool = False,
        strict: bool = True,
        **options: Any,
    ):
        """Opens a directory in the Hugging Face layout: config.json, weights, tokenizer.

        Weights of the task's head that the checkpoint lacks are new, drawn with `seed`; a warning names them.

        Args:
            directory: the checkpoint.
            dtype: a Keras dtype policy: "float32", "mixed_bfloat16", "mixed_float16".
            new_head: start from a new head even where the checkpoint has one.
            strict: whether a missing or unknown tensor of the backbone is an error.
            options: the task's own, such as `labels`, and `Task`'s: `sequence_length`, `batching`, `seed`, ...

        Raises FileNotFoundError and ValueError, each naming the file and what is wrong with it.
        """
        values = huggingface.read_config(directory)
        where = Path(directory) / huggingface.CONFIG_FILE
        family = family_of(values, where)
        if cls.name_in_configs not in family.heads:
            raise ValueError(f'{where}: family "{family.model_type}" has no head for {cls.name_in_configs}')
        config = family.config.from_dict(values, where)
        tokenizer = Tokenizer.from_pretrained(directory)
        head_class = family.heads[cls.name_in_configs]
        saved = values.get("garden")
        if isinstance(saved, dict):
            options = {**{name: saved[name] for name in cls.kept_options if name in saved}, **options}
        with open_weights(directory, family) as weights:
            config = config.settled(weights)
            trained_head = not new_head and head_class.trained_in(weights, config)
            options = cls.options_of(values, where, weights if trained_head else None, head_class, options)
            new_parts = [part for part in head_class.optional_parts if not _has(weights, part)]
            keras.utils.set_random_seed(options.get("seed", 0))
            with contextlib.nullcontext() if new_parts else blank_weights():
                backbone = family.backbone(config, dtype=dtype, **head_class.backbone_parts)
            model = cls.build_on(backbone, tokenizer, **options)
            if new_parts or not trained_head:
                parts = " and ".join([*new_parts, *([] if trained_head else ["head"])])
                logger.warning("%s: no weights for the %s, which starts from random ones", directory, parts)
            heads = {"head": model.head} if trained_head else {}
            optional = [*(rf"{part}\..*" for part in new_parts), *head_class.optional_tensors]
            load_weights(backbone, heads, weights, strict=strict, optional=optional)
        return model

    @classmethod
    def build_on(cls, backbone: Backbone, tokenizer: Tokenizer, **options: Any):
        """Makes the task with a new head on a backbone; `options` as `from_pretrained` takes them."""
        raise NotImplementedError(f"{cls.__name__} has to say how it is made")

    @classmethod
    def options_of(cls, values: Mapping, where: Path, weights, head_class, options: Mapping) -> dict[str, Any]:
        """Returns `build_on`'s options from those asked for and what a checkpoint says (weights: None for a new head)."""
        return dict(options)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config.json, model.safetensors and the tokenizer's files, which other tools open too."""
        variables, rules = combined(self.backbone, {"head": self.head})
        family = self.backbone.family
        prefix = family.prefix_of(self.name_in_configs)
        own = {name for rule in self.head.rules() for name in rule.tensors}
        tensors = ((name if name in own else prefix + name, value) for name, value in dump(variables, rules))
        with huggingface.whole_directory(directory) as target:
            huggingface.write_weights(target, tensors)
            self.tokenizer.save_pretrained(target)
            self.save_parts(target)
            huggingface.write_config(target, self.config_dict())

    def save_parts(self, directory: Path) -> None:
        """Writes what a task has beside its network, head and tokenizer."""

    def get_config(self) -> dict[str, Any]:
        """Raises NotImplementedError: a tokenizer does not fit in a `.keras` file."""
        raise NotImplementedError(
            f"{type(self).__name__}: keep it with save_pretrained(directory); in callbacks, keep weights alone "
            '(save_weights_only=True, a path that ends in ".weights.h5")'
        )

    def config_dict(self) -> dict[str, Any]:
        """Returns what config.json says of the task and its network."""
        return {
            **self.backbone.config_dict(),
            "architectures": [self.backbone.family.architectures[self.name_in_configs]],
            "garden": {name: getattr(self, name) for name in self.kept_options},
        }

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(without_lists(inputs), *args, **kwargs)

    # Training.

    def compile(self, optimizer="auto", loss="auto", metrics="auto", *, learning_rate: float | None = None, **kwargs):
        """As Keras's; what is left at "auto" is the task's own.

        Args:
            optimizer: "auto" is AdamW without decay on norms and biases, clipping at norm 1, and a learning rate that
                rises over a tenth of the steps and falls to zero over the rest.
            learning_rate: the highest, for "auto"; default 5e-5.
            loss, metrics: as Keras takes them; a loss is averaged over the examples' weights.
        """
        self._default_rate = None
        if optimizer == "auto":
            self._default_rate = 5e-5 if learning_rate is None else learning_rate
            optimizer = AdamW(LinearSchedule(self._default_rate))
        elif learning_rate is not None:
            raise ValueError("learning_rate goes with the default optimizer; give it to your own optimizer instead")
        if "loss" not in self.loss_factors and loss != "auto":
            terms = " and ".join(self.loss_factors)
            raise ValueError(f'loss: {self.name_in_configs} adds up {terms} of its own; leave it at "auto"')
        loss = self.default_loss() if isinstance(loss, str) and loss == "auto" else loss
        metrics = self.default_metrics() if isinstance(metrics, str) and metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        loss = keras.losses.get(loss)
        self._loss_of_examples = loss.call if isinstance(loss, keras.losses.Loss) else loss

    def default_loss(self) -> keras.losses.Loss | None:
        """Returns the task's loss; None where `loss_terms` says what it is."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its loss is")

    def flat(self, y, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns labels [M,...], logits [M,C] and weights [M], all rows' places in one line; weight 0 is padding."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its losses are made of")

    def weighted_losses(self, x, y, y_pred, sample_weight):
        labels, logits, weights = self.flat(y, y_pred, sample_weight)
        return tf.cast(self._loss_of_examples(labels, logits), tf.float32), weights

    def metric_inputs(self, x, y, y_pred, sample_weight):
        labels, logits, weights = self.flat(y, y_pred, sample_weight)
        return labels, logits, tf.cast(weights > 0, tf.float32)

    def default_metrics(self) -> list:
        """Returns the task's metrics, as Keras takes them."""
        return []

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        validation_data=None,
        validation_split: float = 0.0,
        validation_batch_size: int | None = None,
        shuffle: bool = True,
        class_weight: Mapping | None = None,
        sample_weight=None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        elsewhere: Elsewhere | None = None,
        **kwargs,
    ):
        """Trains on raw texts; arguments as Keras's `fit`, and in addition:

        Args:
            x: a list of texts (with labels `y`); a tuple of two such lists, or a list of two-tuples, for pairs of texts;
                a JSONL, CSV or TSV file with the fields `text` and `label`; `garden.read_examples(...)`; or a
                tf.data.Dataset, batched, of texts, (texts, labels) or (texts, labels, weights). Labels are ids or names.
                Network inputs, batched, are taken as they are; as `Shares`, each worker makes its own.
            batch_size: texts in a step, for all replicas together; default 32. Datasets have their own.
            validation_data: as `x`, or a pair (x, y).
            class_weight: id or name of a class -> weight of its examples.
            elsewhere: has the inputs of texts made by others (see `Elsewhere`, `training.input_service`).

        Returns Keras's History. Raises ValueError or TypeError, naming the value, for texts and labels that do not fit.
        """
        if not self.compiled:
            self.compile()
        size = batch_size or 32
        if validation_split and validation_data is None:
            x, y, sample_weight, validation_data = self._split(x, y, sample_weight, validation_split)
        data = self.raw_dataset(x, y, sample_weight, batch_size=size, shuffle=shuffle, class_weight=class_weight)
        if not is_prepared(data):
            self.pairs = self.answers_pairs and "pair" in data.element_spec
        if validation_data is not None:
            parts = validation_data if isinstance(validation_data, tuple) else (validation_data,)
            validation_data = self.raw_dataset(*parts, batch_size=validation_batch_size or size)
            validation_data = self.distributed_dataset(validation_data)
        if self._default_rate is not None:
            self._plan_rate((epochs - initial_epoch) * (steps_per_epoch or int(data.cardinality())))
        with clear_errors():
            return super().fit(
                x=self.distributed_dataset(data, training=True, elsewhere=elsewhere),
                epochs=epochs,
                initial_epoch=initial_epoch,
                validation_data=validation_data,
                shuffle=False,
                steps_per_epoch=steps_per_epoch,
                **kwargs,
            )

    def evaluate(self, x=None, y=None, batch_size: int | None = None, *, sample_weight=None, **kwargs):
        """Returns loss and metrics; data as in `fit`, everything else as Keras's `evaluate`."""
        if not kwargs.get("_use_cached_eval_dataset"):
            if not self.compiled:
                self.compile()
            x = self.distributed_dataset(self.raw_dataset(x, y, sample_weight, batch_size=batch_size or 32))
        with clear_errors():
            return super().evaluate(x=x, **kwargs)

    def predict(self, x, batch_size: int | None = None, **kwargs):
        """Returns the logits of all texts, in their order; data as in `fit`, labels are not needed."""
        data = self.raw_dataset(x, batch_size=batch_size or 32, labelled=False)
        return super().predict(self.distributed_dataset(data), **kwargs)

    def predict_step(self, data) -> tf.Tensor:
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        logits = tf.nest.map_structure(lambda values: tf.cast(values, tf.float32), self(x, training=False))
        if "text_index" not in x:
            return logits
        # A replica may have got no text at all.
        count = tf.reduce_max(tf.concat([tf.reshape(x["text_index"], [-1]), [-1]], axis=0)) + 1
        return unpack(logits, x["text_index"], count)

    def _steps_done(self) -> int:
        # A variable that is mirrored on several devices is no number before it is a tensor.
        return int(tf.convert_to_tensor(self.optimizer.iterations.value)) if self.compiled else 0

    def _plan_rate(self, steps: int) -> None:
        schedule = LinearSchedule(self._default_rate, steps=steps if steps > 0 else None, begin=self._steps_done())
        self.optimizer.learning_rate = schedule
        # The schedule is a constant of the compiled step.
        self.train_function = None

    def read_places(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns where the token stands that tells most of each text, for heads that answer once a text: [R,Q] int32.

        Packed rows say where their texts begin and end; other rows are one text each, [B,1].
        """
        if self.head.reads == "end":
            return self._end_places(inputs)
        first = self.head.reads == "first"
        packed = inputs.get("text_positions" if first else "text_ends")
        if packed is not None:
            return packed
        token_ids = tf.convert_to_tensor(inputs["token_ids"])
        segment_ids = inputs.get("segment_ids")
        segment_ids = tf.ones_like(token_ids) if segment_ids is None else tf.convert_to_tensor(segment_ids)
        return (first_positions if first else last_positions)(segment_ids)[:, None]

    def _end_places(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns where each text's last end token stands, or its last token where it has none: [R,Q] int32."""
        token_ids = tf.cast(inputs["token_ids"], tf.int32)
        if "text_positions" in inputs:
            firsts, lasts = inputs["text_positions"], inputs["text_ends"]
        else:
            segment_ids = inputs.get("segment_ids")
            segment_ids = tf.ones_like(token_ids) if segment_ids is None else tf.convert_to_tensor(segment_ids)
            firsts, lasts = first_positions(segment_ids)[:, None], last_positions(segment_ids)[:, None]
        places = tf.range(tf.shape(token_ids)[1])
        inside = (places >= firsts[:, :, None]) & (places <= lasts[:, :, None])
        ends = inside & (token_ids == self.backbone.config.eos_token_id)[:, None]
        last = tf.reduce_max(tf.where(ends, places, -1), axis=-1)
        return tf.where(last < 0, lasts, last)

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns the answers to texts [E] as tensors whose first dimension is E, in the graph: what an export gives."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it answers")

    @functools.cached_property
    def _compiled_answer(self):
        return tf.function(self.answer, reduce_retracing=True, autograph=False)


def _has(weights: Mapping, part: str) -> bool:
    return any(name.startswith(f"{part}.") for name in weights)
