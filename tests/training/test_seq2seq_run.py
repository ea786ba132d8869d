"""A run of a sequence-to-sequence model, from a YAML file to answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.config import read_config
from training.models import open_task
from training.run import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_bert) -> Path:
    """The output of a run on a new T5 with a vocabulary of words."""
    place = tmp_path_factory.mktemp("seq2seq")
    words = ["good film", "a bad story", "great", "the end is dull", "lovely actors", "it was fine"]
    rows = [{"question": text, "reply": text.split()[-1]} for text in words * 4]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = f"""
        task: seq2seq-lm
        model:
          family: t5
          config: {{d_model: 16, d_kv: 8, d_ff: 16, num_layers: 1, num_heads: 2}}
          tokenizer: {tiny_bert}
        data: {{train: {place}/pairs.jsonl, validation: {place}/pairs.jsonl, text: question, label: reply}}
        training: {{steps: 6, batch_size: 8, learning_rate: 0.01, sequence_length: 12, target_length: 6,
          label_smoothing: 0.1, log_steps: 3}}
        output: {place}/run
    """
    (place / "config.yaml").write_text(config, encoding="utf-8")
    run(read_config(place / "config.yaml"))
    return place / "run"


def test_a_run_writes_metrics_and_a_report(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_perplexity" in line and "validation_token_accuracy" in line for line in lines)
    report = json.loads((finished / "report.json").read_text())
    assert report["task"] == "seq2seq-lm"
    assert report["examples"] == 24
    # Of the tokens as they are, while the loss is of smoothed labels.
    assert 1 < report["perplexity"] < 40


@pytest.mark.slow
def test_its_model_opens_as_what_it_is_and_answers_on_the_command_line(finished):
    model = open_task(finished / "model")
    assert type(model).__name__ == "Seq2SeqLM"
    assert (model.sequence_length, model.target_length) == (12, 6)
    answer = model.predict_text("great")
    garden = str(Path(sys.executable).with_name("garden"))
    command = [garden, "predict", str(finished / "model"), "great", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["text"], line["generated_text"]) == ("great", answer["generated_text"])


def test_keys_of_other_tasks_are_refused(finished):
    config = finished.parent / "config.yaml"
    with pytest.raises(ValueError, match=r'training.target_length: only for task "seq2seq-lm"'):
        read_config(config, ["task=masked-lm", "training.label_smoothing=0"])
