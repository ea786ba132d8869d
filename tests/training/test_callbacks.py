"""Which weights are kept and when a run stops, on a model that answers validations from a list."""

import contextlib
from types import SimpleNamespace

import pytest

from training.callbacks import Validate
from training.output import Metrics, read_metrics


class Model:
    """Validates as told."""

    def __init__(self, name: str, values: list[float]):
        self.name, self.values = name, list(values)
        self.distribute_strategy = SimpleNamespace(num_replicas_in_sync=2)
        self.stop_training = False
        self.averaged = contextlib.nullcontext

    def evaluate(self, data, **options) -> dict[str, float]:
        return {self.name: self.values.pop(0), "real_tokens_per_second": 5.0}


def trained(name: str, values: list[float], *, earlier=(), every=2, total=100, patience=None, first=0, judged=None):
    """Steps until the values are used up or the callback stops; returns it, the steps kept and the lines written."""
    lines, kept = [*earlier], []
    metrics = SimpleNamespace(lines=lines, write=lines.append)
    log = SimpleNamespace(paused=contextlib.nullcontext, first=first)
    checkpoints = SimpleNamespace(save_best=kept.append, has_best=lambda step: False)
    options = {"every": every, "total": total, "patience": patience, "first": first, "batch_size": 4, "judged": judged}
    callback = Validate([], metrics, log, best_metric=name, checkpoints=checkpoints, **options)
    callback.set_model(model := Model(name, values))
    callback.catch_up(last=first >= total)
    while model.values and not model.stop_training and callback.step < total:
        callback.on_train_batch_end(0, {})
    return callback, kept, lines[len(earlier) :]


def test_it_validates_every_few_steps_and_after_the_last():
    _, _, lines = trained("accuracy", [0.1] * 9, every=2, total=5)
    assert lines == [{"step": step, "validation_accuracy": 0.1} for step in (2, 4, 5)]


@pytest.mark.parametrize(
    ("name", "kept"), [("accuracy", [2, 6]), ("loss", [2, 4]), ("mean_absolute_error", [2, 4]), ("auc", [2, 6])]
)
def test_the_best_is_the_highest_or_for_losses_and_errors_the_lowest(name, kept):
    callback, steps, _ = trained(name, [0.5, 0.4, 0.7, 0.7, 0.4])
    assert steps == kept
    assert callback.best_step == kept[-1]


def test_a_value_that_is_no_number_is_never_better():
    assert trained("loss", [float("nan"), 3.0, 2.0])[1] == [2, 4, 6]
    assert trained("loss", [3.0, float("nan"), 2.0])[1] == [2, 6]


def test_it_stops_after_as_many_validations_without_a_better_one():
    callback, _, lines = trained("accuracy", [0.5, 0.4, 0.6, 0.6, 0.5, 0.9], patience=2)
    assert callback.model.stop_training
    assert callback.step == lines[-1]["step"] == 10
    assert not trained("accuracy", [0.5, 0.4, 0.4, 0.6], patience=3)[0].model.stop_training


def test_a_run_that_continues_knows_what_was_best():
    earlier = [
        {"step": 2, "validation_loss": 0.5},
        {"step": 3, "loss": 0.1},
        {"step": 4, "validation_loss": 0.6},
    ]
    # Its state was saved before step 4 was validated.
    judged = trained("loss", [0.5])[0].judgement
    assert judged == {"best_step": 2, "best": -0.5, "waited": 0}
    callback, kept, lines = trained("loss", [0.55, 0.4], earlier=earlier, first=4, patience=2, judged=judged)
    assert kept == []
    assert callback.best_step == 2
    assert [line["step"] for line in lines] == [6]
    assert callback.model.stop_training


def test_a_validation_that_was_due_is_made_up_for():
    judged = {"best_step": 2, "best": -0.5, "waited": 0}
    callback, kept, lines = trained("loss", [0.4], first=4, judged=judged)
    assert kept == [4]
    assert callback.best_step == 4
    assert lines == [{"step": 4, "validation_loss": 0.4}]


def test_metrics_that_are_no_numbers_are_null_and_cut_lines_are_left_out(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.begin(0)
        metrics.write({"step": 1, "validation_loss": float("nan")})
        metrics.write({"step": 2, "validation_loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "valid')
    assert read_metrics(tmp_path) == [{"step": 1, "validation_loss": None}, {"step": 2, "validation_loss": 1.0}]
    with Metrics(tmp_path) as metrics:
        metrics.begin(1)
        metrics.write({"step": 2, "validation_loss": 3.0})
    assert read_metrics(tmp_path) == [{"step": 1, "validation_loss": None}, {"step": 2, "validation_loss": 3.0}]
    # The first validation is the best so far, even one that is no number.
    _, kept, _ = trained("loss", [2.0], earlier=read_metrics(tmp_path)[:1], first=1, every=1)
    assert kept == [1, 2]
