"""What happens between the steps of a run: metrics are written, the model is validated, checkpoints are saved.

Every worker runs these callbacks, since reading metrics and validating takes all of them; only the chief's write files.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from garden.tasks import Examples, Task
from training.output import Metrics

logger = logging.getLogger(__name__)

_RATE = "real_tokens_per_second"


class _StepCallback(keras.callbacks.Callback):
    """Calls `at_step` after each step with its number in the whole run, which counts from 1."""

    def __init__(self, first: int):
        super().__init__()
        self.step = first

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.at_step(self.step, logs or {})

    def is_last(self, step: int, total: int) -> bool:
        """Whether no step follows: of a run's budget of tokens, the end is known when it is reached."""
        return step == total or self.model.stop_training

    def at_step(self, step: int, logs: dict) -> None:
        raise NotImplementedError(f"{type(self).__name__} has to say what happens at a step")


class LogMetrics(_StepCallback):
    """Writes a line every few steps: `step`, metrics, `learning_rate`, `tokens` and `real_tokens_per_second`.

    `tokens` are the real ones that the run has learnt from so far.

    Metrics and speed are means over the steps since the last line: the model's metrics start anew with each, which also
    keeps their float32 sums small. The speed leaves out what `paused` does, and the first step, in which TensorFlow compiles,
    unless there is a line for that alone.

    Raises ValueError when the loss is not a finite number any more.
    """

    def __init__(self, metrics: Metrics, schedule, *, every: int, total: int, first: int = 0, tokens: int = 0):
        super().__init__(first)
        self._tokens_before = tokens
        self.metrics, self.schedule, self.every, self.total = metrics, schedule, every, total
        self._first_step = first + 1
        self._began = self._tokens_seen = 0.0

    def on_train_begin(self, logs=None):
        self._began = time.perf_counter()

    @property
    def tokens(self) -> int:
        """Real tokens that the run has learnt from so far."""
        return self._tokens_before + round(self._tokens())

    def at_step(self, step, logs):
        last = self.is_last(step, self.total)
        if step % self.every and not last:
            if step == self._first_step:
                self._began, self._tokens_seen = time.perf_counter(), self._tokens()
            return
        values = {name: float(value) for name, value in logs.items() if name != _RATE}
        speed = (self._tokens() - self._tokens_seen) / max(time.perf_counter() - self._began, 1e-9)
        rate = float(self.schedule(step - 1))
        if not math.isfinite(values["loss"]):
            loss = values["loss"]
            raise ValueError(f"step {step}: the loss is {loss}; lower training.learning_rate ({rate:.3g} here)")
        line = {"step": step, **values, "learning_rate": rate, "tokens": self.tokens, _RATE: round(speed, 1)}
        self.metrics.write(line)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
        logger.info("step %d of %d: %s", step, self.total, shown)
        if not last:  # the progress bar shows the metrics once more
            self._tokens_before = self.tokens
            self.model.reset_metrics()
        self._began, self._tokens_seen = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time in its block, and gives the model's metrics back the values that they have now."""
        began = time.perf_counter()
        variables = [variable for metric in self.model.metrics for variable in metric.variables]
        values = [variable.numpy() for variable in variables]
        yield
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._began += time.perf_counter() - began

    def _tokens(self) -> float:
        return next(float(metric.result()) for metric in self.model.metrics if metric.name == "real_tokens")


class Validate(_StepCallback):
    """Validates every few steps and after the last, keeps the best weights, and ends a run that gets no better.

    Args:
        examples: what to validate with, or a dataset of prepared batches.
        best_metric: which of the model's metrics says what is best; names that end in "loss", "error" or "perplexity" are best
            when low.
        keep_best: called with the step of weights that are the best so far.
        patience: validations without a better one before training stops; None: never.
        log: is told when validation takes place.
    """

    def __init__(
        self,
        examples: Examples | tf.data.Dataset,
        metrics: Metrics,
        log: LogMetrics,
        *,
        every: int,
        total: int,
        first: int = 0,
        batch_size: int,
        best_metric: str,
        keep_best,
        patience: int | None = None,
    ):
        super().__init__(first)
        self.examples, self.metrics, self.log, self.batch_size = examples, metrics, log, batch_size
        self._data: Any = examples
        self.every, self.total, self.patience, self.keep_best = every, total, patience, keep_best
        self.name = f"validation_{best_metric}"
        self._sign = -1 if best_metric.endswith(("loss", "error", "perplexity")) else 1
        self.best_step: int | None = None
        self._best, self._waited = -math.inf, 0
        for line in metrics.lines:  # of an interrupted run
            if self.name in line:
                self._judge(line)

    def on_train_begin(self, logs=None):
        # Tracing the inputs takes a second: once is enough. Several replicas split batches of texts, not of rows.
        prepared = isinstance(self.examples, tf.data.Dataset)
        if self.model.distribute_strategy.num_replicas_in_sync == 1 and not prepared:
            raw = self.model.raw_dataset(self.examples, batch_size=self.batch_size)
            self._data = self.model.prepared_dataset(raw)

    def at_step(self, step, logs):
        if step % self.every and not self.is_last(step, self.total):
            return
        with self.log.paused(), self.model.averaged():
            results = self.model.evaluate(self._data, batch_size=self.batch_size, verbose=0, return_dict=True)
        line = {f"validation_{name}": float(value) for name, value in results.items() if name != _RATE}
        line = {"step": step, **line}
        self.metrics.write(line)
        logger.info("step %d: %s", step, ", ".join(f"{name} {line[name]:.4g}" for name in line if name != "step"))
        if self._judge(line):
            with self.log.paused(), self.model.averaged():
                self.keep_best(step)
        elif self.patience and self._waited >= self.patience:
            logger.info("step %d: stopping, %s was best at step %d", step, self.name, self.best_step)
            self.model.stop_training = True

    def _judge(self, line: dict) -> bool:
        """Returns whether a validation is the best so far, and counts those that are not."""
        value = line[self.name]
        score = self._sign * value if value is not None and math.isfinite(value) else -math.inf
        if score > self._best or self.best_step is None:
            self._best, self._waited, self.best_step = score, 0, line["step"]
            return True
        self._waited += 1
        return False


class TokenBudget(_StepCallback):
    """Ends a run at the first step at which it has learnt from so many real tokens; goes before the other callbacks."""

    def __init__(self, log: LogMetrics, *, tokens: float, first: int = 0):
        super().__init__(first)
        self.log, self.tokens = log, tokens

    def at_step(self, step, logs):
        if self.log.tokens >= self.tokens:
            self.model.stop_training = True


class SaveState(_StepCallback):
    """Saves the training state every few steps."""

    def __init__(self, checkpoints: Checkpoints, log: LogMetrics, *, every: int, first: int = 0):
        super().__init__(first)
        self.checkpoints, self.log, self.every = checkpoints, log, every

    def at_step(self, step, logs):
        if step % self.every == 0:
            with self.log.paused():
                self.checkpoints.save_state(step, self.log.tokens)


class Checkpoints:
    """A run's checkpoints: its training state (weights and their averages, optimiser, step, tokens) and the best weights.

    There is one of each at a time.
    """

    def __init__(self, model: Task, directory: Path, *, active: bool = True):
        self._active = active
        self._step, self._tokens = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)
        weights = [variable.value for variable in model.weights]
        optimizer = [variable.value for variable in model.optimizer.variables]
        averages = model.averages.variables if model.averages else []
        state = tf.train.Checkpoint(
            step=self._step, tokens=self._tokens, weights=weights, averages=averages, optimizer=optimizer
        )
        self._state = tf.train.CheckpointManager(state, str(directory), max_to_keep=1, checkpoint_name="step")
        best = tf.train.Checkpoint(weights=weights)
        self._best = tf.train.CheckpointManager(best, str(directory / "best"), max_to_keep=1, checkpoint_name="step")

    @property
    def tokens(self) -> int:
        """Real tokens that the restored training state has learnt from."""
        return int(self._tokens)

    def save_state(self, step: int, tokens: int = 0) -> None:
        """Saves what a later process needs to go on after `step`, at which so many real tokens were learnt from."""
        self._step.assign(step)
        self._tokens.assign(tokens)
        if self._active:
            self._state.save(checkpoint_number=step)

    def restore_state(self) -> int:
        """Restores the newest training state and returns its step; 0 without one."""
        if not self._state.latest_checkpoint:
            return 0
        self._state.checkpoint.restore(self._state.latest_checkpoint).assert_consumed()
        return int(self._step)

    def save_best(self, step: int) -> None:
        """Saves the weights as the best so far."""
        if self._active:
            self._best.save(checkpoint_number=step)

    def restore_best(self) -> None:
        """Restores the best weights."""
        # Other workers than the chief learn of the checkpoint from the directory.
        latest = tf.train.latest_checkpoint(self._best.directory)
        self._best.checkpoint.restore(latest).assert_consumed()
