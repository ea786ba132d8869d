"""Training runs, end to end on a tiny network: what they write, that they repeat, continue, and lose nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import garden
from training.callbacks import LogMetrics
from training.config import make_config
from training.models import build_task, open_task
from training.output import read_metrics
from training.reports import predicted_logits
from training.run import read_data, run

FINISHED = {"steps": 12, "validation_steps": 3, "checkpoint_steps": 5, "log_steps": 1, "tensorboard": True}
ALONE = "data.validation=null"


@pytest.fixture(scope="module")
def config(tiny_bert, tiny_data):
    def make(output, *overrides, **training):
        values = {
            "task": "text-classification",
            "model": {"pretrained": str(tiny_bert)},
            "data": {"train": str(tiny_data["train"]), "validation": str(tiny_data["test"])},
            "training": {"learning_rate": 0.01, "batch_size": 16, "steps": 2, "log_steps": 1, **training},
            "output": str(output),
        }
        return make_config(values, overrides)

    return make


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> tuple[Path, dict]:
    """A run of two passes with everything on: its directory and what `run` returned."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    return directory, run(config(directory, **FINISHED))


@pytest.fixture
def without_pictures(monkeypatch):
    """Leaves out what takes half of a small run's time."""
    monkeypatch.setattr("training.plots.draw_learning_curves", lambda lines, directory: None)
    monkeypatch.setattr("training.plots.draw_report", lambda results, directory: None)


def weights(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / "model" / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------ what a run writes


def test_a_run_writes_what_it_promises(finished):
    directory, results = finished
    written = {path.name for path in directory.iterdir()}
    assert written == {"config.yaml", "metrics.jsonl", "checkpoints", "tensorboard", "model", "report.json", "plots"}
    assert {path.name for path in (directory / "plots").iterdir()} == {"learning_curves.png", "confusion_matrix.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (directory / "plots").iterdir())
    assert (directory / "checkpoints" / "step-10" / "state.json").exists()
    assert not (directory / "checkpoints" / "step-5.index").exists()
    assert list((directory / "tensorboard").glob("events.*"))
    assert results["model"] == str(directory / "model")
    assert json.loads((directory / "report.json").read_text()) == results["report"]


def test_metrics_have_a_line_every_few_steps_and_one_a_validation(finished):
    lines = read_metrics(finished[0])
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in training] == list(range(1, 13))
    assert [line["step"] for line in validation] == [3, 6, 9, 12]
    assert all(set(line) == {"step", "validation_loss", "validation_accuracy"} for line in validation)
    for line in training:
        assert set(line) == {"step", "loss", "accuracy", "learning_rate", "tokens", "real_tokens_per_second"}
        assert line["real_tokens_per_second"] > 0
    # Warm-up over a tenth of 12 steps, then linearly to zero, as of the step itself.
    rates = {line["step"]: line["learning_rate"] for line in training}
    assert rates[1] == pytest.approx(0.01)
    assert rates[12] == pytest.approx(0.01 * 1 / 12)


def test_the_model_is_the_best_that_was_validated(finished):
    directory, results = finished
    accuracy = {line["step"]: line["validation_accuracy"] for line in read_metrics(directory) if "loss" not in line}
    best = max(accuracy.values())
    assert results["kept_step"] == min(step for step, value in accuracy.items() if value == best)
    assert results["report"]["accuracy"] == pytest.approx(best)


def test_the_saved_model_gives_the_reported_answers(finished, tiny_data):
    directory, results = finished
    model = open_task(directory / "model")
    examples = garden.read_examples(tiny_data["test"])
    right = model.label_values(examples.labels) == predicted_logits(model, examples).argmax(axis=1)
    assert right.mean() == pytest.approx(results["report"]["accuracy"])


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_line_has_means_over_its_own_steps_whenever_validations_are(finished, config, tmp_path):
    run(config(tmp_path / "coarse", **{**FINISHED, "log_steps": 4}))
    fine = {line["step"]: line for line in read_metrics(finished[0]) if "loss" in line}
    coarse = {line["step"]: line for line in read_metrics(tmp_path / "coarse") if "loss" in line}
    assert list(coarse) == [4, 8, 12]
    # All batches have 16 examples.
    for name in ("loss", "accuracy"):
        for last, line in coarse.items():
            steps = [fine[step][name] for step in range(last - 3, last + 1)]
            assert line[name] == pytest.approx(np.mean(steps), rel=1e-5)


# ------------------------------------------------------------------------------------------ repeating, continuing


class InterruptedError(Exception):
    """What stands for a power cut."""


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_an_interrupted_run_continues_as_if_nothing_had_happened(finished, config, tmp_path, monkeypatch):
    at_step = LogMetrics.at_step

    def fails(self, step, logs):
        at_step(self, step, logs)
        if step == 8:
            raise InterruptedError

    directory = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(LogMetrics, "at_step", fails)
        with pytest.raises(InterruptedError):
            run(config(directory, **FINISHED))
    assert not (directory / "model").exists()
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    results = run(config(directory, **FINISHED))

    assert results["report"] == finished[1]["report"]
    assert same_weights(finished[0], directory)
    whole, parts = (
        [{**line, "real_tokens_per_second": 0} for line in read_metrics(path)] for path in (finished[0], directory)
    )
    assert whole == parts


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_another_seed_is_another_run(finished, config, tmp_path):
    run(config(tmp_path / "run", ALONE, seed=2))
    assert read_metrics(tmp_path / "run")[0]["loss"] != read_metrics(finished[0])[0]["loss"]


# ------------------------------------------------------------------------------------------ nothing is lost


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("without_pictures")
def test_other_runs_and_other_files_are_not_overwritten(finished, config, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    (directory / "notes.txt").write_text("mine")
    before = snapshot(directory)
    with pytest.raises(ValueError, match=r"finished run.*output=.*--overwrite"):
        run(config(directory, **FINISHED))
    shutil.rmtree(directory / "model")
    with pytest.raises(ValueError, match="unfinished run of another config"):
        run(config(directory))
    shutil.copytree(finished[0] / "model", directory / "model")
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        run(config(directory, "data.train=nothing.jsonl"), overwrite=True)
    assert snapshot(directory) == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="not a run's directory"):
            run(config(other), overwrite=overwrite)
    assert snapshot(other) == {str(other / "thesis.txt"): b"mine"}
    with pytest.raises(ValueError, match="is a file"):
        run(config(other / "thesis.txt"))

    run(config(directory, ALONE), overwrite=True)
    assert (directory / "notes.txt").read_text() == "mine"
    assert not (directory / "tensorboard").exists()
    assert [line["step"] for line in read_metrics(directory)] == [1, 2]


def test_bad_input_is_refused_before_anything_is_written(config, tmp_path, tiny_data):
    output = tmp_path / "run"
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"text": "a", "label": "splendid"}\n')
    for overrides, message in (
        (["data.train=/nowhere.jsonl"], "/nowhere"),
        ([f"data.validation={wrong}"], "splendid"),
        (["data.labels=[a, b]"], "negative"),
        (["data.label=stars"], "stars"),
        (["training.best_metric=beauty"], "known: .*accuracy"),
        (["training.class_weight.ugly=2"], "ugly"),
        (["training.sequence_length=1000"], "1000"),
        (["model.pretrained=package:no_such_package/x"], "no_such_package"),
        (["data.validation=null", "data.validation_share=0.001"], "validation_share"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(config(output, *overrides))
        assert not output.exists(), overrides


@pytest.mark.usefixtures("without_pictures")
def test_a_loss_that_is_not_a_number_ends_the_run(config, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is nan; lower training\.learning_rate"):
        run(config(tmp_path / "run", ALONE, learning_rate=1e38, clip_norm=None, steps=4))
    assert not (tmp_path / "run" / "model").exists()


# ------------------------------------------------------------------------------------------ other tasks and settings


@pytest.mark.usefixtures("without_pictures")
def test_masked_lm_of_a_new_network(config, tiny_bert, tmp_path):
    values = {
        "task": "masked-lm",
        "model": {
            "family": "bert",
            "config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            "tokenizer": str(tiny_bert),
        },
    }
    base = config(tmp_path / "run", sequence_length=16, row_length=16)
    given = json.loads(json.dumps({**base.__dict__, **values}, default=vars))
    results = run(make_config(given))
    assert set(results["report"]) == {"task", "examples", "loss", "masked_accuracy", "perplexity"}
    assert results["report"]["perplexity"] == pytest.approx(np.exp(results["report"]["loss"]))
    model = open_task(tmp_path / "run" / "model")
    assert isinstance(model, garden.MaskedLM)
    assert len(model.predict_text("a [MASK] film")) == 5


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("problem", [pytest.param("multi_label", marks=pytest.mark.slow), "regression"])
def test_other_problems(config, tmp_path, problem):
    rows = [
        {"text": f"a {word} film", "label": label if problem == "regression" else names}
        for word, label, names in (("good", 1.0, ["kind", "short"]), ("bad", -1.5, ["short"]), ("fine", 0.5, []))
    ] * 4
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.train={data}", f"data.validation={data}", f"data.problem={problem}"]
    results = run(config(tmp_path / "run", *files))
    assert results["report"]["problem"] == problem
    measure = {"multi_label": "f1_micro", "regression": "mean_squared_error"}[problem]
    assert isinstance(results["report"][measure], float)
    assert open_task(tmp_path / "run" / "model").problem == problem


def test_held_out_examples_are_not_trained_on(config, tmp_path):
    train, validation, test = read_data(config(tmp_path, "data.validation=null", "data.validation_share=0.25"))
    assert (len(train), len(validation)) == (72, 24)
    assert test is validation
    whole, *_ = read_data(config(tmp_path))
    assert sorted(train.texts + validation.texts) == sorted(whole.texts)


@pytest.mark.usefixtures("without_pictures")
def test_class_weights_and_smoothing_reach_the_loss(finished, config, tmp_path):
    run(config(tmp_path / "run", ALONE, "training.class_weight.positive=0"))
    assert read_metrics(tmp_path / "run")[0]["loss"] != read_metrics(finished[0])[0]["loss"]
    smoothed = config(tmp_path, "training.label_smoothing=0.5")
    assert build_task(smoothed, read_data(smoothed)[0]).label_smoothing == 0.5
