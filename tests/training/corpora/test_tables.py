"""Tables: JSON lines, CSV, TSV, Parquet."""

import csv
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.documents import CorruptRecord, ReadReport, paragraphs
from training.corpora.readers import read_documents

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40), min_size=1, max_size=20)


def read(path, content: bytes | None = None, format: str | None = None, **options):
    if content is not None:
        path.write_bytes(content)
    return list(read_documents(format, [path], name="table", **options))


def texts(*arguments, **options) -> list[str]:
    return [document.text for document in read(*arguments, **options)]


def rows(*objects) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def test_json_lines(tmp_path):
    content = rows({"text": "One.\n\n Two. "}, {"text": ["a", "b"], "id": 3}, {"id": 4}) + b'\n{"text": "last"}'
    report = ReadReport()
    documents = read(tmp_path / "a.jsonl", content, report=report)
    assert [each.text for each in documents] == ["One.\nTwo.", "a\nb", "last"]
    assert documents[2].where == f"{tmp_path}/a.jsonl, line 5"
    assert (report.documents, report.skipped) == (3, {"no text": 1})


def test_fields_lie_in_fields(tmp_path):
    content = rows(
        {"translations": {"de": {"text": "Hund"}}},
        {"translations": {"de": None}},
        {"translations.de.text": "Katze"},
        {"translations": {}},
    )
    assert texts(tmp_path / "a.jsonl", content, text="translations.de.text") == ["Hund", "Katze"]


def test_a_field_that_is_not_there_is_told_with_those_that_are(tmp_path):
    content = rows({"id": 1, "body": {"en": "x", "de": "y"}})
    for skip in (True, False):
        with pytest.raises(
            ValueError, match=r'a.jsonl, line 1: no field "text"; set text to one of id, body.en, body.de'
        ):
            read(tmp_path / "a.jsonl", content, skip_corrupt=skip)


def test_rows_without_text_can_be_an_error(tmp_path):
    content = rows({"text": "a"}, {"text": " \n"})
    with pytest.raises(CorruptRecord, match=r'line 2: no text in "text" \(skip_empty: true'):
        read(tmp_path / "a.jsonl", content, skip_empty=False)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "x"', "not JSON: Expecting"),
        (b"[" * 100_000, "not JSON: maximum recursion"),
        (b'"text"', 'expected an object with fields, got "text"'),
        (b'{"text": 12}', 'expected text in "text", got 12'),
        (b'{"text": [1]}', 'expected text in "text", got [1]'),
        (b'{"text": "\xff"}', "byte 11: not UTF-8: 0xff, invalid start byte"),
    ],
    ids=["cut", "deep", "no object", "a number", "a list of numbers", "not UTF-8"],
)
def test_corrupt_lines(tmp_path, line, problem):
    content = rows({"text": "a"}) + line + b"\n" + rows({"text": "b"})
    path = tmp_path / "a.jsonl"
    with pytest.raises(CorruptRecord) as told:
        read(path, content)
    assert f"{path}, line 2" in str(told.value)
    assert problem in str(told.value)
    report = ReadReport()
    assert texts(path, skip_corrupt=True, report=report) == ["a", "b"]
    assert report.corrupt == 1
    assert str(told.value).startswith(report.problems[0])


def test_lone_surrogates_are_replaced(tmp_path):
    (text,) = texts(tmp_path / "a.jsonl", rb'{"text": "a\ud83d b\ud83d\ude00"}')
    assert text == "a\ufffd b😀"
    text.encode()


def test_csv_and_tsv(tmp_path):
    content = b'\xef\xbb\xbfid,text\r\n1,"One, ""two"".\r\nThree."\r\n\r\n2,\r\n3,x\r\n'
    documents = read(tmp_path / "a.csv", content)
    assert [(each.text, each.where.rpartition(", ")[2]) for each in documents] == [
        ('One, "two".\nThree.', "line 2"),
        ("x", "line 6"),
    ]
    assert texts(tmp_path / "a.tsv", b'id\ttext\n1\t"quoted" word\n2\t"\n', quoted=False) == ['"quoted" word', '"']
    assert texts(tmp_path / "a.csv", b"1;x\n2;y\n", delimiter=";", columns=["id", "text"]) == ["x", "y"]
    with pytest.raises(ValueError, match='no field "body"; set text to one of id, text'):
        texts(tmp_path / "a.csv", content, text="body")
    with pytest.raises(ValueError, match="delimiter: expected one character, got '::'"):
        texts(tmp_path / "a.csv", content, delimiter="::")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1,b,c", "a row of 3 values where there are 2 columns"),
        (b"1", "a row of 1 values where there are 2 columns"),
        (b'1,"b"c', "not a row of values: ',' expected after '\"'"),
        (b"1,\xff", "byte 3: not UTF-8"),
    ],
)
def test_corrupt_rows(tmp_path, line, problem):
    path = tmp_path / "a.csv"
    with pytest.raises(CorruptRecord) as told:
        read(path, b"id,text\n0,a\n" + line + b"\n2,d\n")
    assert f"{path}, line 3" in str(told.value)
    assert problem in str(told.value)
    assert texts(path, skip_corrupt=True) == ["a", "d"]


def test_a_quote_that_is_not_closed(tmp_path):
    with pytest.raises(CorruptRecord, match="line 2: not a row of values: unexpected end of data"):
        read(tmp_path / "a.csv", b'text\n"a\nb\n')


def write_parquet(path, table, **options):
    pq.write_table(pa.Table.from_pydict(table) if isinstance(table, dict) else table, path, **options)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    nested = [{"de": {"text": f"Satz {number}"}, "n": number} for number in range(1000)]
    table = {"id": list(range(1000)), "text": [f"text {n}" if n % 10 else None for n in range(1000)], "x": nested}
    write_parquet(path, {**table, "lines": [["a", "b"]] * 1000}, row_group_size=300)
    report = ReadReport()
    documents = read(path, report=report)
    assert [each.text for each in documents] == [text for text in table["text"] if text]
    assert documents[-1].where == f"{path}, row 1000"
    assert report.skipped == {"no text": 100}
    assert texts(path, text="x.de.text")[999] == "Satz 999"
    assert set(texts(path, text="lines")) == {"a\nb"}
    with pytest.raises(ValueError, match=r'no field "body"; set text to one of id, text, x.de.text, x.n, lines'):
        read(path, text="body")
    with pytest.raises(CorruptRecord, match='row 1: expected text in "id", got 0'):
        read(path, text="id")


@pytest.mark.parametrize("url", ["memory:///tables/a.parquet", "ram://tables/a.parquet"])
def test_parquet_behind_a_url(parquet_bytes, url):
    import fsspec
    import tensorflow as tf

    if url.startswith("memory"):
        fsspec.filesystem("memory").pipe("/tables/a.parquet", parquet_bytes)
    else:
        tf.io.gfile.makedirs("ram://tables")
        with tf.io.gfile.GFile(url, "wb") as file:
            file.write(parquet_bytes)
    documents = list(read_documents(None, [url], name="table"))
    assert len(documents) == 2000
    assert documents[7].where == f"{url}, row 8"


def test_parquet_texts_that_are_not_utf8(tmp_path):
    column = pa.array([b"a", b"\xff", b"c"]).cast(pa.binary()).view(pa.string())
    write_parquet(tmp_path / "a.parquet", pa.table({"text": column}))
    with pytest.raises(CorruptRecord, match="row 2: not UTF-8: invalid start byte"):
        read(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", skip_corrupt=True) == ["a", "c"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all" * 9])
def test_what_is_no_parquet_file_is_told(tmp_path, content):
    with pytest.raises(CorruptRecord, match=r"a.parquet, footer: not a Parquet file, or a truncated one"):
        read(tmp_path / "a.parquet", content)


@pytest.fixture(scope="module")
def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"text": [f"text number {number} of some" for number in range(2000)], "id": list(range(2000))})
    pq.write_table(table, buffer, row_group_size=500)
    return buffer.getvalue()


def test_a_damaged_group_of_rows_is_passed_over(tmp_path, parquet_bytes):
    second = pq.ParquetFile(io.BytesIO(parquet_bytes)).metadata.row_group(1).column(0)
    damaged = bytearray(parquet_bytes)
    damaged[second.dictionary_page_offset : second.dictionary_page_offset + 40] = bytes(40)
    path = tmp_path / "a.parquet"
    with pytest.raises(CorruptRecord, match=r"row 501: the rows from here to 1000 cannot be read: "):
        read(path, bytes(damaged))
    kept = texts(path, skip_corrupt=True)
    assert kept == [f"text number {number} of some" for number in [*range(500), *range(1000, 2000)]]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_parquet_is_read_or_told(tmp_path_factory, parquet_bytes, data):
    damaged = bytearray(parquet_bytes)
    place = data.draw(st.integers(0, len(damaged) - 1) | st.integers(len(damaged) - 1500, len(damaged) - 1))
    if data.draw(st.booleans()):
        del damaged[place:]
    else:
        damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    path.write_bytes(damaged)
    try:
        read(path, skip_corrupt=True)
    except ValueError as error:
        if not re.search('not one document|no field "text"', str(error)):
            raise


def kept(values: list[str]) -> list[str]:
    return [text for text in map(paragraphs, values) if text]


@settings(max_examples=60, deadline=None)
@given(values=TEXTS)
def test_every_format_gives_the_texts_it_was_made_of(tmp_path_factory, values):
    base = tmp_path_factory.getbasetemp()
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["id", "text"], *enumerate(values)])
    (base / "any.csv").write_bytes(written.getvalue().encode())
    (base / "any.jsonl").write_bytes(rows(*({"id": index, "text": value} for index, value in enumerate(values))))
    write_parquet(base / "any.parquet", {"text": values}, row_group_size=3)
    for name in ("any.csv", "any.jsonl", "any.parquet"):
        try:
            assert texts(base / name) == kept(values), name
        except ValueError as error:
            if kept(values) or "not one document" not in str(error):
                raise


@settings(max_examples=80, deadline=None)
@given(content=st.binary(), format=st.sampled_from(["jsonl", "csv", "tsv"]))
def test_any_bytes_are_read_or_told(tmp_path_factory, content, format):
    try:
        read(tmp_path_factory.getbasetemp() / "bytes", b"text,x\n" + content, format, skip_corrupt=True)
    except ValueError as error:
        if not re.search("not one document|no field", str(error)):
            raise
