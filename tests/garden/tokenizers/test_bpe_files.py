"""vocab.json and merges.txt as tokenizer.json: the reference's file, and its ids."""

import gzip
import json
from pathlib import Path

import pytest

from garden.tokenizers import Tokenizer
from garden.tokenizers.files import read_files

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[2] / "golden/bpe.json.gz").read_bytes()))


def write(directory: Path, record: dict) -> Path:
    """The directory of a record."""
    (directory / "vocab.json").write_text(json.dumps(GOLDEN["vocabulary"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in GOLDEN["merges"])]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(record["config"]), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": record["model_type"]}), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    "record", GOLDEN["records"], ids=lambda record: f"{record['model_type']}-{len(record['config'])}"
)
def test_the_file_and_ids_are_the_references(record, tmp_path):
    spec = json.loads(json.dumps(read_files(write(tmp_path, record)).tokenizer))
    assert spec["model"].pop("vocab") == GOLDEN["vocabulary"]
    assert spec["model"].pop("merges") == GOLDEN["merges"]
    assert spec == record["spec"]
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer(GOLDEN["texts"]).to_list() == record["ids"]
    assert [text.decode() for text in tokenizer.detokenize(record["ids"], False).numpy()] == record["decoded"]


def test_where_nobody_says_special_tokens_do(tmp_path):
    write(tmp_path, {"config": {}, "model_type": None})
    assert read_files(tmp_path).tokenizer["added_tokens"][0]["content"] == "<|endoftext|>"
    vocabulary = {token: index for token, index in GOLDEN["vocabulary"].items() if token != "<|endoftext|>"}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    assert read_files(tmp_path).tokenizer["post_processor"]["type"] == "RobertaProcessing"


def test_refusals(tmp_path):
    write(tmp_path, {"config": {"tokenizer_class": "BloomTokenizer"}, "model_type": "bloom"})
    with pytest.raises(ValueError, match="tokenizer_class BloomTokenizer are not supported; supported: GPT2Tokenizer"):
        read_files(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"merges.txt:2: expected two tokens, got 'a b c'"):
        read_files(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges.txt is missing"):
        read_files(tmp_path)
