"""Every `garden` command and every Python block of the README and of docs/ runs, on a tiny model and tiny data."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = (
    "adding_a_family.md",
    "checkpoints.md",
    "corpora.md",
    "model_parallel.md",
    "scaling.md",
    "serving.md",
    "tasks.md",
    "training.md",
)
IN_TURN = [pytest.param(page, marks=pytest.mark.slow if page.name in LONG else ()) for page in PAGES]
"""The pages with the longest commands take minutes."""

PRELUDE = """
texts = ["a great film", "a dull film"] * 8
labels = ["positive", "negative"] * 8
more_texts, more_labels = texts, labels
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands(page: Path) -> list[str]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("garden ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_bert, tiny_data) -> Path:
    """A working directory with what the pages take for granted: a config, data and a trained model."""
    place = tmp_path_factory.mktemp("reader")
    (place / "configs").mkdir()
    config = f"""
        task: text-classification
        model: {{pretrained: "{tiny_bert}"}}
        data: {{train: "{tiny_data["train"]}", validation: "{tiny_data["test"]}", labels: [negative, positive]}}
        training: {{epochs: 1, sequence_length: 32}}
        output: runs/sentiment
    """
    (place / "configs" / "sentiment.yaml").write_text(config, encoding="utf-8")
    _write_corpus_configs(place / "configs")
    for name in ("train.jsonl", "test.jsonl"):
        (place / name).write_bytes(tiny_data[name.removesuffix(".jsonl")].read_bytes())
    (place / "path" / "to").mkdir(parents=True)
    (place / "path" / "to" / "checkpoint").symlink_to(tiny_bert)
    _write_language_models(place / "path" / "to", tiny_bert)
    run(place, "garden train configs/sentiment.yaml")
    return place


def _write_corpus_configs(place: Path) -> None:
    """Configs of corpora and of a run on one, under the names that the pages use."""
    for name, output in (("corpus", "mine"), ("corpus_wordnet", "wordnet")):
        config = f"""
            sources: [{{name: mine, paths: [train.jsonl]}}]
            tokenizer: corpora/wordnet-vocabulary
            sequence_length: 32
            validation_share: 0.1
            output: corpora/{output}
        """
        (place / f"{name}.yaml").write_text(config, encoding="utf-8")
    run_config = """
        task: masked-lm
        model:
          family: bert
          tokenizer: corpora/wordnet-vocabulary
          config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
        data: {corpus: corpora/wordnet}
        training: {steps: 2, batch_size: 4}
        output: runs/bert-tiny
    """
    (place / "pretrain_bert_tiny.yaml").write_text(run_config, encoding="utf-8")


def _write_language_models(place: Path, tiny_bert: Path) -> None:
    """A decoder and an encoder-decoder beside `tiny_bert`, with its vocabulary."""
    from garden.models.gpt2 import GPT2Backbone, GPT2Config
    from garden.models.t5 import T5Backbone, T5Config

    vocabulary = (tiny_bert / "vocab.txt").read_text(encoding="utf-8")
    size = len(vocabulary.splitlines())
    decoder = GPT2Backbone(GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    both = T5Backbone(T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    for name, backbone in (("decoder", decoder), ("encoder-decoder", both)):
        backbone.save_pretrained(place / name)
        (place / name / "vocab.txt").write_text(vocabulary, encoding="utf-8")


def run(place: Path, command: str) -> str:
    garden = str(Path(sys.executable).with_name("garden"))
    done = subprocess.run([garden, *shlex.split(command)[1:]], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_pages_are_there():
    assert any(commands(page) for page in PAGES)


@pytest.mark.parametrize("page", IN_TURN, ids=lambda page: page.name)
def test_commands_run(page, place):
    for command in commands(page):
        if command.startswith("garden serve"):
            # tests/serving starts servers; here it matters that the options are there.
            options = re.findall(r"--[\w-]+", command)
            help_page = run(place, "garden serve --help")
            assert all(option in help_page for option in options), command
        elif command.startswith("garden train") and "output=" not in command and "--help" not in command:
            run(place, f"{command} output=runs/{abs(hash(command))}")
        else:
            run(place, command)


@pytest.mark.parametrize("page", IN_TURN, ids=lambda page: page.name)
def test_python_runs(page, place):
    for block in blocks(page, "python"):
        if "serving.client" in block:
            compile(block, str(page), "exec")  # tests/serving asks real servers
            continue
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + block], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page.name}: {done.stderr[-2000:]}"
