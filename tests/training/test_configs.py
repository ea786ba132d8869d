"""The configs that ship: each is read as what it is, and the small ones' commands run in `test_readme` and by hand."""

from pathlib import Path

import pytest

from training.config import read_config
from training.corpora.config import read_corpus_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("corpus_*.yaml")), ids=lambda path: path.stem)
def test_corpus_configs_are_read(path):
    assert read_corpus_config(path).output.startswith("corpora/")


@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.yaml")) - set(CONFIGS.glob("corpus_*"))), ids=lambda path: path.stem
)
def test_run_configs_are_read(path):
    config = read_config(path)
    assert config.output.startswith("runs/")
    assert f"garden train configs/{path.name}" in path.read_text(), "its header gives the command"
