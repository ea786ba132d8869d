"""What happens between the steps of a run: metrics are written, the model is validated, checkpoints are saved.

Every worker runs these callbacks, since reading metrics and validating takes all of them; only the chief's write files.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from garden.tasks import Examples
from training.checkpoints import Checkpoints
from training.output import Metrics
from training.preemption import Notice, Preempted
from training.workers import any_of, several, wait_for_all

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


class LossNotFiniteError(ValueError):
    """A step's loss is not a finite number."""

    def __init__(self, step: int, loss: float, rate: float):
        super().__init__(f"step {step}: the loss is {loss}; lower training.learning_rate ({rate:.3g} here)")
        self.step = step


class LogMetrics(_StepCallback):
    """Writes a line every few steps: `step`, metrics, `learning_rate`, `tokens` and `real_tokens_per_second`.

    `tokens` are the real ones that the run has learnt from so far; `skipped_steps`, where such steps are skipped, those whose
    gradients were not finite numbers.

    Metrics and speed are means over the steps since the last line: the model's metrics start anew with each, which also
    keeps their float32 sums small. The speed leaves out what `paused` does, and the first step, in which TensorFlow compiles,
    unless there is a line for that alone.

    Raises LossNotFiniteError at the first step whose loss is not a finite number.

    """

    def __init__(self, metrics: Metrics, schedule, *, every: int, total: int, first: int = 0):
        super().__init__(first)
        self.metrics, self.schedule, self.every, self.total = metrics, schedule, every, total
        self.first, self._tokens_before = first, 0
        self._began = self._tokens_seen = 0.0
        self._restored: list[Any] | None = None

    def continue_from(self, tokens: int) -> None:
        """Takes over from the run that is continued: its real tokens, and the sums that the model's metrics hold by now."""
        self._restored = [variable.numpy() for variable in self._variables()]
        self._tokens_before = tokens - round(self._tokens())

    def on_epoch_begin(self, epoch, logs=None):
        # Keras has reset the metrics of the run that is continued.
        for variable, value in zip(self._variables(), self._restored or (), strict=bool(self._restored)):
            variable.assign(value)
        self._began, self._tokens_seen, self._restored = time.perf_counter(), self._tokens(), None

    @property
    def tokens(self) -> int:
        """Real tokens that the run has learnt from so far."""
        return self._tokens_before + round(self._tokens())

    def at_step(self, step, logs):
        rate = float(self.schedule(step - 1))
        if not math.isfinite(loss := float(logs["loss"])):
            raise LossNotFiniteError(step, loss, rate)
        last = self.is_last(step, self.total)
        if step % self.every and not last:
            if step == self.first + 1:
                self._began, self._tokens_seen = time.perf_counter(), self._tokens()
            return
        values = {name: float(value) for name, value in logs.items() if name != _RATE}
        speed = (self._tokens() - self._tokens_seen) / max(time.perf_counter() - self._began, 1e-9)
        line = {"step": step, **values, "learning_rate": rate, "tokens": self.tokens, _RATE: round(speed, 1)}
        optimizer = self.model.optimizer
        skipped = getattr(getattr(optimizer, "inner_optimizer", optimizer), "skipped", None)
        if skipped is not None:
            line["skipped_steps"] = int(tf.convert_to_tensor(skipped.value))
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
        values = [variable.numpy() for variable in self._variables()]
        try:
            yield
        finally:
            for variable, value in zip(self._variables(), values, strict=True):
                variable.assign(value)
        self._began += time.perf_counter() - began

    def _variables(self) -> list[keras.Variable]:
        return [variable for metric in self.model.metrics for variable in metric.variables]

    def _tokens(self) -> float:
        return next(float(metric.result()) for metric in self.model.metrics if metric.name == "real_tokens")


class Validate(_StepCallback):
    """Validates every few steps and after the last, keeps the best weights, and ends a run that gets no better.

    Args:
        examples: what to validate with, or a dataset of prepared batches.
        best_metric: which of the model's metrics says what is best; names that end in "loss", "error" or "perplexity" are best
            when low.
        checkpoints: where the best weights are kept; None: they are not.
        patience: validations without a better one before training stops; None: never.
        log: is told when validation takes place.
        notice: ends a validation when it is given.
        judged: the `judgement` of a run that is continued.
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
        checkpoints: Checkpoints | None,
        patience: int | None = None,
        notice: Notice | None = None,
        judged: Mapping[str, Any] | None = None,
    ):
        super().__init__(first)
        self.examples, self.metrics, self.log, self.batch_size = examples, metrics, log, batch_size
        self._data: Any = None
        self.every, self.total, self.patience, self.checkpoints = every, total, patience, checkpoints
        self.name = f"validation_{best_metric}"
        self._sign = -1 if best_metric.endswith(("loss", "error", "perplexity")) else 1
        self._interrupt = [_Interrupt(notice)] if notice else []
        judged = judged or {}
        self.best_step: int | None = judged.get("best_step")
        self._best: float = -math.inf if judged.get("best") is None else judged["best"]
        self._waited: int = judged.get("waited", 0)

    @property
    def judgement(self) -> dict[str, Any]:
        """What is known of the validations so far: plain values, for a run that continues this one."""
        best = self._best if math.isfinite(self._best) else None
        return {"best_step": self.best_step, "best": best, "waited": self._waited}

    @property
    def finished(self) -> bool:
        """Whether the run has got no better for so long that it ends."""
        return bool(self.patience and self._waited >= self.patience)

    def catch_up(self, last: bool) -> None:
        """Makes up for what was due at the step after which a run continues: its state is saved before it is validated."""
        step = self.step
        if not step or (step % self.every and not last):
            return
        line = next((line for line in self.metrics.lines if line["step"] == step and self.name in line), None)
        if line is None:
            self._validate(step)
        elif self._judge(line):
            self._keep(step)

    def at_step(self, step, logs):
        if step % self.every == 0 or self.is_last(step, self.total):
            self._validate(step)
            if self.finished:
                logger.info("step %d: stopping, %s was best at step %d", step, self.name, self.best_step)
                self.model.stop_training = True

    def _validate(self, step: int) -> None:
        with self.log.paused(), self.model.averaged():
            results = self.model.evaluate(
                self._batches(), batch_size=self.batch_size, verbose=0, return_dict=True, callbacks=self._interrupt
            )
        line = {f"validation_{name}": float(value) for name, value in results.items() if name != _RATE}
        line = {"step": step, **line}
        self.metrics.write(line)
        logger.info("step %d: %s", step, ", ".join(f"{name} {line[name]:.4g}" for name in line if name != "step"))
        if self._judge(line):
            self._keep(step)

    def _batches(self) -> Any:
        # Tracing the inputs takes a second: once is enough. Several replicas split batches of texts, not of rows.
        if self._data is None:
            self._data = self.examples
            prepared = isinstance(self.examples, tf.data.Dataset)
            if self.model.distribute_strategy.num_replicas_in_sync == 1 and not prepared:
                raw = self.model.raw_dataset(self.examples, batch_size=self.batch_size)
                self._data = self.model.prepared_dataset(raw)
        return self._data

    def _judge(self, line: dict) -> bool:
        """Returns whether a validation is the best so far, and counts those that are not."""
        value = line[self.name]
        score = self._sign * value if value is not None and math.isfinite(value) else -math.inf
        if score > self._best or self.best_step is None:
            self._best, self._waited, self.best_step = score, 0, line["step"]
            return True
        self._waited += 1
        return False

    def _keep(self, step: int) -> None:
        if self.checkpoints is not None and not (step == self.log.first and self.checkpoints.has_best(step)):
            with self.log.paused(), self.model.averaged():
                self.checkpoints.save_best(step)


class EvaluationEndedError(Exception):
    """A validation was ended before it was done."""


class _Interrupt(keras.callbacks.Callback):
    """Ends a validation, which may be long, when the process is asked to end."""

    def __init__(self, notice: Notice):
        super().__init__()
        self.notice = notice

    def on_test_batch_end(self, batch, logs=None):
        # Several workers end together, behind a step.
        if self.notice.given and not several(self.model.distribute_strategy):
            raise EvaluationEndedError


class TokenBudget(_StepCallback):
    """Ends a run at the first step at which it has learnt from so many real tokens; goes before the other callbacks."""

    def __init__(self, log: LogMetrics, *, tokens: float, first: int = 0):
        super().__init__(first)
        self.log, self.tokens = log, tokens

    def at_step(self, step, logs):
        if self.log.tokens >= self.tokens:
            self.model.stop_training = True


class SaveState(_StepCallback):
    """Saves the training state every few steps, and, when the process is asked to end, behind the step that is computed.

    It goes before `Validate`: a validation that was due, and which the process did not live to see, is made up for.

    Raises Preempted once all is saved.

    Args:
        every: steps; None: only when asked to end.
        notice: whether this process is asked to end. When one of several workers is, all do.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        log: LogMetrics,
        *,
        every: int | None,
        first: int = 0,
        notice: Notice,
        output: str,
    ):
        super().__init__(first)
        self.checkpoints, self.log, self.every, self.notice, self.output = checkpoints, log, every, notice, output

    def at_step(self, step, logs):
        asked = any_of(self.model.distribute_strategy, self.notice.given)
        if asked or (self.every and step % self.every == 0):
            with self.log.paused():
                self.checkpoints.save_state(step)
        if asked:
            self.end(step)

    def end(self, step: int) -> None:
        """Ends the run, whose state after `step` is saved."""
        self.checkpoints.wait()
        wait_for_all(self.model.distribute_strategy)
        raise Preempted(step, self.output)
