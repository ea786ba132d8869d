"""One training run, from a config to a model on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from garden.tasks import TASKS, Examples, Task, read_examples
from garden.tasks.inputs import Shares
from garden.tokenizers import Tokenizer
from training.budget import counted_tokens, length_of
from training.callbacks import (
    EvaluationEndedError,
    LogMetrics,
    LossNotFiniteError,
    SaveState,
    TokenBudget,
    Validate,
)
from training.checkpoints import Checkpoints
from training.config import RunConfig, TrainingConfig
from training.input_service import served_by, services_at
from training.models import build_task
from training.optimizers import optimizer
from training.output import (
    CHECKPOINTS,
    MODEL,
    PLOTS,
    REPORT,
    Metrics,
    check_output,
    open_output,
    write_json,
    write_whole,
)
from training.paths import located
from training.preemption import Notice
from training.pretraining import check_corpus, corpus_batches
from training.rendezvous import as_worker
from training.reports import report
from training.schedules import schedule
from training.strategy import is_chief, strategy_of
from training.workers import check_same_step, wait_for_all

logger = logging.getLogger(__name__)


@as_worker
def run(config: RunConfig, *, overwrite: bool = False, progress_bar: bool = False) -> dict[str, Any]:
    """Trains what a config says and writes its output directory (see `training.output`).

    The same config gives the same run. An interrupted run of the same config and directory continues from its last
    checkpoint, where there is one.

    Args:
        config: see `training.config`.
        overwrite: replace another run in the output directory.
        progress_bar: show Keras's, on stderr.

    Returns `output`, `model` (directories), `steps`, `kept_step` (whose weights the model has), `training_seconds`, and
    `report`, None without examples to report on.

    Asked to end (SIGTERM), a run saves its state behind the step that is computed and raises `Preempted`.

    Raises FileNotFoundError and ValueError, one line each, before anything is written or removed, as far as can be known.
    """
    check_output(config, overwrite=overwrite)
    services = services_at(config.data.service)
    devices = strategy_of(config)
    keras.utils.set_random_seed(config.training.seed)
    train = validation = test = None
    if config.data.corpus is None:
        train, validation, test = read_data(config)
    else:
        check_corpus(config)
    with devices.scope():
        model = build_task(config, train)
    _check_class_weight(model, config.training.class_weight)
    rows = None if config.data.corpus is None else corpus_batches(config, model)
    per_pass = rows.per_pass if rows else -(-len(train) // config.training.batch_size)
    length = length_of(
        config.training,
        per_pass=per_pass,
        tokens_per_step=lambda: (
            counted_tokens(model, training_batches(model, train, config)) if rows is None else rows.tokens_per_step
        ),
    )
    total = length.most
    with devices.scope():
        rates = compile_model(model, config.training, length.planned)
    for examples in (validation, test):
        if examples is not None:
            model.columns(examples)
    judged_by = best_metric(model, config)
    if rows is not None:
        validation = rows.validation(config.data.validation_rows)

    def batches(first: int) -> tf.data.Dataset:
        """The batches behind step `first`, without end."""
        return training_batches(model, train, config).skip(first) if rows is None else rows.training(first)

    def fed(first: int) -> tf.data.Dataset | Shares:
        """The same, of which each worker makes its own share where the corpus is read in shards."""
        if rows is None or rows.shards == 1:
            return batches(first)
        return Shares(functools.partial(rows.training, first))

    chief = is_chief(devices)
    directory = open_output(config, overwrite=overwrite) if chief else Path(config.output)
    wait_for_all(devices)  # what another run left is gone before others look for checkpoints
    with Notice() as notice, Metrics(directory, tensorboard=config.training.tensorboard, active=chief) as metrics:
        checkpoints = Checkpoints(
            model,
            directory / CHECKPOINTS,
            config=dataclasses.asdict(config),
            keep=config.training.keep_checkpoints,
            keep_every=config.training.keep_checkpoint_steps,
            active=chief,
        )
        state = checkpoints.restore_state()
        first = state["step"]
        check_same_step(devices, first, directory)
        metrics.begin(first)
        if first:
            logger.info("%s: continuing an interrupted run after step %d", directory, first)
        started = time.perf_counter()
        log = LogMetrics(metrics, rates, every=config.training.log_steps, total=total, first=first)
        save = SaveState(
            checkpoints,
            log,
            every=config.training.checkpoint_steps,
            first=first,
            notice=notice,
            output=config.output,
        )
        callbacks: list[Any] = [log, save]
        if config.training.tokens:
            callbacks.insert(0, TokenBudget(log, tokens=config.training.tokens, first=first))
        judge = None
        if validation is not None:
            judge = Validate(
                validation,
                metrics,
                log,
                every=config.training.validation_steps or per_pass or max(total // 20, 1),
                total=total,
                first=first,
                batch_size=config.training.batch_size,
                best_metric=judged_by,
                checkpoints=checkpoints if config.training.keep == "best" else None,
                patience=config.training.early_stopping,
                notice=notice,
                judged=state.get("judgement"),
            )
            callbacks.append(judge)
        checkpoints.of(lambda: {"tokens": log.tokens, "judgement": judge and judge.judgement})
        for callback in callbacks:
            callback.set_model(model)
        if first:
            log.continue_from(state["tokens"])
        try:
            ended = first >= total or log.tokens >= (config.training.tokens or math.inf)
            if judge is not None:
                judge.catch_up(last=ended)
                ended = ended or judge.finished
            if not ended:
                # Keras writes its bar to stdout, which is for results.
                with contextlib.redirect_stdout(sys.stderr), served_by(services) as elsewhere:
                    model.fit(
                        fed(first),
                        epochs=1,
                        elsewhere=elsewhere,
                        steps_per_epoch=total - first,
                        class_weight=config.training.class_weight,
                        callbacks=callbacks,
                        verbose=1 if progress_bar else 0,
                    )
        except EvaluationEndedError:
            checkpoints.save_state(log.step)
            save.end(log.step)
        except LossNotFiniteError as error:
            path = directory / f"batch-{error.step}.json"
            if chief:
                write_json(path, {"step": error.step, **look_at(batches(error.step - 1), model.tokenizer)})
            raise ValueError(f"{error}; what it was learning from is in {path}") from None
        finally:
            checkpoints.wait()
        seconds = time.perf_counter() - started

        steps = log.step
        kept = steps
        if judge is not None and config.training.keep == "best":
            kept = judge.best_step
            wait_for_all(devices)  # for the one that writes
            checkpoints.restore_best(kept)
        elif model.averages:
            model.averages.swap()
        if rows is not None:
            results = rows.report(model)
        else:
            results = None if test is None else report(model, test, batch_size=config.training.batch_size)
        if chief:
            _finish(model, directory, metrics, results)
        wait_for_all(devices)
    return {
        "output": str(directory),
        "model": str(directory / MODEL),
        "steps": steps,
        "kept_step": kept,
        "training_seconds": round(seconds, 1),
        "report": results,
    }


def compile_model(model: Task, training: TrainingConfig, steps: int):
    """Compiles a model with a config's optimiser and kinds of steps, for a run of `steps`; returns its schedule.

    In the strategy's scope.
    """
    falls = {"decay": training.decay, "shape": training.decay_shape, "floor": training.floor}
    falls = {name: value for name, value in falls.items() if value is not None}
    rates = schedule(training.schedule, training.learning_rate, steps, warmup=training.warmup, **falls)
    options: dict[str, Any] = {"weight_decay": training.weight_decay, "global_clipnorm": training.clip_norm}
    if training.not_finite == "skip":
        options["skip_not_finite"] = True
    if training.betas is not None:
        options |= dict(zip(("beta_1", "beta_2"), training.betas, strict=True))
    if training.epsilon is not None:
        options["epsilon"] = training.epsilon
    if training.optimizer == "muon" and training.precision == "mixed_bfloat16":
        options["newton_schulz_dtype"] = "bfloat16"
    model.compile(
        optimizer=optimizer(training.optimizer, rates, **options),
        accumulate=training.accumulate,
        recompute=training.recompute,
        ema=training.ema,
    )
    return rates


def read_data(config: RunConfig) -> tuple[Examples, Examples | None, Examples | None]:
    """Returns the training, validation and test examples of a config; None for those that there are none of."""
    data = config.data
    task = TASKS[config.task]
    label = (data.label or task.label_field) if task.label_field else None
    pair = data.pair or task.pair_field
    read = functools.partial(read_examples, text=data.text, pair=pair, label=label, words=task.takes_words)
    train = read(located(data.train))
    validation = read(located(data.validation)) if data.validation else None
    test = read(located(data.test)) if data.test else None
    if data.validation_share:
        held = round(len(train) * data.validation_share)
        if not 0 < held < len(train):
            raise ValueError(
                f"data.validation_share: {data.validation_share} of {len(train)} training examples is {held}; "
                "expected at least one, and one to train on"
            )
        order = np.random.default_rng(config.training.seed).permutation(len(train))
        train, validation = _chosen(train, np.sort(order[held:])), _chosen(train, np.sort(order[:held]))
    return train, validation, test or validation


def _chosen(examples: Examples, indices: np.ndarray) -> Examples:
    columns = (examples.texts, examples.pairs, examples.labels)
    return Examples(*(None if column is None else [column[index] for index in indices] for column in columns))


def training_batches(model: Task, examples: Examples, config: RunConfig) -> tf.data.Dataset:
    """Returns batches of raw examples without end, each pass in another order, which the seed decides."""
    data = tf.data.Dataset.from_tensor_slices(model.columns(examples))
    data = data.shuffle(len(examples), seed=config.training.seed, reshuffle_each_iteration=True)
    return data.batch(config.training.batch_size).repeat()


def look_at(batches: tf.data.Dataset, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the first batch as lists by name; of rows of tokens, what they say too, as `texts`."""
    batch = next(iter(batches))
    if isinstance(batch, dict):  # texts and labels, as the files have them
        parts = {name: values.numpy().tolist() for name, values in batch.items()}
        return {
            name: [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
            for name, values in parts.items()
        }
    inputs, targets, weights = batch
    texts = [text.decode(errors="replace") for text in tokenizer.detokenize(inputs["token_ids"], False).numpy()]
    arrays = tf.nest.map_structure(lambda values: values.numpy().tolist(), (inputs, targets, weights))
    return {"texts": texts, **dict(zip(("inputs", "targets", "weights"), arrays, strict=True))}


def best_metric(model: Task, config: RunConfig) -> str:
    """Returns the metric that says which weights are best: the config's, or accuracy where the task has it, else loss."""
    known = [name for name in model.get_metrics_result() if name != "real_tokens_per_second"]
    name = config.training.best_metric or ("accuracy" if "accuracy" in known else "loss")
    if name not in known:
        raise ValueError(f'training.best_metric: "{name}" is not a metric of this task; known: {", ".join(known)}')
    return name


def _check_class_weight(model: Task, class_weight: dict[str, float] | None) -> None:
    for name in class_weight or {}:
        if name not in (model.labels or ()):
            known = ", ".join(model.labels or ()) or "none"
            raise ValueError(f'training.class_weight: "{name}" is not one of the classes; classes: {known}')


def _finish(model: Task, directory: Path, metrics: Metrics, results: dict[str, Any] | None) -> None:
    # matplotlib takes a second to import, and other workers than the chief never draw.
    from training.plots import draw_learning_curves, draw_report

    if results is not None:
        write_json(directory / REPORT, results)
        draw_report(results, directory / PLOTS)
    draw_learning_curves(metrics.lines, directory / PLOTS)
    # Last: a run with a model is finished.
    write_whole(directory / MODEL, model.save_pretrained)
