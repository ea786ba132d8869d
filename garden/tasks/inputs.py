"""How raw texts and labels become a task's inputs: columns, batches of examples, rows of tokens, shares of replicas.

Shapes: E texts of a batch, R rows of several texts each, Q texts in a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from garden.tasks.batching import pack, pad
from garden.tasks.examples import Examples, as_examples

Elsewhere = Callable[..., tf.data.Dataset]
"""Has inputs made by others, such as a tf.data service. Called with numbered raw batches, the function from such a dataset to
inputs, and the number of the `worker` that wants them; returns the inputs in the batches' order.
"""


@dataclass(frozen=True)
class Shares:
    """Batches of network inputs of which each worker makes its own share, a function of its number and the workers' count."""

    of: Callable[[int, int], tf.data.Dataset]


class TextInputs:
    """The part of a task that reads data. A subclass says how texts become inputs (`inputs`), and what labels are.

    Whatever `fit` takes becomes a raw dataset, whose batches count examples; a raw batch becomes the network's inputs after
    the strategy has split it, so that the content of global batch i depends on the seed and the data alone.
    """

    takes_words: ClassVar[bool] = False
    """Whether a text may be a list of words."""

    def raw_dataset(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        class_weight: Mapping | None = None,
        labelled: bool = True,
    ) -> tf.data.Dataset:
        """Returns batches of `{"text": [E], "pair": [E], "label": [E,...], "weight": [E]}` from whatever `fit` takes.

        A dataset whose batches are network inputs already (dictionaries with `token_ids`) is returned as it is.
        """
        if isinstance(x, Shares):
            return x
        if isinstance(x, dict) and "token_ids" in x:
            parts = tuple(part for part in (x, y, sample_weight) if part is not None)
            x = tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else (x,)).batch(batch_size)
            y = sample_weight = None
        if isinstance(x, tf.data.Dataset):
            if y is not None or sample_weight is not None:
                raise ValueError("a dataset brings its labels and weights; do not give them again")
            if is_prepared(x):
                return x
            fields = _named(x, words=self.takes_words)
        else:
            examples = self.examples(x, y, labelled=labelled)
            if not len(examples):
                raise ValueError("no texts given; give at least one")
            if sample_weight is not None and len(sample_weight) != len(examples):
                raise ValueError(
                    f"sample_weight: expected one for each of {len(examples)} texts, got {len(sample_weight)}"
                )
            columns = self.columns(examples, labelled=labelled)
            if sample_weight is not None:
                columns["weight"] = sample_weight
            fields = tf.data.Dataset.from_tensor_slices(columns)
            if shuffle:
                seed = self.seed + self._steps_done()
                fields = fields.shuffle(len(examples), seed=seed, reshuffle_each_iteration=True)
            fields = fields.batch(batch_size)
        if not labelled:
            return fields.map(lambda batch: {name: batch[name] for name in ("text", "pair") if name in batch})
        # As it stands, since AutoGraph would bury errors in a traceback of its own.
        labelled_batch = tf.autograph.experimental.do_not_convert(lambda batch: self.labelled(batch, class_weight))
        return fields.map(labelled_batch, num_parallel_calls=tf.data.AUTOTUNE)

    def _split(self, x, y, sample_weight, share: float) -> tuple:
        """Returns training data (texts, labels, weights), and the last `share` of it as validation data."""
        if not 0 < share < 1:
            raise ValueError(f"validation_split: expected a share between 0 and 1, got {share}")
        if isinstance(x, tf.data.Dataset):
            raise ValueError("validation_split needs lists or a file; split a dataset with take and skip")
        examples = self.examples(x, y)
        cut = len(examples) - max(round(len(examples) * share), 1)
        if not cut:
            raise ValueError(f"validation_split: {share} of {len(examples)} texts leaves none to train on")
        weights, held = (None, None) if sample_weight is None else (sample_weight[:cut], sample_weight[cut:])
        return examples[:cut], None, weights, (examples[cut:], None, held)

    def examples(self, x, y=None, *, labelled: bool = True) -> Examples:
        """Returns whatever `fit` takes, but a dataset, as examples; TypeError for anything else."""
        return as_examples(x, y, label=self.label_field if labelled else None, pair=self.pair_field)

    def columns(self, examples: Examples, *, labelled: bool = True) -> dict[str, Any]:
        """Returns examples as tf.data takes them: `text`, and where there are any `pair` and `label`."""
        columns = {"text": examples.texts, "pair": examples.pairs}
        if labelled:
            columns["label"] = self.label_values(examples.labels)
        return {name: values for name, values in columns.items() if values is not None}

    def label_values(self, labels: list | None) -> Any:
        """Returns labels as the numbers that `inputs` expects, checked one by one; None for a task without labels."""
        return labels

    def labelled(self, batch: dict[str, tf.Tensor], class_weight: Mapping | None) -> dict[str, tf.Tensor]:
        """Returns a raw batch with names of labels made ids, and class weights multiplied into the weights."""
        return batch

    def inputs(self, batch: dict[str, tf.Tensor], *, training: bool, seed: tf.Tensor) -> tuple:
        """Returns (x, y, weights) of a raw batch: what `call` takes, and what the losses are made of; in the graph."""
        raise NotImplementedError(f"{type(self).__name__} has to say how texts become inputs")

    def batched(
        self, texts: tf.Tensor, pairs: tf.Tensor | None = None, *, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Returns texts as rows, the way `batching` says (see `batching.pack`)."""
        encoded = self.tokenizer.encode(texts, pairs, max_length=self.sequence_length)
        return self.rows(encoded.token_ids, encoded.type_ids, training=training)

    def rows(
        self, token_ids: tf.RaggedTensor, type_ids: tf.RaggedTensor, *, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Returns tokens [E,(L)] as rows, the way `batching` says (see `batching.pack`)."""
        layout = {"pad_id": self.tokenizer.pad_id or 0, "multiple": 16 if training else 1}
        if self.batching == "padded":
            return pad(token_ids, type_ids, **layout)
        row_length = min(self.row_length, self.sequence_length or self.row_length) if training else 1
        return pack(token_ids, type_ids, row_length=row_length, **layout)

    def prepared_dataset(
        self,
        raw: tf.data.Dataset,
        *,
        training: bool = False,
        per_step: int = 1,
        elsewhere: Elsewhere | None = None,
    ) -> tf.data.Dataset:
        """Returns the network's inputs for each raw batch; random choices depend on `seed` and the batch's number.

        While training, batches count from the steps done so far, `per_step` each: a second `fit` and a resumed run go on with
        other masks than the first steps had.
        """
        if is_prepared(raw):
            return raw
        if training:
            seeds = tf.data.Dataset.random(self.seed, rerandomize_each_iteration=True)
            seeds = seeds.skip(self._steps_done() * per_step)
        else:
            seeds = tf.data.Dataset.counter()
        inputs = tf.autograph.experimental.do_not_convert(
            lambda batch, number: self.inputs(
                batch, training=training, seed=tf.stack([self.seed, tf.cast(number, tf.int32)])
            )
        )

        def make(batches: tf.data.Dataset) -> tf.data.Dataset:
            return batches.map(inputs, num_parallel_calls=tf.data.AUTOTUNE)

        numbered = tf.data.Dataset.zip(raw, seeds)
        return untuned((make(numbered) if elsewhere is None else elsewhere(numbered, make)).prefetch(2))

    def distributed_dataset(
        self, raw: tf.data.Dataset | Shares, *, training: bool = False, elsewhere: Elsewhere | None = None
    ):
        """Returns the inputs as the strategy wants them: each global batch split evenly over the replicas.

        Batches are split as raw examples, before they are laid out in rows, so that global batch i has the same
        examples on any number of replicas.
        """
        strategy = self.distribute_strategy
        replicas = strategy.num_replicas_in_sync

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            worker, workers = context.input_pipeline_id, context.num_input_pipelines
            local = replicas // workers
            begin, parts = worker * local, replicas
            data = raw
            if isinstance(raw, Shares):
                begin, parts, data = 0, local, raw.of(worker, workers)
            if parts > 1:
                data = data.flat_map(
                    lambda *batch: tf.data.Dataset.range(begin, begin + local).map(
                        lambda part: _part(batch, part, parts)
                    )
                )
            through = None if elsewhere is None else functools.partial(elsewhere, worker=worker)
            return self.prepared_dataset(data, training=training, per_step=local, elsewhere=through)

        if replicas == 1:
            return of_worker(tf.distribute.InputContext())

        return strategy.distribute_datasets_from_function(of_worker)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset whose parallelism is what there are cores for, and not tuned while it runs.

    The thread that tunes sleeps for up to a minute and may miss that it is to end (TensorFlow 2.20: `CancellationManager` wakes
    it before it says so); whoever drops the iterator waits for it, such as a process that was asked to end.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def is_prepared(dataset: tf.data.Dataset | Shares) -> bool:
    """Returns whether a dataset's batches are network inputs already, rather than texts."""
    if isinstance(dataset, Shares):
        return True
    spec = dataset.element_spec
    first = spec[0] if isinstance(spec, tuple) else spec
    return isinstance(first, dict) and "token_ids" in first


def _named(dataset: tf.data.Dataset, *, words: bool = False) -> tf.data.Dataset:
    """Returns a user's dataset with its parts named; TypeError for one that does not hold batches of texts.

    With `words` a batch may be ragged, a list of words for each text.
    """
    spec = dataset.element_spec
    if isinstance(spec, dict) and "text" in spec and set(spec) <= {"text", "pair", "label", "weight"}:
        return dataset
    parts = spec if isinstance(spec, tuple) else (spec,)
    texts = parts[0]
    columns = list(texts.values()) if isinstance(texts, dict) else list(texts) if isinstance(texts, tuple) else [texts]
    right = (
        1 <= len(parts) <= 3
        and 1 <= len(columns) <= 2
        and all(isinstance(column, (tf.TensorSpec, tf.RaggedTensorSpec)) for column in columns)
        and all(column.dtype == tf.string for column in columns)
    )
    if not right:
        raise TypeError(f"dataset: expected elements of texts, (texts, labels) or (texts, labels, weights), got {spec}")
    ranks = (1, 2) if words else (1,)
    if any(
        column.shape.rank not in ranks or column.shape.rank != 1 + isinstance(column, tf.RaggedTensorSpec)
        for column in columns
    ):
        raise TypeError(f"dataset: expected batches of texts, got texts of shape {columns[0].shape}; add .batch(32)")

    def name(*element):
        texts, *others = element
        sides = (
            list(texts.values()) if isinstance(texts, dict) else list(texts) if isinstance(texts, tuple) else [texts]
        )
        return dict(zip(("text", "pair"), sides, strict=False)) | dict(zip(("label", "weight"), others, strict=False))

    return dataset.map(name)


def _part(batch: tuple, part: tf.Tensor, parts: int):
    """Returns the examples of a raw batch that replica `part` of `parts` computes."""
    batch = batch[0] if len(batch) == 1 else batch
    count = tf.shape(tf.nest.flatten(batch)[0], out_type=tf.int64)[0]
    return tf.nest.map_structure(lambda values: values[count * part // parts : count * (part + 1) // parts], batch)
