"""What tests of corpora share: a few texts of words that a tiny tokenizer knows, as files and as a config."""

from pathlib import Path

import pytest
from corpus_texts import texts, write_jsonl


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A WordPiece vocabulary of the words above."""
    from training.corpora.vocabulary import train_vocabulary, write_vocabulary

    directory = tmp_path_factory.mktemp("vocabulary") / "wordpiece"
    write_vocabulary(train_vocabulary(texts(200), kind="wordpiece", size=120, lower_case=True), directory)
    return directory


@pytest.fixture(scope="session")
def corpus_files(tmp_path_factory) -> Path:
    """A directory of six files of texts, some of which are there twice."""
    directory = tmp_path_factory.mktemp("texts")
    for number in range(6):
        write_jsonl(directory / f"{number}.jsonl", texts(60, seed=number // 2 if number == 5 else number))
    return directory


@pytest.fixture
def corpus_config(tokenizer_dir, corpus_files, tmp_path):
    """Makes a config of the files, with changes on top."""
    from training.corpora.config import make_corpus_config

    def make(**changes):
        values = {
            "sources": [
                {"name": "even", "paths": [str(corpus_files / f"{number}.jsonl") for number in (0, 2, 4)]},
                {"name": "odd", "paths": [str(corpus_files / f"{number}.jsonl") for number in (1, 3, 5)]},
            ],
            "tokenizer": str(tokenizer_dir),
            "sequence_length": 32,
            "validation_share": 0.1,
            "output": str(tmp_path / "corpus"),
        }
        return make_corpus_config({**values, **changes})

    return make
