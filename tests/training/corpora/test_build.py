"""Building corpora: the same bytes whoever builds, whatever interrupted it; what is refused, and how."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from corpus_texts import DUPLICATES, built, contents, texts, write_jsonl

from garden.tokenizers import Tokenizer
from training.corpora import build as building
from training.corpora import chunks, journal, parts, store
from training.corpora.build import build
from training.corpora.chunks import held_out
from training.corpora.describe import describe, rows_as_text, verify
from training.corpora.documents import CorruptRecord
from training.corpora.store import Corpus
from training.corpora.workers import Local

ROOT = Path(__file__).parents[3]

PLAIN_AND_DUPLICATES = [
    pytest.param({}, id="plain"),
    pytest.param(DUPLICATES, id="duplicates", marks=pytest.mark.slow),  # reads the corpus more than once
]


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch):
    """Opens each tokenizer once in this process: that takes longer than all else here."""
    monkeypatch.setattr(Tokenizer, "from_pretrained", _opened)


@functools.cache
def _opened(directory, **options):
    return _open(directory, **options)


_open = Tokenizer.from_pretrained


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few documents, in this process."""
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 3000)


def test_a_corpus_holds_all_texts(corpus_config, small_chunks):
    config = corpus_config()
    report = build(config, Local(1))
    assert report["documents"] == 360
    assert report["splits"]["train"]["documents"] + report["splits"]["validation"]["documents"] == 360
    assert report["splits"]["train"]["fill"] > 0.9
    assert verify(config.output) == len(Corpus(config.output).index.shards) > 6
    assert not (Path(config.output) / journal.BUILDING).exists()
    corpus = Corpus(config.output)
    count = corpus.rows("train")
    batch = corpus.batch("train", np.arange(count))
    real = int((batch["segment_ids"] > 0).sum())
    counts = report["splits"]["train"]
    assert real == corpus.tokens("train") == counts["real"]
    segments = int(batch["segment_ids"].max(axis=1).sum())
    assert real == counts["tokens"] + 2 * segments, "every token once, and two special ones a segment"
    assert segments == counts["documents"] - counts["empty"] + counts["cut"] + counts["filling"]
    described = describe(config.output)
    assert described["train"]["rows"] == count
    assert set(described["train"]["sources"]) == {"even", "odd"}
    assert sum(each["share"] for each in described["train"]["sources"].values()) == pytest.approx(1)


def test_rows_read_as_texts(corpus_config, corpus_files):
    config = corpus_config(sequence_length=512, validation_share=0.5)
    build(config, Local(1))
    given = {
        " ".join(json.loads(line)["text"].lower().replace(".", " .").split())
        for path in corpus_files.iterdir()
        for line in path.read_text().splitlines()
    }
    for split in ("train", "validation"):
        for row in rows_as_text(config.output, split=split, count=3):
            for segment in row["segments"]:
                text = segment["text"].removeprefix("[CLS] ").removesuffix(" [SEP]").replace(".", " .")
                assert any(" ".join(text.split()) in each for each in given)
                assert segment["sentences"] >= 1


@pytest.mark.parametrize("cleaning", PLAIN_AND_DUPLICATES)
def test_two_workers_build_the_same_bytes(corpus_config, tmp_path, monkeypatch, cleaning):
    config = corpus_config(cleaning=cleaning)
    monkeypatch.setattr(parts, "PART_BYTES", 1)  # a part a file: enough of them for workers to read themselves
    report, one = built(config, tmp_path / "one")
    assert len(parts.parts_of(config)) == 6
    assert built(config, tmp_path / "two", Local(2))[1] == one
    if cleaning:
        assert report["dropped"]["exact_duplicates"] >= 30
    monkeypatch.setattr(parts, "PART_BYTES", 1 << 26)
    by_source = built(config, tmp_path / "by-source")[1]
    if not cleaning:
        assert built(config, tmp_path / "handed-out", Local(2))[1] == by_source


@pytest.mark.parametrize("cleaning", PLAIN_AND_DUPLICATES)
def test_an_interruption_at_any_file_loses_nothing(corpus_config, tmp_path, monkeypatch, small_chunks, cleaning):
    config = corpus_config(cleaning=cleaning)
    _, whole = built(config, tmp_path / "whole")
    replace, replaced = os.replace, []

    def dies(aside, path, at=None):
        if at is not None and len(replaced) == at:
            raise KeyboardInterrupt
        replaced.append(path)
        replace(aside, path)

    monkeypatch.setattr(os, "replace", dies)
    built(config, tmp_path / "counted")
    moments = len(replaced)
    assert moments > 30
    for moment in range(0, moments, 5):
        output = tmp_path / f"interrupted-{moment}"
        replaced.clear()
        monkeypatch.setattr(os, "replace", lambda aside, path, at=moment: dies(aside, path, at))
        with pytest.raises(KeyboardInterrupt):
            built(config, output)
        there = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord")}
        reports = [json.loads(path.read_text()) for path in output.glob(".building/*.chunk.json")]
        done = {shard["file"] for report in reports for shard in report["shards"]}
        monkeypatch.setattr(os, "replace", replace)
        assert built(config, output)[1] == whole, f"after {moment} files"
        for path, written in there.items():
            assert path.name not in done or path.stat().st_mtime_ns == written, "a finished shard is never built again"


def test_a_damaged_shard_is_built_again(corpus_config, tmp_path, monkeypatch, small_chunks):
    config = corpus_config()
    _, whole = built(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(building, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            built(config, tmp_path / "other")
    first, second, *_ = sorted((tmp_path / "other").glob("*.tfrecord"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    assert built(config, tmp_path / "other")[1] == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_at_any_time(corpus_config, tmp_path, workers):
    config = corpus_config(cleaning=DUPLICATES)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}

    def start(output):
        (tmp_path / "config.yaml").write_text(dataclasses.replace(config, output=str(output)).to_yaml())
        worker = Path(__file__).with_name("build_worker.py")
        command = [sys.executable, str(worker), str(tmp_path / "config.yaml"), str(workers)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    whole = tmp_path / "whole"
    assert start(whole).wait() == 0
    for files in (1, 4, 9, 15):
        output = tmp_path / f"killed-{files}"
        process = start(output)
        while process.poll() is None and len(list(output.glob("**/*.*"))) < files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(2)
        ours = subprocess.run(["pgrep", "-f", str(output)], capture_output=True, text=True, check=False).stdout
        assert not ours.split(), "workers end with the process that began them"
        assert start(output).wait() == 0
        assert contents(output) == contents(whole), f"killed with {files} files"


def test_a_finished_corpus_is_left_as_it_is(corpus_config):
    config = corpus_config()
    report = build(config, Local(1))
    before = {path: path.stat().st_mtime_ns for path in Path(config.output).iterdir()}
    assert build(config, Local(1)) == report
    assert {path: path.stat().st_mtime_ns for path in Path(config.output).iterdir()} == before
    other = dataclasses.replace(config, sequence_length=64)
    with pytest.raises(ValueError, match=r"has a corpus of another config or tokenizer; .* --overwrite"):
        build(other, Local(1))
    build(other, Local(1), overwrite=True)
    assert Corpus(config.output).index.sequence_length == 64


def test_an_unfinished_corpus_of_another_config_is_left_alone(corpus_config, monkeypatch, corpus_files, tmp_path):
    config = corpus_config()
    with monkeypatch.context() as patch:
        patch.setattr(building, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(config, Local(1))
    with pytest.raises(ValueError, match="unfinished corpus of another config, tokenizer or other files"):
        build(dataclasses.replace(config, seed=2), Local(1))


def test_the_split_is_of_the_text_alone(corpus_config, tmp_path, small_chunks):
    share = sum(held_out(text.encode(), 0.1) for text in texts(3000, seed=50)) / 3000
    assert 0.07 < share < 0.13
    assert held_out(b"x", 1.0)
    assert not held_out(b"x", 0.0)
    config = corpus_config(validation_share=0.3)
    _, one = built(config, tmp_path / "one")
    other = dataclasses.replace(config, seed=9, sources=config.sources[::-1])
    _, two = built(other, tmp_path / "two")
    shards = lambda found: {name: data for name, data in found.items() if name.endswith(".tfrecord")}
    assert shards(one) == shards(two), "no seed, no order of sources"


def test_corrupt_records_stop_the_build_or_are_counted(corpus_config, tmp_path):
    path = write_jsonl(tmp_path / "some.jsonl", texts(20))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], '{"text": "cut', *lines[7:]]) + "\n")
    config = corpus_config(sources=[{"name": "some", "paths": [str(path)]}], validation_share=0.0)
    with pytest.raises(CorruptRecord, match=r"some\.jsonl, line 8: not JSON"):
        build(config, Local(1))
    config = dataclasses.replace(config, skip_corrupt=True, output=str(tmp_path / "skipping"))
    report = build(config, Local(1))
    assert (report["documents"], report["corrupt"]) == (20, 1)
    assert "line 8" in report["sources"]["some"]["reading"]["problems"][0]
    assert report["splits"]["validation"]["rows"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": None}, "output: missing"),
        ({"tokenizer": None}, "tokenizer: missing"),
        ({"tokenizer": "nowhere"}, "nowhere: no such directory"),
        ({"sequence_length": 4, "layout": "pair"}, "sequence_length: 4 places have no room for the pair layout's 3"),
        ({"sources": [{"name": "a", "paths": ["nowhere/*.jsonl"]}]}, r"nowhere/\*.jsonl: no file matches"),
        ({"validation_share": 0.9999999}, "not one row to train on"),
    ],
)
def test_what_cannot_be_built_is_one_line(corpus_config, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        build(corpus_config(**changes), Local(1))
    assert "\n" not in str(error.value)


def test_an_empty_corpus_is_refused(corpus_config, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    config = corpus_config(sources=[{"name": "empty", "paths": [str(tmp_path / "empty.jsonl")]}])
    with pytest.raises(ValueError, match='sources: "empty": not one document in 1 files'):
        build(config, Local(1))


def test_other_things_in_the_output_are_left_alone(corpus_config, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and not a corpus"):
            build(corpus_config(), Local(1), overwrite=overwrite)
    assert (tmp_path / "corpus" / "thesis.txt").read_text() == "years of work"


def test_damage_is_found(corpus_config):
    config = corpus_config()
    build(config, Local(1))
    path = sorted(Path(config.output).glob("*-train-*.tfrecord"))[0]
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"1 of \d+ shards are damaged: {path.name}"):
        verify(config.output)
    with pytest.raises(ValueError, match=f"{path.name}, offset 0: the record's checksum is wrong"):
        Corpus(config.output).batch("train", [0])
    path.write_bytes(data[:-10])
    with pytest.raises(ValueError, match="the file is truncated or another one"):
        Corpus(config.output)


def test_tensorflow_reads_the_shards(corpus_config):
    import tensorflow as tf

    config = corpus_config()
    build(config, Local(1))
    corpus = Corpus(config.output)
    for shard in corpus.index.shards:
        records = list(tf.data.TFRecordDataset(str(Path(config.output) / shard.file)).as_numpy_iterator())
        assert len(records) == shard.rows
        assert {len(record) for record in records} == {store.record_bytes(32, corpus.index.vocabulary_size)}


def test_texts_are_tokenised_in_batches_of_bounded_size(monkeypatch):
    monkeypatch.setattr(chunks, "BATCH_TEXTS", 3)
    monkeypatch.setattr(chunks, "BATCH_CHARACTERS", 10)
    given = ["a", "b", "c", "d" * 10, "e" * 4, "f" * 7, "g"]
    found = list(chunks.batches(given))
    assert found == [["a", "b", "c"], ["d" * 10], ["e" * 4, "f" * 7], ["g"]]
