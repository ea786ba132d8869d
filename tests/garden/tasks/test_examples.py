"""Files of labelled texts: what is read, and the line that says why not."""

import csv
import gzip
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from garden import Examples, read_examples
from garden.tasks.examples import as_examples

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
records = st.lists(st.tuples(texts, texts, st.integers(0, 3)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


def write(path, content):
    """Writes text or bytes, gzipped where the name says so."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSON", "b.jsonl.gz"])
@given(records=records)
@settings(max_examples=30, deadline=None)
def test_json_lines(scratch, name, records):
    lines = [json.dumps({"text": a, "second": b, "label": c}, ensure_ascii=c > 1) for a, b, c in records]
    path = write(scratch / name, "\n\n".join(lines) + "\n")
    assert read_examples(path, pair="second") == Examples(*(list(column) for column in zip(*records, strict=True)))
    assert read_examples(path, label=None) == Examples([a for a, _, _ in records])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "b.csv.gz", "b.TSV.gz"])
@given(records=records)
@settings(max_examples=30, deadline=None)
def test_comma_and_tab_separated(scratch, name, records):
    records = [tuple(str(value).replace("\0", "") for value in record) for record in records]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if "tsv" in name.lower() else ",", quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "text", "ignored"), *((c, a, b) for a, b, c in records)])
    path = write(scratch / name, "\ufeff" + file.getvalue())  # as spreadsheets begin their files
    assert read_examples(path) == Examples([a for a, _, _ in records], None, [c for _, _, c in records])


LINE = '{"text": "good", "label": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINE + "{oops}\n", r"a\.jsonl, line 2: not JSON \(.*\): \{oops\}"),
        (
            "a.jsonl",
            LINE + "\n" + LINE + '["good", 1]\n',
            r"a\.jsonl, line 4: expected a JSON object, got \[.good., 1\]",
        ),
        ("a.jsonl", LINE * 2 + '{"text": "x"}\n', r'a\.jsonl, line 3: no field "label"; the line has text'),
        ("a.jsonl", '{"text": 3, "label": 1}\n', r'a\.jsonl, line 1: field "text": expected a string, got 3'),
        ("a.jsonl", "{}", r'a\.jsonl, line 1: no field "text"; the line has nothing'),
        ("a.jsonl", LINE + '{"text": "\\ud800", "label": 1}', r'line 2: field "text": not valid Unicode'),
        ("a.jsonl", LINE.encode() + b'{"text": "\xff", "label": 1}', "a.jsonl, after line .*: not UTF-8"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", "", r"a\.jsonl: no examples in it"),
        ("a.jsonl", "\n \n", r"a\.jsonl: no examples in it"),
        ("a.csv", "text,label\n", r"a\.csv: no examples in it"),
        ("a.csv", "", r"a\.csv: no examples in it"),
        ("a.csv", "text,label\ngood,1\nbad\n", r"a\.csv, line 3: expected 2 columns, got 1"),
        ("a.csv", "text,label\ngood,1,2\n", r"a\.csv, line 2: expected 2 columns, got 3"),
        ("a.csv", 'text,label\n"two\nlines",1\n"x"y,2\n', r"a\.csv, line 4: not CSV"),
        ("a.csv", 'text,label\n"open,1\n', r"a\.csv, line 2: not CSV"),
        ("a.tsv", "text,label\ngood,1\n", r'a\.tsv, line 2: no field "text"; the line has text,label'),
        ("a.txt", "good", r"a\.txt: expected a name that ends in \.jsonl, \.json, \.csv or \.tsv"),
        ("a", "good", r"expected a name that ends in"),
    ],
)
def test_each_fault_is_one_line_that_says_where(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_examples(write(tmp_path / name, content))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_gzipped_file_that_is_cut_or_broken(tmp_path):
    whole = gzip.compress((LINE * 100).encode())
    for index, data in enumerate([whole[:-9], whole[:20] + b"\xff\xfe\xff" * 4 + whole[32:], b"not gzip"]):
        path = tmp_path / f"{index}.jsonl.gz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{index}\.jsonl\.gz, (after )?line"):
            read_examples(path)


def test_a_missing_file_and_a_directory(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such file; give a \.jsonl, \.csv or \.tsv file"):
            read_examples(path)


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.tsv.gz", "f.jsonl.gz"])
@given(
    data=st.binary(max_size=200)
    | st.text(max_size=80).map(lambda text: f"text,label\n{text}".encode("utf-8", "replace"))
)
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_examples_or_a_value_error(scratch, name, data):
    path = scratch / name
    broken = bytearray(gzip.compress(data or b"x", mtime=0))
    broken[len(data) % len(broken)] ^= 0x55
    for content in (data, broken):
        path.write_bytes(content)
        try:
            refusal = None
            read_examples(path)
        except ValueError as error:
            refusal = str(error)
        assert refusal is None or name in refusal


def test_columns_have_one_length():
    with pytest.raises(ValueError, match="as many labels as texts, got 1 for 2 texts"):
        Examples(["a", "b"], None, [1])
    with pytest.raises(ValueError, match="as many second texts as texts, got 3 for 2 texts"):
        Examples(["a", "b"], ["c"] * 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], Examples(["a", "b"])),
        (("a", "b"), Examples(["a", "b"])),
        ((["a", "b"], ["c", "d"]), Examples(["a", "b"], ["c", "d"])),
        ([("a", "c"), ("b", "d")], Examples(["a", "b"], ["c", "d"])),
        (np.array(["a", "b"]), Examples(["a", "b"])),
        (np.array([["a", "c"], ["b", "d"]]), Examples(["a", "b"], ["c", "d"])),
        (tf.constant(["ä", "b"]), Examples(["ä", "b"])),
        ([b"a", "b"], Examples(["a", "b"])),
        ([b"\xff", "b"], Examples([b"\xff", "b"])),
        ([], Examples([])),
    ],
    ids=repr,
)
def test_texts_may_be_given_in_many_ways(given, expected):
    assert as_examples(given) == expected
    assert as_examples(given, np.arange(len(expected))).labels == list(range(len(expected)))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"a": 1}, TypeError, "expected texts as a list, a file's path or a tf.data.Dataset, got dict"),
        (["a", None], TypeError, "text 1: expected a string, got None"),
        ([1.5], TypeError, "text 0: expected a string, got 1.5"),
        (["a", "\ud800"], ValueError, "text 1: not valid Unicode"),
        ((["a"], ["b", "c"]), ValueError, "as many second texts as texts"),
        ("no such text", FileNotFoundError, "no such text: no such file"),
    ],
    ids=repr,
)
def test_what_is_no_text_is_refused(given, kind, message):
    with pytest.raises(kind, match=message):
        as_examples(given)


def test_labels_are_given_once(tmp_path):
    path = write(tmp_path / "a.jsonl", LINE)
    with pytest.raises(ValueError, match=r"labels come with the file .*a\.jsonl; give no others"):
        as_examples(path, [1])
    with pytest.raises(ValueError, match="labels come with the examples; give no others"):
        as_examples(Examples(["a"]), [1])


def test_slices():
    examples = Examples(["a", "b", "c"], None, [1, 2, 3])
    assert examples[1:] == Examples(["b", "c"], None, [2, 3])
    assert len(examples[:1]) == 1
