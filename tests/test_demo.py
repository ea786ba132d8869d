"""`make demo` from start to end, on tiny data, and that it leaves no server behind when something fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_demo_ends_with_one_json_object(tiny_bert, tiny_data, tmp_path):
    overrides = [
        f"model.pretrained={tiny_bert}",
        f"data.train={tiny_data['train']}",
        f"data.test={tiny_data['test']}",
        "training.learning_rate=0.01",
        "training.epochs=4",
    ]
    command = [sys.executable, "-m", "demo", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert set(results) == {
        *("accuracy", "precision", "recall", "f1", "roc_auc", "answers", "export", "model", "seconds"),
    }
    assert (tmp_path / results["export"] / "saved_model.pb").is_file()
    assert (tmp_path / results["model"] / "model.safetensors").is_file()
    assert {answer["label"] for answer in results["answers"]} <= {"negative", "positive"}
    assert "over gRPC:" in done.stdout
    assert "stopped" in done.stderr


def test_a_server_that_is_not_answered_is_stopped_when_something_fails(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import demo

    started = []
    popen = subprocess.Popen

    def start(command, **options):
        # Announces itself as `garden serve --json` does, and then waits.
        code = "import time; print('{}', flush=True); time.sleep(600)"
        started.append(popen([sys.executable, "-c", code], **options))
        return started[0]

    monkeypatch.setattr(demo.subprocess, "Popen", start)
    with pytest.raises(ZeroDivisionError), demo.server("exports/demo"):
        1 / 0  # noqa: B018
    assert started[0].returncode is not None


def test_a_server_that_does_not_start_is_an_error(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    import demo

    with pytest.raises(RuntimeError, match="exit code 2"), demo.server(str(tmp_path / "nothing")):
        pytest.fail("there is no server to ask")
