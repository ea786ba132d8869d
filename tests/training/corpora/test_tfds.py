"""TensorFlow Datasets by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.corpora.documents import CorruptRecord, ReadReport
from training.corpora.readers import read_documents

PREPARE = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class Haikus(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        poem = {"text": tfds.features.Text(), "number": tfds.features.Scalar(np.int64)}
        lines = tfds.features.Sequence(tfds.features.Text())
        features = tfds.features.FeaturesDict({"poem": poem, "lines": lines})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
        return {"train": self._generate_examples(40), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for number in range(count):
            text = f"haiku {number}\\n\\nü" if number else ""
            yield number, {"poem": {"text": text, "number": number}, "lines": ["a", "b"]}

Haikus(data_dir=sys.argv[1]).download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A directory of prepared data sets, written by another process: here the class is unknown."""
    directory = tmp_path_factory.mktemp("tfds")
    script = directory / "haikus.py"
    script.write_text(PREPARE)
    subprocess.run([sys.executable, script, directory], check=True, capture_output=True)
    return directory


def read(names, **options):
    return list(read_documents("tfds", names, name="poems", **options))


def test_a_prepared_data_set(prepared):
    report = ReadReport()
    documents = read(["haikus"], data_dir=str(prepared), text="poem.text", report=report)
    numbers = sorted(int(each.text.splitlines()[0].split()[1]) for each in documents)
    assert numbers == list(range(1, 40))
    assert report.skipped == {"no text": 1}
    assert documents[0].text.endswith("\nü")
    assert documents[-1].where == "haikus, train, example 40"
    assert documents == read(["haikus"], data_dir=str(prepared), text="poem.text"), "in the same order each time"
    assert len(read(["haikus"], data_dir=str(prepared), text="poem.text", split="train[:10]")) in (9, 10)


def test_the_directory_of_a_version(prepared):
    documents = read([str(prepared / "haikus/1.0.0")], text="lines", split="test")
    assert [each.text for each in documents] == ["a\nb"] * 3


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("haikus", {"split": "dev"}, ValueError, 'haikus: no split "dev"; known: test, train'),
        ("haikus", {}, ValueError, 'haikus, train, example 1: no field "text"; set text to one of lines, poem.number'),
        ("haikus", {"text": "poem.number"}, CorruptRecord, 'example 1: expected text in "poem.number", got'),
        ("limericks", {}, FileNotFoundError, "limericks: TensorFlow Datasets knows no such data set"),
        ("haikus:2.0.0", {}, FileNotFoundError, "haikus:2.0.0: TensorFlow Datasets knows no such data set"),
        ("wiki40b/en", {}, FileNotFoundError, "wiki40b/en: not prepared in .*; prepare it with `tfds build`"),
    ],
)
def test_what_is_not_there_is_told(prepared, name, options, kind, message):
    with pytest.raises(kind, match=message) as told:
        read([name], data_dir=str(prepared), **options)
    assert "\n" not in str(told.value)


def test_a_damaged_data_set(prepared, tmp_path):
    for file in (prepared / "haikus/1.0.0").iterdir():
        content = bytearray(file.read_bytes())
        if "-train.tfrecord" in file.name:
            content[len(content) // 2] ^= 255
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(
        CorruptRecord, match=r"train, example \d+: the examples from here on cannot be read: .*corrupted"
    ):
        read([str(tmp_path)], text="poem.text")
    report = ReadReport()
    assert 10 < len(read([str(tmp_path)], text="poem.text", skip_corrupt=True, report=report)) < 39
    assert report.corrupt == 1
