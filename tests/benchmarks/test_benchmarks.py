"""Benchmarks: turns are taken one by one, results are whole, and Garden's sides run. The reference is played by stand-ins."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import attention, finetune, material, record, reference, serve
from benchmarks.turns import Player, Worker, WorkerError, latencies, take_turns

INTERPRETER = "code:InteractiveInterpreter"


@pytest.fixture
def local_workers(monkeypatch):
    """Benchmarks start their sides in this process."""
    from benchmarks import side_garden

    # TensorFlow's threads are settled once in a process.
    monkeypatch.setattr(side_garden, "_use_threads", lambda threads: None)
    monkeypatch.setattr(finetune, "Worker", LocalWorker)
    monkeypatch.setattr(serve, "Worker", LocalWorker)


class LocalWorker:
    """A `Worker` without a process; what would run under PyTorch is one of the stand-ins below."""

    software = {"python": "3", "packages": {"torch": "0"}}
    pid = 1

    def __init__(self, name, python, target, **options):
        module, _, kind = target.partition(":")
        if module == "benchmarks.side_huggingface":
            self.side = {"FineTuning": SlowTraining, "Classification": SlowAnswers}[kind](**options)
        else:
            self.side = getattr(importlib.import_module(module), kind)(**options)

    def call(self, method, **arguments):
        # Through JSON, as between processes.
        return json.loads(json.dumps(getattr(self.side, method)(**json.loads(json.dumps(arguments)))))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if hasattr(self.side, "_server"):
            self.side._server.stop()


class SlowTraining:
    """Trains on nothing, 100 tokens a second; counts tokens by words, which the tiny vocabulary has one token for each."""

    def __init__(self, *, batch_size, sequence_length, **options):
        self.batch_size = batch_size

    def prepare(self, *, train, warm_up, turns, steps, seed):
        self.texts = material.reviews(train, (warm_up + turns * steps) * self.batch_size, seed=seed)[0]
        self.texts = self.texts[warm_up * self.batch_size :]
        self.per_turn = steps * self.batch_size
        tried = {"slow": 100.0}
        return {
            "variant": "slow",
            "tried_tokens_per_second": tried,
            "first_step_seconds": 1.0,
            "padding_share": 0.5,
        }

    def turn(self):
        texts, self.texts = self.texts[: self.per_turn], self.texts[self.per_turn :]
        tokens = sum(len(text.split()) + 2 for text in texts)
        return {"seconds": tokens / 100, "tokens": tokens, "tokens_per_second": 100.0}

    def train(self, *, train, test, epochs, seed):
        return {"accuracy": 0.5, "seconds": 1.0, "tokens_per_second": 100.0}


class SlowAnswers:
    """Answers as Garden does, without an export, and says it took a second a text."""

    def __init__(self, *, model, **options):
        from benchmarks.side_garden import garden

        self.model = garden.TextClassifier.from_pretrained(model)

    def prepare(self, *, test, calls, seed):
        return {"variant": dict.fromkeys(calls, "slow"), "tried_milliseconds": {size: {"slow": 1.0} for size in calls}}

    def turn(self, *, test, batch_size, calls, seed):
        return {"milliseconds": 1e3 * batch_size, "texts_per_second": 1.0}

    def answers(self, *, texts):
        return [(answer["label"], answer["score"]) for answer in self.model.predict_text(texts)]


# Turns and workers.


def test_players_take_turns_one_after_the_other():
    calls = []

    def player(name):
        return Player(lambda turn: calls.append((name, turn)) or {"rate": turn})

    turns = take_turns({"a": player("a"), "b": player("b")}, 3, settle=0)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [turn["rate"] for turn in turns["b"]] == [0, 1, 2]
    assert all(turn["others_cpu"] is None or 0 <= turn["others_cpu"] <= 1 for turn in turns["a"])


def test_a_worker_answers_calls_and_survives_their_errors():
    with Worker("counter", sys.executable, "collections:Counter", a=2, b=1) as worker:
        assert worker.call("most_common", n=1) == [["a", 2]]
        with pytest.raises(WorkerError, match=r"counter: AttributeError: .*no_such_method"):
            worker.call("no_such_method")
        assert worker.call("total") == 3
        assert "tensorflow" in worker.software["packages"]


def test_what_a_worker_prints_is_no_answer():
    with Worker("printer", sys.executable, INTERPRETER) as worker:
        assert worker.call("runsource", source="print('{}')") is False


def test_a_worker_that_dies_says_why():
    with (
        Worker("mortal", sys.executable, INTERPRETER) as worker,
        pytest.raises(WorkerError, match=r"(?s)mortal: .* code 3.*last words"),
    ):
        worker.call("runsource", source="import os; os.write(2, b'last words'); os._exit(3)")


def test_a_worker_that_takes_too_long_is_given_up():
    with Worker("slow", sys.executable, INTERPRETER) as worker:
        with pytest.raises(WorkerError, match=r"slow: no answer after 0.2 s"):
            worker.call("runsource", source="import time; time.sleep(60)", timeout=0.2)
        with pytest.raises(WorkerError, match="slow: its process ended"):
            worker.call("runsource", source="1")


def test_a_worker_that_cannot_begin_is_an_error():
    with pytest.raises(WorkerError, match="nothing: ModuleNotFoundError"):
        Worker("nothing", sys.executable, "no_such_module:Side")


def test_latencies_are_of_calls_and_rates_of_texts():
    numbers = latencies(len, [["a", "b"], ["c", "d"], ["e", "f"]])
    assert numbers["texts"] == 6
    assert numbers["milliseconds"] > 0
    assert numbers["texts_per_second"] == pytest.approx(6 / numbers["seconds"])


# Material and records.


def test_every_side_draws_the_same_texts(tiny_data):
    texts, labels = material.reviews(tiny_data["train"], 200, seed=3)
    assert (texts, labels) == material.reviews(tiny_data["train"], 200, seed=3)
    assert texts[:96] != material.reviews(tiny_data["train"], 96, seed=4)[0]
    everything, _ = material.reviews(tiny_data["train"])
    assert sorted(texts[:96]) == sorted(everything)
    assert [len(batch) for batch in material.text_batches(tiny_data["test"], 8, 3, seed=1)] == [8, 8, 8]


def test_results_are_kept_under_topic_hardware_and_date(tmp_path):
    result = record.context({"turns": 5}, {"Garden": {"packages": {}}})
    result["hardware"]["cpu"] = "Some(R) CPU X-1 @ 2.0GHz"
    result["date"] = "2026-01-02"
    cores = result["hardware"]["cores"]
    first = record.write("topic", result, "# Text\n", tmp_path)
    assert first.name == f"topic-some-cpu-x-1-{cores}core-2026-01-02.json"
    assert json.loads(first.read_text())["config"] == {"turns": 5}
    assert first.with_suffix(".md").read_text() == "# Text\n"
    second = record.write("topic", result, "# Other\n", tmp_path)
    assert second.name == f"topic-some-cpu-x-1-{cores}core-2026-01-02-2.json"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_busy_machine_is_said():
    quiet, busy, unknown = {"others_cpu": 0.01}, {"others_cpu": 0.4}, {"others_cpu": None}
    assert record.disturbed({"a": [quiet, unknown]}) == []
    (warning,) = record.disturbed({"a": [quiet, busy], "b": [quiet]})
    assert "40% (a)" in warning
    assert "(b)" not in warning


def test_medians_are_of_turns():
    assert record.median([{"x": 1}, {"x": 100}, {"x": 3}], "x") == 3


# Whole benchmarks.


@pytest.mark.slow
def test_fine_tuning_reports_both_sides(local_workers, tmp_path, tiny_bert, tiny_data, capsys):
    code = finetune.main(
        f"--model {tiny_bert} --train {tiny_data['train']} --test {tiny_data['test']} --precision float32 "
        f"--turns 2 --steps 2 --warm-up 3 --batch-size 8 --sequence-length 16 --accuracy 1 --epochs 1 "
        f"--reference-python {sys.executable} --settle 0 --record {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert code == 0, printed
    (file,) = tmp_path.glob("finetune-*.json")
    measured = json.loads(file.read_text())["precisions"]["float32"]
    # Same texts, same tokens: words and two special tokens each.
    theirs, ours = (measured["turns"][name] for name in (finetune.REFERENCE, finetune.GARDEN))
    assert [turn["tokens"] for turn in ours] == [turn["tokens"] for turn in theirs]
    assert not any("tokens" in warning for warning in measured["warnings"])
    medians = measured["median_tokens_per_second"]
    assert measured["ratio"][finetune.GARDEN] == pytest.approx(medians[finetune.GARDEN] / 100)
    assert 0 <= measured["prepared"][finetune.GARDEN]["padding_share"] < 1
    assert 0 <= measured["to_the_end"][finetune.GARDEN][0]["accuracy"] <= 1
    assert f"{measured['ratio'][finetune.GARDEN]:.2f} times as fast" in printed
    assert file.with_suffix(".md").read_text() in printed


@pytest.mark.slow
def test_serving_reports_all_sides(local_workers, tmp_path, tiny_bert, tiny_data, capsys):
    code = serve.main(
        f"--model {tiny_bert} --test {tiny_data['test']} --precision float32 --turns 1 --texts 3 --batch-sizes 1,3 "
        f"--sequence-length 16 --reference-python {sys.executable} --settle 0 --record {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert code == 0, printed
    (file,) = tmp_path.glob("serve-*.json")
    measured = json.loads(file.read_text())["precisions"]["float32"]
    # The SavedModel, and the server over both protocols, answer as the Python model does.
    assert not any("differ" in warning for warning in measured["warnings"])
    for size in ("1", "3"):
        numbers = measured["batch_sizes"][size]
        assert set(numbers["turns"]) == {serve.REFERENCE, serve.GARDEN, serve.GRPC, serve.REST}
        assert all(value > 0 for value in numbers["median_milliseconds"].values())
        assert numbers["ratio"][serve.REFERENCE] == 1
    assert "At batch 1, in process, Garden is" in printed


def test_different_answers_are_said(tiny_data):
    class Side:
        def __init__(self, label, score):
            self.label, self.score = label, score

        def call(self, method, texts):
            return [(self.label, self.score)] * len(texts)

    sides = {serve.REFERENCE: Side("positive", 0.51), "same": Side("negative", 0.50), "other": Side("negative", 0.7)}
    (warning,) = serve._different_answers(sides, tiny_data["test"], 0.02)
    assert warning.startswith("other")


def test_separate_projections_are_the_fused_ones_twin():
    sides = attention.layers(8, 2, "float32")["attention layer"]
    x = tf.random.stateless_normal([2, 3, 8], seed=[1, 2])
    for layer in sides.values():
        layer.build(x.shape)
    fused, separate = (sides[name] for name in (attention.FUSED, attention.SEPARATE))
    kernels = np.split(fused.query_key_value.kernel.numpy(), 3, axis=1)
    for part, kernel in zip(separate.query_key_value.parts, kernels, strict=True):
        part.kernel.assign(kernel)
    separate.output_projection.set_weights(fused.output_projection.get_weights())
    np.testing.assert_allclose(separate(x), fused(x), atol=1e-6)


def test_attention_reports_a_ratio(tmp_path, capsys):
    arguments = "--width 8 --heads 2 --rows 2 --row-length 4 --turns 1 --calls 2 --record"
    assert attention.main([*arguments.split(), str(tmp_path)]) == 0
    (file,) = tmp_path.glob("attention-*.json")
    measured = json.loads(file.read_text())["precisions"]["bfloat16"]["attention layer"]
    medians = measured["median_milliseconds"]
    assert measured["ratio"] == pytest.approx(medians[attention.SEPARATE] / medians[attention.FUSED])
    assert capsys.readouterr().out == file.with_suffix(".md").read_text() + "\n"


# Bad input.


def test_a_missing_reference_environment_is_one_line(monkeypatch, tmp_path, tiny_bert, capsys):
    monkeypatch.setattr(reference, "HERE", tmp_path / "nowhere")
    assert finetune.main(["--model", str(tiny_bert)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert reference.SETUP in error
    assert finetune.main(["--model", str(tiny_bert), "--reference-python", "/no/such/python"]) == 2
    assert "--reference-python /no/such/python" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int4"], "--precision: expected float32, bfloat16"),
        (["--batching", "sorted"], "--batching: expected packed, padded"),
        (["--batching", "packed", "--row-lengths", "wide"], "--row-lengths: expected numbers"),
        (["--turns", "0"], "--turns: expected at least 1, got 0"),
        (["--warm-up", "1"], "--warm-up: expected at least 3 steps, got 1"),
    ],
)
def test_bad_options_are_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        finetune.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("script", ["reference.py", "finetune.py", "pretrain.py", "serve.py"])
def test_scripts_start_from_anywhere(script, tmp_path):
    path = Path(reference.__file__).with_name(script)
    run = subprocess.run([sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "python benchmarks/" in run.stdout
