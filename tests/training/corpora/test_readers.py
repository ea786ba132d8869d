"""The one function that reads every format."""

import bz2
import gzip
import json
import pickle
import subprocess
import sys
import tracemalloc

import pytest

from training.corpora.documents import KEPT_PROBLEMS, CorruptRecord, Reading, ReadReport
from training.corpora.readers import FORMATS, read_documents, source_files
from training.corpora.tables import TableOptions


def rows(count: int, size: int = 20) -> bytes:
    return b"".join(b'{"text": "%d %s"}\n' % (number, b"x" * size) for number in range(count))


def test_formats_are_told_by_the_names_of_files(tmp_path):
    for name, content in {"a.jsonl.gz": gzip.compress(rows(2)), "b.csv": b"text\nc\n", "c.TXT": b"d\n"}.items():
        (tmp_path / name).write_bytes(content)
    documents = list(read_documents(None, [tmp_path], name="mixed"))
    assert [each.text.split()[0] for each in documents] == ["0", "1", "c", "d"]
    assert {each.source for each in documents} == {"mixed"}
    (tmp_path / "d.doc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"d.doc: the name tells no format; set format to one of text, jsonl, csv, "):
        read_documents(None, [tmp_path], name="mixed")


def test_arguments_are_checked_before_reading(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(rows(1))
    with pytest.raises(ValueError, match='sources: "x": no format "json"; known: text, jsonl,'):
        read_documents("json", [tmp_path], name="x")
    with pytest.raises(ValueError, match=r'sources: "x": options: feld: no such key .*; known: text, skip_empty'):
        read_documents("jsonl", [tmp_path], name="x", feld="a")
    with pytest.raises(FileNotFoundError, match=r"none/\*: no file matches"):
        read_documents("jsonl", ["none/*"], name="x")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_a_reader_and_options(format):
    FORMATS[format].options()
    assert FORMATS[format].meaning


@pytest.mark.parametrize("content", [b"", b"\n \n", b'{"text": ""}\n'])
def test_an_empty_corpus_is_an_error(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r'sources: "x": not one document in 2 files: (nothing in them|passed over 1 \(no)'
    ):
        list(read_documents("jsonl", [tmp_path], name="x"))
    (tmp_path / "a.jsonl").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"passed over 1 corrupt, first .*a.jsonl, line 1: not JSON"):
        list(read_documents("jsonl", [tmp_path], name="x", skip_corrupt=True))


def test_an_error_of_the_reader_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(rows(2) + b"{")
    documents = read_documents("jsonl", [tmp_path], name="x")
    assert [next(documents).text[0], next(documents).text[0]] == ["0", "1"]
    with pytest.raises(CorruptRecord) as told:
        next(documents)
    assert str(told.value).startswith(f"{tmp_path / 'a.jsonl'}, line 3: not JSON: ")
    assert str(told.value).endswith("set skip_corrupt: true to count such records and go on")
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value), "processes hand it on"


def test_the_rest_of_a_truncated_file_is_lost_and_the_next_is_read(tmp_path):
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(rows(10)) + bz2.compress(rows(10))[:-40])
    (tmp_path / "b.jsonl").write_bytes(rows(3))
    report = ReadReport()
    documents = list(read_documents(None, [tmp_path], name="x", skip_corrupt=True, report=report))
    assert len(documents) == report.documents == 13
    assert report.corrupt == 1
    assert "a.jsonl.bz2, offset" in report.problems[0]


def test_files_of_a_source_can_be_handed_to_processes(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(rows(5))
    files = source_files(None, [tmp_path], name="x", text="text", skip_empty=False)
    assert [file.options for file in files] == [TableOptions(text="text", skip_empty=False)] * 2
    total = ReadReport()
    for file in pickle.loads(pickle.dumps(files)):
        report = ReadReport()
        assert len(list(file.read(Reading("x", report=report)))) == 5
        total.merge(pickle.loads(pickle.dumps(report)))
    assert total.documents == 10


def test_reports_keep_the_first_problems_and_count_all():
    report, other = ReadReport(), ReadReport()
    for number in range(KEPT_PROBLEMS + 5):
        report.add_corrupt(CorruptRecord("a", f"line {number}", "bad"))
    other.add_corrupt(CorruptRecord("b", "line 1", "bad"))
    other.skip("no text", 3)
    report.merge(other)
    assert (report.corrupt, len(report.problems)) == (KEPT_PROBLEMS + 6, KEPT_PROBLEMS)
    assert report.problems[0] == "a, line 0: bad"
    assert report.skipped == {"no text": 3}


def peak(paths, **options) -> int:
    """The most bytes that Python held while reading."""
    tracemalloc.start()
    for _ in read_documents(None, paths, name="x", **options):
        pass
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.txt.gz", "a.csv.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    pack = {"gz": gzip.compress, "bz2": bz2.compress}[name.rpartition(".")[2]]
    content = rows(20_000, 300) if "jsonl" in name else b"text\n" + b"a line of it %s\n" % (b"x" * 300) * 20_000
    (tmp_path / name).write_bytes(pack(content))
    options = {"longest": 100_000} if ".txt" in name else {}
    assert len(content) > 6_000_000
    assert peak([tmp_path / name], **options) < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet", "a.wet.gz"])
def test_memory_does_not_grow_with_a_large_file(tmp_path, name):
    """200 MB of text; read by the process, not by Python alone: pyarrow allocates outside of it."""
    path = tmp_path / name
    _write_large(path, 200_000_000)
    code = (
        "import resource, sys; from training.corpora.readers import read_documents;"
        "import pyarrow.parquet, fastwarc.warc;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"count = sum(1 for _ in read_documents(None, [{str(path)!r}], name='x'));"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert int(printed[0]) == 200_000
    assert int(printed[1]) < 40_000, "kilobytes"


def _write_large(path, size: int) -> None:
    import random

    draw = random.Random(0)
    texts = (f"{number} {draw.randbytes(480).hex()}".ljust(1000, "x") for number in range(size // 1000))
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": list(texts)}), path, row_group_size=1_000_000)
        return
    with gzip.open(path, "wb", compresslevel=1) as file:
        for text in texts:
            if ".wet" in path.name:
                head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: {len(text)}\r\n\r\n"
                file.write(f"{head}{text}\r\n\r\n".encode())
            else:
                file.write(json.dumps({"text": text}).encode() + b"\n")
