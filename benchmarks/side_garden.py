"""Garden's sides: `TextClassifier.fit` on raw texts, and a SavedModel that answers strings, here or behind a server."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import keras
import tensorflow as tf

import garden
import serving
from benchmarks.material import LABELS, reviews, text_batches
from benchmarks.turns import latencies
from serving.client import Client
from serving.server import Server

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
MODEL_NAME = "sentiment"


class FineTuning:
    """Trains a classifier by `fit`, a few steps a turn, or to the end.

    The turns are one call of `fit` on raw texts, in a thread that a callback holds up between turns. So a turn's time has
    all that `fit` does in it: reading, tokenising, packing, metrics, callbacks.
    """

    def __init__(
        self,
        *,
        model: str,
        precision: str,
        threads: int,
        sequence_length: int,
        batch_size: int,
        learning_rate: float,
        options: dict[str, Any] | None = None,
    ):
        _use_threads(threads)
        self._directory, self._batch_size, self._learning_rate = model, batch_size, learning_rate
        # `options` are TextClassifier's own, such as batching; its defaults are what users get.
        self._options = {"dtype": POLICIES[precision], "sequence_length": sequence_length, **(options or {})}

    def prepare(self, *, train: str, warm_up: int, turns: int, steps: int, seed: int) -> dict[str, Any]:
        """Starts `fit` on the texts of all turns and lets it do the warm-up's steps, tracing among them."""
        texts, labels = reviews(train, (warm_up + turns * steps) * self._batch_size, seed=seed)
        model = self._model(seed)
        self._tokens, padding = self._count(model, texts[warm_up * self._batch_size :], steps)
        self._hold = _HoldUp({warm_up + turn * steps for turn in range(turns + 1)})

        def fit() -> None:
            try:
                model.fit(texts, labels, self._batch_size, shuffle=False, verbose=0, callbacks=[self._hold])
            except Exception as error:  # handed to the thread that waits for a turn, which would wait forever
                self._hold.arrived.put(error)

        self._fit = threading.Thread(target=fit, daemon=True)
        self._fit.start()
        self._hold.wait()
        return {
            "variant": f"fit, {_described(model)}",
            "first_step_seconds": round(self._hold.first_step_seconds, 3),
            "tokenizing_seconds_not_in_rates": 0.0,
            "padding_share": round(padding, 3),
        }

    def turn(self) -> dict[str, Any]:
        """Lets `fit` train on the next batches."""
        begin = time.perf_counter()
        self._hold.go.set()
        self._hold.wait()
        seconds = time.perf_counter() - begin
        tokens = self._tokens.pop(0)
        return {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}

    def train(self, *, train: str, test: str, epochs: int, seed: int) -> dict[str, Any]:
        """Trains to the end, and returns accuracy on the test file."""
        texts, labels = reviews(train)
        model = self._model(seed)
        begin = time.perf_counter()
        model.fit(texts, labels, self._batch_size, epochs=epochs, verbose=0)
        seconds = time.perf_counter() - begin
        accuracy = model.evaluate(*reviews(test), verbose=0, return_dict=True)["accuracy"]
        tokens = epochs * self._count(model, texts, len(texts))[0][0]
        return {"accuracy": float(accuracy), "seconds": seconds, "tokens_per_second": tokens / seconds}

    def _model(self, seed: int) -> garden.TextClassifier:
        model = garden.TextClassifier.from_pretrained(
            self._directory, labels=LABELS, new_head=True, seed=seed, **self._options
        )
        model.compile(learning_rate=self._learning_rate)
        return model

    def _count(self, model: garden.TextClassifier, texts: list[str], steps: int) -> tuple[list[int], float]:
        """Returns the real tokens of each turn of `steps` batches, and padding's share of all places computed."""
        raw = model.raw_dataset(texts, [0] * len(texts), batch_size=self._batch_size)
        segments = [x["segment_ids"].numpy() for x, *_ in model.prepared_dataset(raw, training=True)]
        real = [int((ids > 0).sum()) for ids in segments]
        turns = [sum(real[start : start + steps]) for start in range(0, len(real), steps)]
        return turns, 1 - sum(real) / sum(ids.size for ids in segments)


class _HoldUp(keras.callbacks.Callback):
    """Stops `fit` after certain numbers of steps until `go` is set."""

    def __init__(self, stops: set[int]):
        super().__init__()
        self._stops = stops
        self._last = max(stops)
        self.arrived: queue.Queue[Exception | None] = queue.Queue()
        self.go = threading.Event()
        self.first_step_seconds = 0.0

    def wait(self) -> None:
        """Returns when `fit` has come to the next stop; raises what it raised."""
        error = self.arrived.get()
        if error is not None:
            raise error

    def on_train_begin(self, logs=None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        if batch == 0:
            self.first_step_seconds = time.perf_counter() - self._begin
        if batch + 1 in self._stops:
            self.go.clear()
            self.arrived.put(None)
            if batch + 1 < self._last:
                self.go.wait()


class Exported:
    """Exports a checkpoint, and answers texts in this process with what was exported."""

    def __init__(self, *, model: str, precision: str, threads: int, sequence_length: int):
        _use_threads(threads)
        self._classifier = garden.TextClassifier.from_pretrained(
            model, labels=LABELS, dtype=POLICIES[precision], sequence_length=sequence_length
        )

    def save(self, *, directory: str) -> None:
        """Writes the checkpoint, its new head included, for other sides to open."""
        self._classifier.save_pretrained(directory)

    def export(self, *, base: str) -> dict[str, Any]:
        """Exports the model below `base`, and loads the SavedModel."""
        begin = time.perf_counter()
        directory = serving.export(self._classifier, base)
        exported = time.perf_counter()
        # The module has to live as long as its signature.
        self._loaded = tf.saved_model.load(str(directory))
        self._signature = self._loaded.signatures["serving_default"]
        return {"export_seconds": round(exported - begin, 2), "load_seconds": round(time.perf_counter() - exported, 2)}

    def prepare(self, *, test: str, calls: dict[str, int], seed: int) -> dict[str, Any]:
        """Warms up with as many calls as the reference's variants had each, warm-up and trial."""
        return _warmed_up(self, test, calls, seed)

    def turn(self, *, test: str, batch_size: int, calls: int, seed: int) -> dict[str, Any]:
        """Answers `calls` batches, drawn with `seed`."""
        return latencies(self._answer, text_batches(test, batch_size, calls, seed=seed))

    def answers(self, *, texts: list[str]) -> list[tuple[str, float]]:
        """Returns each text's label and score."""
        return self._answer(texts)

    def _answer(self, texts: list[str]) -> list[tuple[str, float]]:
        given = self._signature(text=tf.constant(texts))
        return [
            (label.decode(), score)
            for label, score in zip(given["label"].numpy().tolist(), given["score"].numpy().tolist(), strict=True)
        ]


class Serving:
    """A server of an export, in a process of its own."""

    def __init__(self, *, base: str, threads: int):
        _use_threads(threads)
        self._server = Server({MODEL_NAME: base}, port=0, grpc_port=0)
        self._server.start()

    def addresses(self) -> dict[str, str]:
        """Returns where it listens, as `Client` takes it."""
        return {"url": self._server.url, "grpc": self._server.grpc_address}


class Asking:
    """Answers texts by asking a server, with Garden's client."""

    def __init__(self, *, url: str = "", grpc: str | None = None):
        self._client = Client(url, grpc)

    def prepare(self, *, test: str, calls: dict[str, int], seed: int) -> dict[str, Any]:
        """Warms up as the other sides do."""
        return _warmed_up(self, test, calls, seed)

    def turn(self, *, test: str, batch_size: int, calls: int, seed: int) -> dict[str, Any]:
        """Asks `calls` batches, drawn with `seed`."""
        return latencies(self._answer, text_batches(test, batch_size, calls, seed=seed))

    def answers(self, *, texts: list[str]) -> list[tuple[str, float]]:
        """Returns each text's label and score."""
        return self._answer(texts)

    def _answer(self, texts: list[str]) -> list[tuple[str, float]]:
        given = self._client.predict(MODEL_NAME, {"text": texts})
        return list(zip(given["label"].tolist(), given["score"].tolist(), strict=True))


def _warmed_up(side: Exported | Asking, test: str, calls: dict[str, int], seed: int) -> dict[str, Any]:
    for size, count in calls.items():
        side.turn(test=test, batch_size=int(size), calls=2 * count, seed=seed)
    return {}


def _described(model: garden.TextClassifier) -> str:
    if model.batching == "packed":
        return f"packed, rows of {model.row_length}"
    return model.batching


def _use_threads(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
