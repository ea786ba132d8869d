"""What a run learns from when it learns from a corpus: batches of rows, made into inputs and targets by an objective.

Batch i of a run is a function of the corpus, the seed and i alone, whatever the number of workers; a resumed run begins at the
batch that would have come next. Shapes: B rows of a batch, T places of a row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tasks import Task
from training.config import RunConfig
from training.corpora.mixture import RowOrder
from training.corpora.store import Corpus
from training.corpora.tokenizing import fingerprint, layout_of
from training.objectives import OBJECTIVES, objective
from training.paths import located

logger = logging.getLogger(__name__)

NATURAL = {"masked-lm-with-pairs": "next-sentence", "text-embedding": "contrastive"}
"""The objective of a task whose name is another's, where a config names none; of seq2seq-lm see `objective_name`."""

ROW = ("token_ids", "segment_ids", "positions", "sentence_ids")


def objective_name(config: RunConfig) -> str:
    """Returns the name of a run's objective: the config's, or else the one that its task is usually trained with.

    Raises ValueError for a task that no objective of corpora suits.
    """
    name = config.objective.get("name")
    if name is None and config.task == "seq2seq-lm":
        name = "span-corruption" if str(config.model.family).endswith("t5") else "denoising"
    name = name or NATURAL.get(config.task, config.task)
    if name not in OBJECTIVES:
        raise ValueError(f'objective.name: expected one of {", ".join(OBJECTIVES)}, got "{name}"')
    if OBJECTIVES[name].task != config.task:
        raise ValueError(
            f'objective.name: "{name}" is learnt by task "{OBJECTIVES[name].task}", and the task is "{config.task}"'
        )
    return name


class CorpusBatches:
    """The batches of a run that learns from a built corpus.

    Raises FileNotFoundError and ValueError, one line each, for a directory that is no corpus, and for one of another tokenizer,
    layout or length than the run wants.
    """

    def __init__(self, config: RunConfig, model: Task, corpus: Corpus):
        self.corpus = corpus
        self.batch_size, self.seed = config.training.batch_size, config.training.seed
        name = objective_name(config)
        options = {key: value for key, value in config.objective.items() if key != "name"}
        self.objective = objective(name, model.tokenizer, **options).for_task(model)
        self._check(config, model, name)
        index = self.corpus.index
        weights = config.data.weights or index.weights
        unknown = [source for source in weights if source not in self.corpus.sources("train")]
        if unknown and config.data.weights:
            known = ", ".join(self.corpus.sources("train"))
            raise ValueError(f'data.weights: the corpus has no source "{unknown[0]}"; it has {known}')
        temperature = config.data.temperature or index.temperature
        self._order = RowOrder(self.corpus.sources("train"), seed=self.seed, weights=weights, temperature=temperature)

    def _check(self, config: RunConfig, model: Task, name: str) -> None:
        index, where = self.corpus.index, config.data.corpus
        if fingerprint(model.tokenizer) != index.tokenizer:
            raise ValueError(
                f"{where}: built with another tokenizer ({index.vocabulary_size:,} tokens) than the model's "
                f"({model.tokenizer.vocabulary_size:,}); build the corpus again with tokenizer: the model's directory"
            )
        wanted = layout_of(model.tokenizer, self.objective.layout)
        if wanted != index.layout:
            raise ValueError(
                f'{where}: built with layout "{index.layout.name}", and objective "{name}" reads "{wanted.name}"; '
                f"build the corpus again with layout: {wanted.name}"
            )
        length = config.training.sequence_length
        if length is not None and length != index.sequence_length:
            raise ValueError(
                f"training.sequence_length: {length}, and the rows of {where} have {index.sequence_length} places; leave it "
                "out, or build the corpus again"
            )
        longest = model.backbone.config.longest
        if longest and index.sequence_length > longest:
            raise ValueError(
                f"{where}: rows of {index.sequence_length} places, the network has positions for {longest}"
            )

    @property
    def per_pass(self) -> int:
        """Steps in which as many rows are drawn as the corpus has."""
        return max(-(-self.corpus.rows("train") // self.batch_size), 1)

    @property
    def tokens_per_step(self) -> float:
        """Real places of a batch, in the mean."""
        return self.batch_size * self.corpus.tokens("train") / max(self.corpus.rows("train"), 1)

    def training(self, first: int = 0) -> tf.data.Dataset:
        """Returns the endless batches (x, y, weights) from step `first` on."""

        def batches() -> Iterator[dict[str, np.ndarray]]:
            step = first
            while True:
                draws = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
                yield self.corpus.batch("train", self._order.numbers(draws))
                step += 1

        return self._made(batches, self.seed, first)

    def validation(self, rows: int | None = None) -> tf.data.Dataset | None:
        """Returns batches of held-out rows, `rows` at most, always the same and with the same masks; None without any."""
        count = self.corpus.rows("validation")
        if not count:
            return None
        # What is first in a shard is of one kind: a random choice is of all.
        numbers = RowOrder({"all": count}, seed=0).numbers(np.arange(min(count, rows or count)))

        def batches() -> Iterator[dict[str, np.ndarray]]:
            for begin in range(0, len(numbers), self.batch_size):
                yield self.corpus.batch("validation", numbers[begin : begin + self.batch_size])

        return self._made(batches, 0, 0)

    def _made(self, batches, seed: int, first: int) -> tf.data.Dataset:
        signature = {name: tf.TensorSpec([None, self.corpus.index.sequence_length], tf.int32) for name in ROW}
        learn = tf.autograph.experimental.do_not_convert(
            lambda step, rows: self.objective(rows, tf.stack([seed, tf.cast(step, tf.int32)]))
        )
        data = tf.data.Dataset.from_generator(batches, output_signature=signature).enumerate(start=first)
        return data.map(learn, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4)

    def report(self, model: Task) -> dict[str, Any] | None:
        """Returns a language model's loss and metrics on all held-out rows; None without any.

        Of causal language models `bits_per_byte` too: what a byte of the held-out texts (UTF-8) is compressed to.
        """
        data = self.validation()
        if data is None:
            return None
        results = model.evaluate(data, verbose=0, return_dict=True)
        results = {name: float(value) for name, value in results.items() if name != "real_tokens_per_second"}
        shards = self.corpus.index.of_split("validation")
        given = {"task": model.name_in_configs, "rows": self.corpus.rows("validation")}
        if self.objective.layout == "causal":
            targets = sum(float(tf.reduce_sum(weights)) for _, _, weights in data)
            size = sum(shard.text_bytes for shard in shards)
            results["bits_per_byte"] = results["loss"] * targets / math.log(2) / max(size, 1)
        return given | results


def check_objective(config: RunConfig) -> None:
    """Raises ValueError, one line, for an objective that a run's config names and cannot have."""
    if config.data.corpus is None and config.objective:
        raise ValueError("objective: only for runs that learn from a corpus (data.corpus)")
    if config.data.corpus is not None:
        objective_name(config)
        if not Path(located(config.data.corpus)).exists():
            raise FileNotFoundError(f"{config.data.corpus}: no such corpus; build it with garden corpus build")
