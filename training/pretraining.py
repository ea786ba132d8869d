"""What a run learns from when it learns from a corpus: batches of rows, made into inputs and targets by an objective.

Batch i of a run is a function of the corpus, the seed, the number of shards and i alone, whatever the number of workers; a
resumed run begins at the batch that would have come next. A batch's shards are made apart, each from rows of its own, and
stand one behind the other in it: a worker makes those alone that it computes. Shapes: B rows of a batch, T places of a row.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tasks import Task
from garden.tasks.inputs import untuned
from garden.tokenizers import Tokenizer
from training.cluster import check_shards
from training.config import RunConfig
from training.corpora.config import read_corpus_config
from training.corpora.mixture import RowOrder
from training.corpora.store import Corpus
from training.corpora.streaming import StreamedRows
from training.corpora.tokenizing import fingerprint, layout_of
from training.objectives import OBJECTIVES, objective
from training.paths import located

logger = logging.getLogger(__name__)

NATURAL = {"masked-lm-with-pairs": "next-sentence", "text-embedding": "contrastive"}
"""The objective of a task whose name is another's, where a config names none; of seq2seq-lm see `objective_name`."""

Rows = dict[str, np.ndarray]
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
    """The batches of a run that learns from a corpus; a subclass says where rows come from.

    Raises FileNotFoundError and ValueError, one line each, for what is no corpus, and for one that does not suit the run.
    """

    per_pass: int | None = None
    """Steps in which as many rows are drawn as the corpus has; None where nobody has counted them."""

    def __init__(self, config: RunConfig, model: Task, length: int):
        self.name = objective_name(config)
        self.path = config.data.corpus
        self.batch_size, self.seed, self.length = config.training.batch_size, config.training.seed, length
        self.shards = config.data.shards
        options = {key: value for key, value in config.objective.items() if key != "name"}
        self.objective = objective(self.name, model.tokenizer, **options).for_task(model)
        asked, longest = config.training.sequence_length, model.backbone.config.longest
        if asked is not None and asked != length:
            raise ValueError(
                f"training.sequence_length: {asked}, and the rows of {self.path} have {length} places; leave it out, or make "
                "the corpus's the same"
            )
        if longest and length > longest:
            raise ValueError(f"{self.path}: rows of {length} places, the network has positions for {longest}")

    @property
    def tokens_per_step(self) -> float:
        """Real places of a batch, in the mean."""
        return self.batch_size * self.length

    def rows(self, first: int, shard: int) -> Iterator[Rows]:
        """Yields a shard's rows of each batch without end, from step `first` on."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its rows come from")

    def held_out(self, rows: int | None) -> Sequence[Any]:
        """Returns what `held_out_batch` makes batches of: of held-out rows, `rows` at most, always the same."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its rows come from")

    def held_out_batch(self, part: Any) -> Rows:
        """Returns one of the batches of `held_out`."""
        return part

    def training(self, first: int = 0, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
        """Returns the endless batches (x, y, weights) from step `first` on, or a worker's share of each.

        Raises ValueError where the number of workers does not divide that of the shards.
        """
        check_shards(self.shards, workers)
        mine = self.shards // workers
        shards = range(worker * mine, (worker + 1) * mine)

        def turns() -> Iterator[Rows]:
            return itertools.chain.from_iterable(zip(*(self.rows(first, shard) for shard in shards), strict=True))

        def seed(number: tf.Tensor) -> tf.Tensor:
            whole = tf.stack([self.seed, first + number // mine])
            if self.shards == 1:
                return whole
            return tf.random.experimental.stateless_fold_in(whole, shards.start + number % mine)

        data = self._made(turns, seed, rows=self.batch_size // self.shards)
        return data if mine == 1 else self._joined(data, mine)

    def _joined(self, data: tf.data.Dataset, shards: int) -> tf.data.Dataset:
        """Returns batches of so many shards each, whose rows are as wide as the widest one's."""

        def empty(spec: tf.TensorSpec, value: int = 0) -> tf.Tensor:
            return tf.constant(value, spec.dtype)

        def flat(values: tf.Tensor) -> tf.Tensor:
            rows = None if values.shape[1] is None else shards * values.shape[1]
            joined = tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], axis=0))
            return tf.ensure_shape(joined, [rows, *values.shape[2:]])

        x, *others = data.element_spec
        pad_id = self.objective.tokenizer.pad_id or 0
        x = {name: empty(spec, pad_id if name in ("token_ids", "target_ids") else 0) for name, spec in x.items()}
        padding = (x, *tf.nest.map_structure(empty, others))
        return data.padded_batch(shards, padding_values=padding, drop_remainder=True).map(
            lambda *parts: tf.nest.map_structure(flat, parts)
        )

    def validation(self, rows: int | None = None) -> tf.data.Dataset | None:
        """Returns batches of held-out rows, `rows` at most, always the same and with the same masks; None without any."""
        parts = self.held_out(rows)
        if not len(parts):
            return None
        data = self._made(lambda: map(self.held_out_batch, parts), lambda number: tf.stack([0, number]))
        # Keras warns of data that end where it had not been told of their length.
        return data.apply(tf.data.experimental.assert_cardinality(len(parts)))

    def _made(
        self, batches: Callable[[], Iterator[Rows]], seed: Callable[[tf.Tensor], tf.Tensor], rows: int | None = None
    ) -> tf.data.Dataset:
        """Returns what the objective makes of batches of rows; `seed` is a function of their numbers from 0."""
        # Shapes that are known let the training step take its compiled clusters.
        signature = {name: tf.TensorSpec([rows, self.length], tf.int32) for name in ROW}
        learn = tf.autograph.experimental.do_not_convert(
            lambda number, rows: self.objective(rows, seed(tf.cast(number, tf.int32)))
        )
        data = tf.data.Dataset.from_generator(batches, output_signature=signature).enumerate()
        return untuned(data.map(learn, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(4))

    def report(self, model: Task) -> dict[str, Any] | None:
        """Returns a language model's loss and metrics on all held-out rows; None without any."""
        data = self.validation()
        if data is None:
            return None
        results = model.evaluate(data, verbose=0, return_dict=True)
        results = {name: float(value) for name, value in results.items() if name != "real_tokens_per_second"}
        return {"task": model.name_in_configs, **results}


class BuiltBatches(CorpusBatches):
    """The batches of a built corpus: any step's at once."""

    def __init__(self, config: RunConfig, model: Task):
        self.corpus = Corpus(located(config.data.corpus))
        index = self.corpus.index
        super().__init__(config, model, index.sequence_length)
        if fingerprint(model.tokenizer) != index.tokenizer:
            raise ValueError(
                f"{self.path}: built with another tokenizer ({index.vocabulary_size:,} tokens) than the model's "
                f"({model.tokenizer.vocabulary_size:,}); build the corpus again with tokenizer: the model's directory"
            )
        wanted = layout_of(model.tokenizer, self.objective.layout)
        if wanted != index.layout:
            raise ValueError(
                f'{self.path}: built with layout "{index.layout.name}", and objective "{self.name}" reads "{wanted.name}"; '
                f"build the corpus again with layout: {wanted.name}"
            )
        sizes = self.corpus.sources("train")
        weights = config.data.weights or index.weights
        _check_weights(config, sizes)
        if not self.corpus.rows("train"):
            raise ValueError(f"{self.path}: the corpus has no rows to train on")
        temperature = config.data.temperature or index.temperature
        self._order = RowOrder(sizes, seed=self.seed, weights=weights, temperature=temperature)
        self.per_pass = -(-self.corpus.rows("train") // self.batch_size)

    @property
    def tokens_per_step(self) -> float:
        return self.batch_size * self.corpus.tokens("train") / self.corpus.rows("train")

    def rows(self, first: int, shard: int) -> Iterator[Rows]:
        size = self.batch_size // self.shards
        for step in itertools.count(first):
            begin = step * self.batch_size + shard * size
            draws = np.arange(begin, begin + size)
            yield self.corpus.batch("train", self._order.numbers(draws))

    def held_out(self, rows: int | None) -> list[np.ndarray]:
        count = self.corpus.rows("validation")
        if not count:
            return []
        # The first rows of a shard are of one kind: a random choice is of all.
        numbers = RowOrder({"all": count}, seed=0).numbers(np.arange(min(count, rows or count)))
        return np.split(numbers, range(self.batch_size, len(numbers), self.batch_size))

    def held_out_batch(self, part: np.ndarray) -> Rows:
        return self.corpus.batch("validation", part)

    def report(self, model: Task) -> dict[str, Any] | None:
        """As every corpus's; of causal language models `bits_per_byte` too: what a byte of the held-out texts (UTF-8) takes."""
        results = super().report(model)
        if results is None:
            return None
        results["rows"] = self.corpus.rows("validation")
        if self.objective.layout == "causal":
            targets = sum(float(tf.reduce_sum(weights)) for _, _, weights in self.validation())
            size = sum(shard.text_bytes for shard in self.corpus.index.of_split("validation"))
            results["bits_per_byte"] = results["loss"] * targets / math.log(2) / max(size, 1)
        return results


class StreamedBatches(CorpusBatches):
    """The batches of a corpus config, whose files are read as the training goes."""

    def __init__(self, config: RunConfig, model: Task):
        path = located(config.data.corpus)
        corpus = read_corpus_config(path)
        super().__init__(config, model, corpus.sequence_length)
        directory = config.model.tokenizer or config.model.pretrained
        # As in built corpora, a special token that a text happens to spell is text.
        tokenizer = Tokenizer.from_pretrained(located(directory), split_special_tokens=True)
        if (
            corpus.tokenizer
            and corpus.tokenizer != directory
            and fingerprint(Tokenizer.from_pretrained(located(corpus.tokenizer))) != fingerprint(model.tokenizer)
        ):
            raise ValueError(
                f"{path}: tokenizer: {corpus.tokenizer} is another tokenizer than the model's ({directory}); name the model's, "
                "or leave the key out"
            )
        _check_weights(config, [source.name for source in corpus.sources])
        weights = config.data.weights or {}
        sources = [
            dataclasses.replace(source, weight=weights.get(source.name, source.weight)) for source in corpus.sources
        ]
        corpus = dataclasses.replace(corpus, sources=sources, temperature=config.data.temperature or corpus.temperature)
        layout = layout_of(model.tokenizer, self.objective.layout)
        self._rows = StreamedRows(corpus, tokenizer, layout, seed=self.seed)
        self._most = config.data.validation_rows

    def rows(self, first: int, shard: int) -> Iterator[Rows]:
        if first:
            logger.info("reading again the rows of %d steps", first)
        return itertools.islice(self._rows.training(self.batch_size // self.shards, shard, self.shards), first, None)

    @functools.cached_property
    def _held_out(self) -> list[Rows]:
        return self._rows.validation(self.batch_size, self._most)

    def held_out(self, rows: int | None) -> list[Rows]:
        # Read once, `data.validation_rows` of them: nobody knows how many there are in all.
        return self._held_out


def corpus_batches(config: RunConfig, model: Task) -> CorpusBatches:
    """Returns the batches of a run with `data.corpus`; errors as `CorpusBatches`."""
    streamed = located(config.data.corpus).suffix in (".yaml", ".yml")
    return (StreamedBatches if streamed else BuiltBatches)(config, model)


def _check_weights(config: RunConfig, sources: Iterable[str]) -> None:
    for name in config.data.weights or ():
        if name not in sources:
            raise ValueError(f'data.weights: the corpus has no source "{name}"; it has {", ".join(sources)}')


def check_corpus(config: RunConfig) -> None:
    """Raises FileNotFoundError or ValueError, one line, for what can be known of `data.corpus` before a model is made."""
    objective_name(config)
    if not located(config.data.corpus).exists():
        raise FileNotFoundError(f"{config.data.corpus}: no such corpus; build it with garden corpus build")
