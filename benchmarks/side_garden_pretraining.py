"""Garden's side of pre-training: rows for every side, `MaskedLM`'s training step, and the way from raw texts to its batches."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import garden
from benchmarks.masked_rows import MaskedRows, grouped, masked_places
from benchmarks.stepping import Stepping
from benchmarks.turns import timed
from garden.models.bert import BertBackbone, BertConfig
from training.config import make_config
from training.pretraining import corpus_batches

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
PRODUCT = 2048  # rows and columns of the matrices whose product is the machine's rate


class Rows:
    """Makes the rows that every side trains on."""

    def __init__(self, *, tokenizer: str):
        self._tokenizer = garden.Tokenizer.from_pretrained(tokenizer)

    def make(
        self, *, texts: str, field: str, path: str, rows: int, length: int, rate: float, seed: int
    ) -> dict[str, Any]:
        """Writes `rows` rows of a JSONL file's texts to `path`, and returns the vocabulary's size."""
        examples = garden.read_examples(texts, text=field, label=None).texts
        ids, read = [], 0
        for start in range(0, len(examples), 1024):
            ids += self._tokenizer(examples[start : start + 1024]).to_list()
            read = sum(map(len, ids))
            if read >= rows * length:
                break
        made = grouped(
            ids,
            rows=rows,
            length=length,
            rate=rate,
            mask_id=self._tokenizer.mask_id,
            special_ids=self._tokenizer.special_ids,
            vocabulary_size=self._tokenizer.vocabulary_size,
            seed=seed,
        )
        made.save(path)
        return {
            "vocabulary_size": self._tokenizer.vocabulary_size,
            "masked_places": masked_places(length, rate),
            "texts_a_row": round(float((made.segment_ids[:, -1]).mean()), 2),
        }


class PreTraining(Stepping):
    """Trains a masked language model a few steps a turn, on the rows of all sides, or on raw texts (source "texts")."""

    variants = ("MaskedLM",)

    def __init__(self, *, precision: str, threads: int, tokenizer: str, texts: str, field: str, rate: float, **options):
        use_threads(threads)
        self._policy, self._directory = POLICIES[precision], tokenizer
        self._texts, self._field, self._rate = texts, field, rate
        super().__init__(**options)

    def stepper(self, variant: str):
        self._model = network(self._directory, self, dtype=self._policy)
        self._model.compile(learning_rate=self.learning_rate)
        function = self._model.make_train_function()
        data = iter(tf.data.Dataset.from_tensor_slices(inputs(self.rows)).batch(self.batch_rows, True).cache().repeat())
        return lambda: function(data)

    def prepare(self, *, warm_up: int) -> dict[str, Any]:
        """As every side's; and warms up on raw texts too."""
        prepared = super().prepare(warm_up=warm_up)
        function = self._model.make_train_function()
        self._raw = batches(self, self._model, self._directory, self._texts, self._field, self._rate)
        data = iter(self._raw)
        self._steps["texts"] = lambda: function(data)
        for _ in range(3):
            self._steps["texts"]()
        return {**prepared, "parameters": self._model.count_params()}

    def products(self, *, repetitions: int = 20) -> dict[str, float]:
        """Returns the machine's rate of large matrix products, FLOP/s by precision: the best of several."""
        rates = {}
        for name in POLICIES:
            x = tf.cast(tf.random.normal([PRODUCT, PRODUCT]), name)
            product = tf.function(lambda x=x: tf.matmul(x, x), autograph=False)
            product()
            rates[name] = 2 * PRODUCT**3 / min(timed(product) for _ in range(repetitions))
        return rates


class Pipeline:
    """Makes batches of raw texts on one core, and trains nothing."""

    def __init__(self, *, tokenizer: str, texts: str, field: str, rate: float, **sizes):
        use_one_core()
        self._sizes = _Sizes(**sizes)
        # A network in name only: the batches ask it for its tokenizer and the length of its rows.
        model = network(tokenizer, _Sizes(**{**sizes, "layers": 1, "width": 8, "heads": 1, "inner_width": 8}))
        self._data = iter(batches(self._sizes, model, tokenizer, texts, field, rate))

    def measure(self, *, tokens: int) -> dict[str, float]:
        """Returns the real tokens a second of so many of them; the first batches, for which buffers fill, are not counted."""
        for _ in range(3):
            next(self._data)
        begin, made = time.perf_counter(), 0
        while made < tokens:
            x = next(self._data)[0]
            made += int(tf.math.count_nonzero(x["segment_ids"]))
        return {"tokens": made, "tokens_per_second": made / (time.perf_counter() - begin)}


class _Sizes:
    """What a network and its batches are made of, as `Stepping` has them."""

    def __init__(self, *, layers, width, heads, inner_width, vocabulary_size, batch_rows, length, seed):
        self.layers, self.width, self.heads, self.inner_width = layers, width, heads, inner_width
        self.vocabulary_size, self.batch_rows, self.length, self.seed = vocabulary_size, batch_rows, length, seed


def network(directory: str, sizes, *, dtype: str = "float32") -> garden.MaskedLM:
    """Returns a new BERT of these sizes."""
    keras.utils.set_random_seed(sizes.seed)
    config = BertConfig(
        vocab_size=sizes.vocabulary_size,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.inner_width,
    )
    backbone = BertBackbone(config, pooler=False, dtype=dtype)
    return garden.MaskedLM.build_on(backbone, garden.Tokenizer.from_pretrained(directory), seed=sizes.seed)


def batches(sizes, model: garden.MaskedLM, tokenizer: str, texts: str, field: str, rate: float) -> tf.data.Dataset:
    """Returns the batches of a run that reads raw texts as it goes."""
    corpus = {"sources": [{"name": "texts", "paths": [str(Path(texts).absolute())], "text": field}]}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "corpus.yaml"
        # JSON is YAML.
        path.write_text(json.dumps({**corpus, "sequence_length": sizes.length, "tokenizer": tokenizer}))
        config = make_config(
            {
                "task": "masked-lm",
                "model": {"family": "bert", "config": {}, "tokenizer": tokenizer},
                "data": {"corpus": str(path)},
                "objective": {"name": "masked-lm", "mask_rate": rate},
                "training": {"steps": 1, "batch_size": sizes.batch_rows, "seed": sizes.seed},
                "output": directory,
            }
        )
        return corpus_batches(config, model).training()


def inputs(rows: MaskedRows) -> tuple:
    """Returns all rows as the task's inputs, targets and weights."""
    names = ("token_ids", "segment_ids", "positions", "mask_positions")
    return {name: getattr(rows, name) for name in names}, rows.mask_ids, tf.ones(rows.mask_ids.shape)


def use_threads(threads: int) -> None:
    """Sets how many threads an operation of this process takes."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)


def use_one_core() -> None:
    """Keeps this process on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    use_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
