"""Builds by Apache Beam: the bytes of a build on this machine."""

import pytest
from corpus_texts import DUPLICATES, built

from training.corpora import parts
from training.corpora.documents import CorruptRecord

pytest.importorskip("apache_beam", reason="Apache Beam is the extra `beam`, which needs another protobuf than the rest")


@pytest.mark.parametrize("cleaning", [{}, DUPLICATES], ids=["plain", "duplicates"])
def test_the_same_bytes(corpus_config, tmp_path, monkeypatch, cleaning):
    from training.corpora.beam import Beam

    monkeypatch.setattr(parts, "PART_BYTES", 1)
    config = corpus_config(cleaning=cleaning)
    _, here = built(config, tmp_path / "here")
    report, by_beam = built(config, tmp_path / "beam", Beam("DirectRunner"))
    assert by_beam == here
    assert report["documents"] == 360
    assert report["run"]["chunks"] >= 4


def test_corrupt_records_are_one_line(corpus_config, tmp_path):
    from training.corpora.beam import Beam

    (tmp_path / "bad.jsonl").write_text('{"text": "cut')
    config = corpus_config(sources=[{"name": "bad", "paths": [str(tmp_path / "bad.jsonl")]}])
    with pytest.raises((CorruptRecord, ValueError), match="line 1: not JSON") as error:
        built(config, tmp_path / "beam", Beam("DirectRunner"))
    assert "\n" not in str(error.value)
