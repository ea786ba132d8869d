"""`garden corpus`: help, results on stdout, one line and exit code 2 on bad input, from files to rows that read as text."""

import json
import os
import subprocess
import sys

import pytest

from garden.cli import run_command

COMMANDS = ("vocabulary", "build", "info", "show")
SENTENCES = ("The cat sat on a mat.", "Dogs ran over the hills in the rain!", "Birds sang of old ships.")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with texts and a config of them."""
    place = tmp_path_factory.mktemp("corpora")
    lines = [json.dumps({"body": " ".join(SENTENCES[index % 3 :]) + f" {index}."}) for index in range(120)]
    (place / "texts.jsonl").write_text("\n".join(lines) + "\n")
    (place / "corpus.yaml").write_text(
        f"""
sources:
  - {{name: texts, paths: ["{place}/texts.jsonl"], text: body}}
cleaning: {{unicode: nfc}}
tokenizer: {place}/vocabulary
sequence_length: 32
validation_share: 0.1
output: {place}/corpus
"""
    )
    return place


@pytest.fixture(scope="module")
def vocabulary(place):
    arguments = ["corpus", "vocabulary", place / "corpus.yaml", "--kind", "wordpiece", "--size", 100, "--lower-case"]
    assert run_command([str(each) for each in [*arguments, "--to", place / "vocabulary"]]) == 0
    return place / "vocabulary"


@pytest.fixture(scope="module")
def corpus(place, vocabulary):
    arguments = ["corpus", "build", str(place / "corpus.yaml"), "--workers", "1"]
    assert run_command(arguments) == 0
    return place / "corpus"


def run(capfd, *arguments) -> tuple[str, str]:
    """Runs a command in this process; returns stdout and what Garden says on stderr."""
    capfd.readouterr()
    assert run_command(["corpus", *(str(argument) for argument in arguments)]) == 0
    return capfd.readouterr()


def refused(capfd, *arguments) -> str:
    """Runs a command in this process; returns the one line with which it is refused."""
    capfd.readouterr()
    assert run_command(["corpus", *(str(argument) for argument in arguments)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("garden:")]
    assert len(lines) == 1, err
    return lines[0].removeprefix("garden: error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command, capfd):
    out, _ = run(capfd, command, "--help")
    assert f"garden corpus {command} " in out.split("Example:")[1]


def test_help_imports_no_tensorflow():
    code = "import sys, garden.cli; garden.cli.run_command(sys.argv[1:]); sys.exit('tensorflow' in sys.modules)"
    for command in (["corpus"], ["corpus", "build", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=False)
        assert done.returncode == 0


def test_build_help_lists_every_key(capfd):
    from training.configuration import key_table
    from training.corpora.config import CorpusConfig

    words = " ".join(run(capfd, "build", "--help")[0].split())
    for name, _ in key_table(CorpusConfig):
        assert name in words


def test_vocabulary_of_files_says_what_it_made(place, tmp_path, capfd):
    given = [place / "texts.jsonl", "--text", "body", "--kind", "bpe", "--size", 300, "--documents", 50]
    out, err = run(capfd, "vocabulary", *given, "--to", tmp_path / "bpe", "--json")
    made = json.loads(out)
    assert (made["kind"], made["documents"], made["tokenizer"]) == ("bpe", 50, str(tmp_path / "bpe"))
    assert (tmp_path / "bpe" / "merges.txt").is_file()
    out, err = run(capfd, "vocabulary", *given, "--to", tmp_path / "again")
    assert out.strip() == str(tmp_path / "again")
    assert "tokens from 50 documents" in err
    assert (tmp_path / "again" / "tokenizer.json").read_text() == (tmp_path / "bpe" / "tokenizer.json").read_text()


def test_build_info_and_show(place, corpus, capfd):
    out, _ = run(capfd, "build", place / "corpus.yaml", "--workers", 1, "--json")
    report = json.loads(out)
    assert report["documents"] == 120
    out, err = run(capfd, "build", place / "corpus.yaml", "--workers", 1)
    assert out.strip() == str(corpus)
    assert "documents: 120" in err
    described = json.loads(run(capfd, "info", corpus, "--verify", "--json")[0])
    assert described["verified"] == described["shards"] == 2
    assert described["train"]["documents"] + described["validation"]["documents"] == 120
    assert "texts: " in run(capfd, "info", corpus)[0]
    rows = [json.loads(line) for line in run(capfd, "show", corpus, "--rows", 2, "--json")[0].splitlines()]
    assert len(rows) == 2
    assert rows[0]["segments"][0]["text"].startswith("[CLS] ")
    assert "[CLS] " in run(capfd, "show", corpus, "--split", "validation", "--rows", 1)[0]


def test_progress_is_shown_when_asked_for(place, vocabulary, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("garden.corpus_commands._EVERY", 0.0)
    given = ["build", place / "corpus.yaml", f"output={tmp_path}/other", "--workers", 1]
    _, err = run(capfd, *given, "--progress")
    assert "1 chunks built" in err
    _, err = run(capfd, *given[:-2], f"output={tmp_path}/silent", "--workers", 1)
    assert "chunks built" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["vocabulary", "nowhere.jsonl", "--kind", "bpe", "--size", 300, "--to", "x"],
            "nowhere.jsonl: no file matches",
        ),
        (["vocabulary", "{place}/texts.jsonl", "--kind", "bpe", "--size", 300, "--to", "x"], "body"),
        (
            ["vocabulary", "{place}/corpus.yaml", "--kind", "bpe", "--size", 9, "--to", "x"],
            "size: 9 tokens are too few",
        ),
        (["vocabulary", "{place}/corpus.yaml", "--kind", "bpe", "--size", 300, "--to", "{place}"], "give another one"),
        (["build", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["build", "{place}/corpus.yaml", "layout=rows"], "layout: expected one of single, pair, causal"),
        (["build", "{place}/corpus.yaml", "sequence_length=3"], "sequence_length: expected a number of at least 4"),
        (["build", "{place}/corpus.yaml", "sources=[]"], "sources: expected at least one"),
        (["build", "{place}/corpus.yaml", "tokenizer=nowhere", "output=y"], "nowhere: no such directory"),
        (["build", "{place}/corpus.yaml", "--runner-option", "--a=b"], "--runner-option is for --runner"),
        (["info", "nowhere"], "index.json: no such file; build the corpus with garden corpus build"),
        (["show", "{place}/corpus", "--tokenizer", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_bad_input_is_one_line(place, corpus, arguments, message, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capfd, *(str(each).format(place=place) for each in arguments))
    assert not os.listdir(tmp_path), "nothing is left behind"


def test_beam_that_is_not_installed_is_one_line(place, vocabulary, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    sys.modules.pop("training.corpora.beam", None)
    arguments = ["build", place / "corpus.yaml", f"output={tmp_path}/beam", "--runner", "DirectRunner"]
    assert "pip install 'tf-garden[beam]'" in refused(capfd, *arguments)
