"""Paths of configs: plain ones, and those inside installed packages."""

import sys
from pathlib import Path

import pytest

from training.paths import located


def test_plain_paths_are_left_as_they_are(monkeypatch, tmp_path):
    assert located("runs/x.jsonl") == Path("runs/x.jsonl")
    assert located(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", "/home/somebody")
    assert located("~/x") == Path("/home/somebody/x")


def test_data_that_ships_is_found():
    path = located("package:garden/data/movie_reviews.test.jsonl.gz")
    assert path.is_file()
    assert path.is_absolute()


def test_a_package_is_found_without_being_imported(monkeypatch, tmp_path):
    package = tmp_path / "weighty"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert located("package:weighty/model") == package / "model"
    assert located("package:weighty") == package
    assert "weighty" not in sys.modules


@pytest.mark.parametrize(
    "path", ["package:", "package:no_such_package/x", "package:json5x/y", "package:../etc", "package:a.b/c"]
)
def test_packages_that_are_not_there_are_named(path):
    with pytest.raises(FileNotFoundError, match="no package"):
        located(path)


def test_movie_reviews_are_what_they_say():
    import garden

    for split, count in (("train", 8499), ("test", 1025)):
        examples = garden.read_examples(located(f"package:garden/data/movie_reviews.{split}.jsonl.gz"))
        assert len(examples) == count
        assert set(examples.labels) == {"negative", "positive"}
    assert "Hutto" in located("package:garden/data/movie_reviews.NOTICE.txt").read_text()
