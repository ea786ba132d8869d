"""SentencePiece models as tokenizer.json: the reference's file, its ids, and sentencepiece's own."""

import base64
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from garden.tokenizers import Tokenizer
from garden.tokenizers.files import read_files
from garden.tokenizers.sentencepiece_files import read_sentencepiece

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[2] / "golden/sentencepiece.json.gz").read_bytes()))
RECORDS = GOLDEN["records"]


def sha(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def write(directory: Path, record: dict) -> Path:
    """The directory of a record."""
    (directory / record["file"]).write_bytes(base64.b64decode(GOLDEN["models"][record["model"]]))
    (directory / "tokenizer_config.json").write_text(json.dumps(record["config"]), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": record["model_type"]}), encoding="utf-8")
    return directory


def name(record: dict) -> str:
    return f"{record['model']}-{record['model_type']}-{record['config'].get('tokenizer_class')}"


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_the_file_is_the_references(record, tmp_path):
    spec = json.loads(json.dumps(read_files(write(tmp_path, record)).tokenizer))
    hashes = [sha(spec["model"].pop(part, None)) for part in ("vocab", "merges")]
    if (
        record["model"] != "fairseq" or record["file"] != "tokenizer.model"
    ):  # scores that the reference read from a file
        assert hashes == record["vocabulary"]
    assert sha(spec.pop("normalizer")) == record["normalizer"]
    assert spec == record["spec"]


@pytest.mark.parametrize("record", [*RECORDS[1:4], RECORDS[7], *RECORDS[9:12]], ids=name)
def test_ids_and_texts(record, tmp_path):
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, record))
    assert tokenizer(GOLDEN["texts"]).to_list() == record["ids"]
    assert [text.decode() for text in tokenizer.detokenize(record["ids"], False).numpy()] == record["decoded"]


@pytest.mark.parametrize("model", GOLDEN["sentencepiece"])
def test_a_model_without_a_family_reads_as_sentencepiece(model, tmp_path):
    expected = GOLDEN["sentencepiece"][model]
    (tmp_path / "tokenizer.model").write_bytes(base64.b64decode(GOLDEN["models"][model]))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer([GOLDEN["texts"][int(index)] for index in expected]).to_list() == list(expected.values())


def test_roles_of_the_family(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, RECORDS[0]))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.model_max_length) == (0, 2, None)


def test_broken_files(tmp_path):
    path = tmp_path / "spiece.model"
    whole = base64.b64decode(GOLDEN["models"]["plain"])
    for data in (b"version https://git-lfs.github.com/spec/v1\n", b"", whole[:1000], b"\xff" * 40, b"\x0b"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            read_sentencepiece(path)


def test_refusals(tmp_path):
    record = {**RECORDS[0], "config": {"tokenizer_class": "XLNetTokenizer"}}
    with pytest.raises(ValueError, match=r"tokenizer_class XLNetTokenizer is not supported with spiece.model"):
        Tokenizer.from_pretrained(write(tmp_path, record))
    record = next(r for r in RECORDS if r["model_type"] == "mbart")
    with pytest.raises(ValueError, match=r'src_lang: expected one of ar_AR .* got "xx"'):
        read_files(
            write(tmp_path, {**record, "file": "spiece.model", "config": {**record["config"], "src_lang": "xx"}})
        )
