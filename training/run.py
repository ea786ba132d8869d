"""One training run, from a config to a model on disk."""

from __future__ import annotations

import contextlib
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
from training.budget import counted_tokens, length_of
from training.callbacks import Checkpoints, LogMetrics, SaveState, TokenBudget, Validate
from training.config import RunConfig, TrainingConfig
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
from training.pretraining import check_corpus, corpus_batches
from training.reports import report
from training.schedules import schedule
from training.strategy import is_chief, strategy

logger = logging.getLogger(__name__)


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

    Raises FileNotFoundError and ValueError, one line each, before anything is written or removed, as far as can be known.
    """
    check_output(config, overwrite=overwrite)
    devices = strategy(config.strategy)
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

    chief = is_chief(devices)
    directory = open_output(config, overwrite=overwrite) if chief else Path(config.output)
    checkpoints = Checkpoints(model, directory / CHECKPOINTS, active=chief)
    first = checkpoints.restore_state()
    batches = training_batches(model, train, config).skip(first) if rows is None else rows.training(first)
    if first:
        logger.info("%s: continuing an interrupted run after step %d", directory, first)
    started = time.perf_counter()
    with Metrics(directory, step=first, tensorboard=config.training.tensorboard, active=chief) as metrics:
        tokens = checkpoints.tokens
        log = LogMetrics(metrics, rates, every=config.training.log_steps, total=total, first=first, tokens=tokens)
        callbacks: list[Any] = [log]
        if config.training.tokens:
            callbacks.insert(0, TokenBudget(log, tokens=config.training.tokens, first=first))
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
                keep_best=checkpoints.save_best if config.training.keep == "best" else lambda step: None,
                patience=config.training.early_stopping,
            )
            callbacks.append(judge)
        if config.training.checkpoint_steps:
            callbacks.append(SaveState(checkpoints, log, every=config.training.checkpoint_steps, first=first))
        if first < total and tokens < (config.training.tokens or math.inf):
            # Keras writes its bar to stdout, which is for results.
            with contextlib.redirect_stdout(sys.stderr):
                model.fit(
                    batches,
                    epochs=1,
                    steps_per_epoch=total - first,
                    class_weight=config.training.class_weight,
                    callbacks=callbacks,
                    verbose=1 if progress_bar else 0,
                )
    seconds = time.perf_counter() - started

    steps = log.step
    kept = steps
    if validation is not None and config.training.keep == "best":
        kept = judge.best_step
        checkpoints.restore_best()
    elif model.averages:
        model.averages.swap()
    if rows is not None:
        results = rows.report(model)
    else:
        results = None if test is None else report(model, test, batch_size=config.training.batch_size)
    if chief:
        _finish(model, directory, metrics, results)
    _wait_for_all(devices)
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

    write_whole(directory / MODEL, model.save_pretrained)
    if results is not None:
        write_json(directory / REPORT, results)
        draw_report(results, directory / PLOTS)
    draw_learning_curves(metrics.lines, directory / PLOTS)


def _wait_for_all(devices: tf.distribute.Strategy) -> None:
    """Returns when every worker is here: one that ends early takes the others down."""
    if devices.num_replicas_in_sync > 1:
        sum_up = functools.partial(tf.distribute.ReplicaContext.all_reduce, reduce_op=tf.distribute.ReduceOp.SUM)
        devices.run(lambda: sum_up(tf.distribute.get_replica_context(), value=tf.constant(1.0)))
