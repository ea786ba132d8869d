"""The `garden` command: help, results on stdout, one line and exit code 2 on bad input, signals, a whole run on tiny data."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from garden.cli import run_command

COMMANDS = ("train", "evaluate", "predict", "export", "serve", "convert", "info", "corpus")
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES")
}
GARDEN = [sys.executable, "-m", "garden.cli"]


def start(*arguments, **options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["env"] = ENVIRONMENT  # the command itself keeps TensorFlow quiet
    return subprocess.Popen([*GARDEN, *map(str, arguments)], **pipes | options)


def garden(*arguments, given="", **options):
    """Runs a command in a process of its own: exit code, stdout, stderr."""
    with start(*arguments, **options) as process:
        out, err = process.communicate(given)
    return process.returncode, out, without_grappler(err)


def without_grappler(err: str) -> str:
    """Leaves out what TensorFlow's graph optimiser says of checks in a graph, at any log level."""
    noise = ("absl::InitializeLog", "loop_optimizer.cc")
    return "".join(line for line in err.splitlines(keepends=True) if not any(part in line for part in noise))


def refused(capfd, *arguments) -> str:
    """Runs a command in this process; returns the one line with which it is refused."""
    assert run_command([str(argument) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("garden:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("garden: error: ")
    assert "Traceback" not in err
    return lines[0].removeprefix("garden: error: ")


@pytest.fixture(scope="module")
def config_file(tiny_bert, tiny_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(
        f"""
task: text-classification
model: {{pretrained: {tiny_bert}}}
data: {{train: {tiny_data["train"]}, validation: {tiny_data["test"]}}}
training: {{epochs: 1, learning_rate: 0.01, batch_size: 16}}
output: {path.parent / "run"}
"""
    )
    return path


LONGER = ("training.epochs=8", "training.validation_steps=48")


@pytest.fixture(scope="module")
def trained(config_file):
    """What `garden train` does in a process of its own: exit code, stdout, stderr."""
    return garden("train", config_file, *LONGER, "--progress", "--json")


@pytest.fixture(scope="module")
def model(trained) -> str:
    return json.loads(trained[1])["model"]


# ------------------------------------------------------------------------------------------ help


def test_help_is_fast_and_does_not_import_tensorflow():
    code = "import sys, garden.cli; garden.cli.run_command(['--help']); print(*sys.modules, file=sys.stderr)"
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begin)
    assert not {"tensorflow", "keras", "numpy", "omegaconf"} & set(done.stderr.split())
    assert min(seconds) < 0.5
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command, capfd):
    assert run_command([command, "--help"]) == 0
    out, err = capfd.readouterr()
    assert f"garden {command} " in out.split("Example:")[1]
    assert err == ""


def test_train_help_lists_every_key_with_its_default(capfd):
    from training.config import key_table

    run_command(["train", "--help"])
    words = " ".join(capfd.readouterr().out.split())
    for name, meaning in key_table():
        assert name in words
        assert meaning.replace(" ", "") in words.replace(" ", "")  # a line may end after a hyphen
    assert "training.batch_size: 32" in words


def test_without_a_command_it_prints_help(capfd):
    assert run_command([]) == 0
    assert "Usage: garden" in capfd.readouterr().out


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sing"], "'sing'"),
        (["train"], "CONFIG"),
        (["train", "a.yaml", "--fast"], "--fast"),
        (["train", "/nowhere/a.yaml"], "/nowhere/a.yaml"),
        (["predict", "/nowhere", "text"], "/nowhere"),
        (["predict", "package:no_such_package/model", "text"], "no_such_package"),
        (["evaluate", "/nowhere", "data.jsonl"], "/nowhere"),
        (["export", "/nowhere", "exports"], "/nowhere"),
        (["info", "/nowhere"], "/nowhere"),
        (["serve", "--model-base", "/nowhere"], "/nowhere"),
        (["serve", "--model-base", ".", "--port", "100000"], "100000"),
        (["predict", "/nowhere", "text", "--file", "x"], "--file"),
        (["predict", "/nowhere", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_bad_input_is_one_line_that_names_it(arguments, named, capfd):
    assert named in refused(capfd, *arguments)


def test_bad_configs_are_one_line(config_file, tmp_path, capfd):
    assert "known: epochs, steps" in refused(capfd, "train", config_file, "training.epoch=3")
    assert "training.batch_size" in refused(capfd, "train", config_file, "training.batch_size=many")
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: [a\nb: c: d\n")
    assert str(broken) in refused(capfd, "train", broken)
    broken.write_text("- a\n- b\n")
    assert "keys and values" in refused(capfd, "train", broken)


def test_bad_data_is_one_line_with_its_place(model, tmp_path, capfd):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a", "label": "positive"}\n{"text": "b"}\n')
    line = refused(capfd, "evaluate", model, data)
    assert "line 2" in line
    assert '"label"' in line
    data.write_text('{"text": "a", "label": "splendid"}\n')
    assert "splendid" in refused(capfd, "evaluate", model, data)
    assert "missing.jsonl" in refused(capfd, "evaluate", model, tmp_path / "missing.jsonl")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(capfd, "export", model, tmp_path / "file")


def test_a_network_without_a_trained_task_says_what_to_do(tiny_bert, capfd):
    assert "garden train" in refused(capfd, "predict", tiny_bert, "text")


def test_a_runs_directory_says_where_its_model_is(model, capfd):
    assert model in refused(capfd, "predict", Path(model).parent, "text")


def test_a_broken_export_is_one_line(tmp_path, capfd):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a SavedModel")
    assert "saved_model.pb" in refused(capfd, "info", tmp_path)


def test_a_failed_check_in_a_graph_is_told_in_its_own_words(monkeypatch, capfd):
    import tensorflow as tf

    import garden.describe

    @tf.function
    def check(label):
        tf.debugging.Assert(label == "yes", ["label", [label], "is not one of the classes"])

    def describe(path):
        check(tf.constant("nope"))

    monkeypatch.setattr(garden.describe, "describe", describe)
    assert refused(capfd, "info", "x") == "label nope is not one of the classes"


def test_debug_shows_the_traceback():
    code, out, err = garden("train", "/nowhere/a.yaml", "--debug")
    assert code == 1
    assert out == ""
    assert "Traceback" in err
    assert "FileNotFoundError" in err


# ------------------------------------------------------------------------------------------ a run


def test_train_prints_one_json_line_on_stdout_and_progress_on_stderr(trained):
    code, out, err = trained
    assert code == 0, err
    assert len(out.splitlines()) == 1
    results = json.loads(out)
    assert results["steps"] == 48
    assert results["report"]["accuracy"] > 0.9
    first, *progress = err.splitlines()
    assert first.endswith("no weights for the head, which starts from random ones")
    assert [re.match(r"step \d+", line)[0] for line in progress] == [f"step {n}" for n in (10, 20, 30, 40, 48, 48)]


def test_progress_is_silent_where_stderr_is_no_terminal(config_file, monkeypatch, capfd):
    import training.run

    asked = []

    def run(config, **options):
        asked.append(options)
        logging.getLogger("training.run").info("step 1")
        return {"model": "m", "steps": 1, "kept_step": 1, "report": None}

    monkeypatch.setattr(training.run, "run", run)
    assert run_command(["train", str(config_file)]) == 0
    assert capfd.readouterr() == ("model: m (of step 1, 1 trained)\n", "")
    assert asked == [{"overwrite": False, "progress_bar": False}]
    assert not logging.getLogger("training").isEnabledFor(logging.INFO)
    assert run_command(["train", str(config_file), "--progress"]) == 0
    assert logging.getLogger("training").isEnabledFor(logging.INFO)


def test_a_finished_run_is_not_overwritten(trained, config_file, model, capfd):
    before = {path: path.stat().st_mtime_ns for path in Path(model).parent.rglob("*")}
    assert "--overwrite" in refused(capfd, "train", config_file, *LONGER)
    assert {path: path.stat().st_mtime_ns for path in Path(model).parent.rglob("*")} == before


def test_evaluate(model, tiny_data, trained, capfd):
    assert run_command(["evaluate", model, str(tiny_data["test"]), "--json"]) == 0
    results = json.loads(capfd.readouterr().out)
    report = json.loads(trained[1])["report"]
    assert results["accuracy"] == report["accuracy"]
    assert results["confusion_matrix"] == report["confusion_matrix"]
    assert run_command(["evaluate", model, str(tiny_data["test"])]) == 0
    assert f"accuracy: {report['accuracy']:.4f}" in capfd.readouterr().out


def test_predict_from_arguments_files_and_stdin_is_the_same(model, tmp_path, capfd):
    texts = ["a great film", "it was dull", ""]
    assert run_command(["predict", model, *texts, "--json"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == texts
    assert [answer["label"] for answer in answers[:2]] == ["positive", "negative"]

    rows = tmp_path / "texts.jsonl"
    rows.write_text("".join(json.dumps({"review": text}) + "\n" for text in texts))
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(texts) + "\n")
    for options in (["--file", str(rows), "--text-field", "review"], ["--file", str(lines), "--batch-size", "2"]):
        assert run_command(["predict", model, *options, "--json"]) == 0
        given = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [answer["label"] for answer in given] == [answer["label"] for answer in answers]
        assert [answer["score"] for answer in given] == pytest.approx([a["score"] for a in answers], abs=1e-5)

    code, out, err = garden("predict", model, given="\n".join(texts) + "\n")
    assert (code, err) == (0, "")
    assert [line.split("\t") for line in out.splitlines()] == [
        [answer["label"], f"{answer['score']:.4f}", answer["text"]] for answer in answers
    ]


def test_info(model, capfd):
    assert run_command(["info", model, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["task"] == "text-classification"
    assert told["labels"] == ["negative", "positive"]
    assert told["config"]["hidden_size"] == 16
    assert told["parameters"] == 27 * 16 + 64 * 16 + 2 * 16 + 32 + (4 * 272 + 2 * 32 + 544 + 528) + 272 + 34


def test_export_info_and_serve(model, tmp_path, capfd):
    from serving.client import Client

    base = tmp_path / "exports" / "tiny"
    assert run_command(["export", model, str(base)]) == 0
    assert Path(capfd.readouterr().out.strip()) == base / "1"
    assert run_command(["info", str(base), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["versions"] == [1]
    assert told["signatures"]["serving_default"].startswith("text string[?] -> ")

    with start("serve", "--model-base", base, "--port", 0, "--grpc-port", 0, "--json") as server:
        try:
            address = json.loads(server.stdout.readline())
            with Client(address["rest"]) as rest, Client(grpc=address["grpc"]) as grpc:
                for client in (rest, grpc):
                    assert list(client.predict("tiny", ["a great film", "dull"])["label"]) == ["positive", "negative"]
            taken = address["rest"].rsplit(":")[-1]
            code, _, err = garden("serve", "--model-base", base, "--port", taken, "--grpc-port", 0)
            assert code == 2
            assert taken in err.splitlines()[-1]
        finally:
            server.terminate()
        assert server.wait(30) == 0
        assert server.stdout.read() == ""


# ------------------------------------------------------------------------------------------ signals and pipes


def test_a_closed_pipe_ends_the_command_quietly(model):
    with start("predict", model, "--batch-size", 1) as process:
        process.stdin.write("a great film\n" * 400)
        process.stdin.flush()
        assert process.stdout.readline().startswith("positive")
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 1
        assert without_grappler(process.stderr.read()) == ""


def test_ctrl_c_is_not_lost_while_an_object_is_removed():
    """Where Python only reports that an exception was ignored. The command would wait for its input for ever."""
    code = """
import os, signal, sys
from garden import cli

class Removed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

@cli.cli.command()
def wait():
    Removed()
    sys.stdin.readline()

sys.argv = ["garden", "wait"]
cli.main()
"""
    arguments = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **arguments) as process:
        try:
            assert process.wait(60) == 128 + signal.SIGINT
        finally:
            process.kill()
        assert process.stderr.read().strip() == "garden: interrupted"


def test_ctrl_c_ends_the_command_with_one_line(model):
    with start("predict", model, "--batch-size", 1) as process:
        process.stdin.write("a great film\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("positive")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        assert without_grappler(process.stderr.read()).strip() == "garden: interrupted"
