"""Run configs: the smallest that works, overrides, and one clear line for everything that is wrong."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import STRATEGIES, TASKS, RunConfig, TrainingConfig, key_table, make_config, read_config

SMALLEST = {
    "task": "text-classification",
    "model": {"pretrained": "checkpoint"},
    "data": {"train": "train.jsonl"},
    "output": "runs/x",
}


def with_values(*overrides: str, **values) -> RunConfig:
    return make_config({**SMALLEST, **values}, overrides)


def refusal(*overrides: str, **values) -> str:
    with pytest.raises(ValueError) as caught:
        with_values(*overrides, **values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_smallest_config_has_the_defaults():
    config = with_values()
    assert config.training == TrainingConfig()
    assert config.strategy == "one_device"
    assert (config.data.text, config.data.label) == ("text", None)


def test_the_documented_example_is_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        """
task: text-classification
model: {family: bert, config: {hidden_size: 256, hidden_act: gelu}, tokenizer: DIR}
data: {train: train.jsonl, validation: test.jsonl, text: text, label: label}
training: {epochs: 2, batch_size: 32, learning_rate: 5.0e-5, precision: float32, seed: 1, checkpoint_steps: 50}
strategy: mirrored
output: runs/sentiment
"""
    )
    config = read_config(path, ["training.epochs=3", "data.labels=[bad, good]", "training.class_weight.good=2"])
    assert config.model.config == {"hidden_size": 256, "hidden_act": "gelu"}
    assert (config.training.epochs, config.training.learning_rate) == (3, 5e-5)
    assert config.data.labels == ["bad", "good"]
    assert config.training.class_weight == {"good": 2.0}


def test_configs_are_frozen_and_written_as_they_are_read(tmp_path):
    config = with_values("training.steps=7", "training.learning_rate=1e-4", 'model.config={"a": [1, 2]}')
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task = "masked-lm"
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert read_config(path) == config


def test_tasks_are_those_that_there_are():
    from garden.tasks import TASKS as CLASSES

    assert set(TASKS) == set(CLASSES)


def test_strategies_are_those_that_can_be_made():
    from training.strategy import strategy

    with pytest.raises(ValueError, match=", ".join(STRATEGIES[:2])):
        strategy("no such")


def test_every_key_has_a_meaning():
    table = dict(key_table())
    assert table["training.batch_size: 32"]
    assert all(len(meaning) > 10 for meaning in table.values())
    assert {name.split(":")[0] for name, _ in key_table() if name.endswith("REQUIRED")} == {
        "task",
        "output",
    }


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=2", ["training.epoch", "2", "epochs", "batch_size"]),
        ("colour=red", ["colour", "red", "task", "output"]),
        ("training.epochs=many", ["training.epochs", "many", "number"]),
        ("training.batch_size=2.5", ["training.batch_size", "2.5", "whole number"]),
        ("training.batch_size=0", ["training.batch_size", "0", "at least 1"]),
        ("training.learning_rate=nan", ["training.learning_rate", "nan"]),
        ("training.tensorboard=perhaps", ["training.tensorboard", "perhaps", "true or false"]),
        ("training.precision=fp8", ["training.precision", "fp8", "mixed_bfloat16"]),
        ("training.class_weight=3", ["training.class_weight", "3"]),
        ("training.class_weight.a=heavy", ["training.class_weight.a", "heavy"]),
        ("training=3", ["training", "3"]),
        ("training=null", ["training", "null"]),
        ("task=dance", ["task", "dance", "text-classification"]),
        ("task=null", ["task", "null"]),
        ("strategy=fast", ["strategy", "fast", "one_device"]),
        ("data.labels=positive", ["data.labels", "positive"]),
        ("data.train=[a]", ["data.train", "a"]),
        ("output=${nothing}", ["nothing"]),
        ("training.early_stopping=2", ["training.early_stopping", "data.validation"]),
        ("model.family=bert", ["pretrained", "family"]),
        ("epochs", ["epochs", "key=value"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line(override, parts):
    message = refusal(override)
    assert all(part in message for part in parts), message


def test_a_run_learns_from_a_file_or_from_a_corpus():
    config = with_values(
        data={"corpus": "corpora/web"}, task="masked-lm", objective={"name": "masked-lm", "unit": "word"}
    )
    assert config.validates
    assert config.objective == {"name": "masked-lm", "unit": "word"}
    assert "not both" in refusal("data.corpus=corpora/web")
    assert "data.weights: only for runs that learn from a corpus" in refusal("data.weights.a=1")
    assert "objective: only for runs that learn from a corpus" in refusal("objective.name=masked-lm")
    corpus = {"corpus": "corpora/web"}
    assert "data.test: a corpus has no such thing" in refusal(data={**corpus, "test": "x.jsonl"})
    assert "data.validation_share" in refusal(data={**corpus, "validation_share": 0.1})


def test_what_is_missing_is_named():
    assert "data.train: missing" in refusal(data={})
    for name in SMALLEST:
        with pytest.raises(ValueError, match=f"{name}: missing"):
            make_config({key: value for key, value in SMALLEST.items() if key != name})


def test_keys_that_exclude_each_other():
    assert refusal("training.steps=5", "training.tokens=1e9") == (
        "config: training: give one of epochs, steps and tokens, not several (steps: 5, tokens: 1e+09)"
    )
    assert "not both" in refusal("data.validation=x", "data.validation_share=0.1")
    assert "tokenizer" in refusal(model={"family": "bert"})
    assert "masked-lm" in refusal("training.label_smoothing=0.1", task="masked-lm")


@pytest.mark.parametrize(
    "text", ["", "- a\n- b\n", "task: [a\n", "just words", "a: b: c", "\x00", "task: x\ntask: y\n"]
)
def test_files_that_are_not_configs(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"run\.yaml") as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such file"):
        read_config(tmp_path / "none.yaml")


def attempt(values: dict, overrides=()) -> tuple[RunConfig | None, str]:
    """A config, or the message with which it is refused; any other exception is a failure."""
    try:
        return make_config(values, overrides), ""
    except ValueError as error:
        return None, str(error)


PATHS = st.sampled_from(
    [name.split(":")[0] for name, _ in key_table()] + ["training", "data", "model", "x", "training.x"]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.dictionaries(PATHS, VALUES, min_size=1, max_size=3))
def test_any_values_give_a_config_or_one_line(changes):
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALLEST.items()}
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                break
        else:
            section[last] = value
    config, message = attempt(values)
    assert "\n" not in message
    if config is None:
        assert message.startswith("config: ")
    else:
        assert make_config(dataclasses.asdict(config)) == config


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_override_gives_a_config_or_one_line(text):
    assert "\n" not in attempt(SMALLEST, [text])[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.optimizer=sgd"], 'training.optimizer: expected one of adamw, lamb, adafactor, muon, got "sgd"'),
        (["training.decay=0.1"], "training.decay: only for schedule wsd, and the schedule is linear"),
        (["training.floor=0.1"], "training.floor: only for schedule cosine, wsd, and the schedule is linear"),
        (
            ["training.optimizer=adafactor", "training.betas=[0.9,0.98]"],
            "training.betas: only for optimizer adamw, lamb, muon, and the optimizer is adafactor",
        ),
        (["training.betas=[0.9]"], "training.betas: expected two numbers of at least 0 and below 1, got [0.9]"),
        (["training.warmup=1.5"], "training.warmup: expected a share up to 1, or a whole number of steps, got 1.5"),
        (
            ["training.schedule=wsd", "training.decay_shape=round"],
            'training.decay_shape: expected linear or sqrt, got "round"',
        ),
        (["training.accumulate=33"], "training.accumulate: 33 parts of a batch of 32 examples"),
        (["training.ema=1"], "training.ema: expected a number above 0 and below 1, got 1"),
    ],
    ids=str,
)
def test_optimisation_that_does_not_fit_is_told_in_one_line(overrides, message):
    assert message in refusal(*overrides)


def test_names_are_those_that_there_are():
    from training import config, optimizers, schedules

    assert tuple(optimizers.OPTIMIZERS) == config.OPTIMIZERS
    assert tuple(schedules.SCHEDULES) == config.SCHEDULES
