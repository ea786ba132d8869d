"""Shards: what is written comes back, TensorFlow reads it too, and damage is told by file and offset."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from training.corpora.store import INDEX, Corpus, Index, record_bytes, write_shard
from training.packing import Layout, Packer, batch_of

LAYOUT = Layout(name="single", prefix=(1,), suffix=(2,))


def some_rows(count=200, length=24, vocabulary=1000, seed=0):
    rng = np.random.default_rng(seed)
    packer = Packer(length, LAYOUT)
    made = []
    for _ in range(count):
        ids = rng.integers(3, vocabulary, rng.integers(1, 40))
        made += packer.add(ids, rng.random(len(ids)) < 0.2)
    return packer.laid_out([*made, *packer.finish()])


def build(directory, *, vocabulary=1000, length=24, seeds=(0, 1)):
    shards, rows = [], []
    for number, seed in enumerate(seeds):
        rows.append(some_rows(vocabulary=vocabulary, length=length, seed=seed))
        path = directory / f"web-train-{number:05d}.tfrecord"
        facts = {"source": "web", "split": "train", "vocabulary_size": vocabulary, "text_bytes": 9, "documents": 200}
        shards.append(write_shard(path, [rows[-1]], **facts))
    index = Index(
        layout=LAYOUT,
        sequence_length=length,
        tokenizer="abc",
        vocabulary_size=vocabulary,
        pad_id=0,
        weights={"web": None},
        shards=tuple(shards),
    )
    (directory / INDEX).write_text(index.to_json())
    return rows, index


@pytest.mark.parametrize("vocabulary", [1000, 2**16, 2**16 + 1, 250_000])
@pytest.mark.parametrize("length", [24, 25, 128])
def test_what_is_written_comes_back(tmp_path, vocabulary, length):
    rows, index = build(tmp_path, vocabulary=vocabulary, length=length)
    corpus = Corpus(tmp_path)
    assert corpus.index == index
    assert corpus.rows("train") == sum(map(len, rows))
    assert corpus.rows("validation") == 0
    assert corpus.sources("train") == {"web": corpus.rows("train")}
    assert corpus.tokens("train") == sum(int(part.real.sum()) for part in rows)
    expected = [batch_of(part, 0) for part in rows]
    batch = corpus.batch("train", np.arange(corpus.rows("train")))
    for name, values in batch.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in expected]))
    chosen = corpus.batch("train", [len(rows[0]), 3, 3])
    np.testing.assert_array_equal(chosen["token_ids"], batch["token_ids"][[len(rows[0]), 3, 3]])


def test_shards_are_tfrecord_files(tmp_path):
    rows, index = build(tmp_path)
    records = list(tf.data.TFRecordDataset(str(tmp_path / index.shards[0].file)).as_numpy_iterator())
    assert len(records) == len(rows[0])
    assert {len(record) for record in records} == {record_bytes(24, 1000)}
    digest = hashlib.sha256((tmp_path / index.shards[0].file).read_bytes()).hexdigest()
    assert digest == index.shards[0].sha256


def test_damage_is_told_by_file_and_offset(tmp_path):
    _, index = build(tmp_path)
    size = record_bytes(24, 1000) + 16
    path = tmp_path / index.shards[1].file
    data = bytearray(path.read_bytes())
    data[5 * size + 20] ^= 1
    path.write_bytes(data)
    corpus = Corpus(tmp_path)
    first = index.shards[0].rows
    corpus.batch("train", [first + 4, first + 6])
    with pytest.raises(ValueError, match=rf"{path.name}, offset {5 * size}: the record's checksum is wrong"):
        corpus.batch("train", [first + 5])


def test_missing_and_truncated_shards_are_named(tmp_path):
    _, index = build(tmp_path)
    path = tmp_path / index.shards[0].file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{path.name}: {len(whole) - 1} bytes, expected"):
        Corpus(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name}: no such file"):
        Corpus(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1, "layout": 3}'])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"index\.json: not the index of a corpus"):
        Corpus(tmp_path)


def test_no_corpus_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="garden corpus build"):
        Corpus(tmp_path)


def test_a_shard_that_fails_half_way_leaves_nothing(tmp_path):
    def failing():
        yield some_rows()
        raise RuntimeError("disk")

    facts = {"source": "a", "split": "train", "vocabulary_size": 1000, "text_bytes": 0, "documents": 0}
    with pytest.raises(RuntimeError, match="disk"):
        write_shard(tmp_path / "a.tfrecord", failing(), **facts)
    assert not list(tmp_path.iterdir())
