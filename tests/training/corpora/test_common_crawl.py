"""Web archives: records of WET and WARC files, and what is wrong with them."""

import bz2
import gzip
import io

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.documents import CorruptRecord, ReadReport
from training.corpora.readers import read_documents


def record(content: bytes, length=None, kind="conversion", type="text/plain") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: {type}\r\n"
    head += f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    return head.encode() + content + b"\r\n\r\n"


def response(body: bytes, status="200 OK", **headers) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return record(
        f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body, None, "response", "application/http; msgtype=response"
    )


def read(path, content: bytes, **options):
    path.write_bytes(content)
    return list(read_documents(None, [path], name="crawl", **options))


INFO = record(b"software: x", kind="warcinfo")
FIRST, LAST = record("eins ü\n\n zwei ".encode()), record(b"last")


def test_records_of_a_wet_file(tmp_path):
    report = ReadReport()
    path = tmp_path / "a.warc.wet"
    documents = read(path, INFO + FIRST + b"\r\n" + record(b"  ") + LAST, report=report)
    assert [each.text for each in documents] == ["eins ü\nzwei", "last"]
    assert documents[0].where == f"{path}, offset {len(INFO)}"
    assert report.skipped == {"a record of type warcinfo": 1, "no text": 1}


def test_offsets_are_those_of_the_archives_members(tmp_path):
    members = [gzip.compress(part) for part in (INFO, FIRST, LAST)]
    documents = read(tmp_path / "a.warc.wet.gz", b"".join(members))
    places = [int(each.where.rpartition(" ")[2]) for each in documents]
    assert places == [len(members[0]), len(members[0] + members[1])]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (
            record(b"0123456789", 5),
            "Content-Length: 5, but the record does not end there: truncated, or a wrong length",
        ),
        (record(b"0123456789", 15), "Content-Length: 15, but the record does not end there"),
        (record(b"0123456789", 5000), "Content-Length: 5000, but the record does not end there"),
        (
            record(b"0123456789", 10**12),
            "Content-Length: 1000000000000, but the record ends 999999999990 bytes earlier",
        ),
        (record(b"x" * 100_000, 3), "Content-Length: 3, but the record does not end there"),
        (record(b"x", "many"), 'expected a number as Content-Length, got "many"'),
        (record(b"x", -1), 'expected a number as Content-Length, got "-1"'),
        (record(b"a\xfcb"), "not UTF-8: 0xfc at byte 1 of the text, invalid start byte"),
        (b"junk\r\n\r\n", "expected a record, which begins with WARC/, found b'junk"),
    ],
    ids=["short", "long", "longer", "endless", "very short", "a word", "negative", "not UTF-8", "junk"],
)
def test_a_record_that_is_wrong_is_told_with_its_offset(tmp_path, bad, problem, packed):
    parts = [INFO, FIRST, bad, LAST]
    parts = [gzip.compress(part) for part in parts] if packed else parts
    path = tmp_path / ("a.wet.gz" if packed else "a.wet")
    with pytest.raises(CorruptRecord) as told:
        read(path, b"".join(parts))
    assert str(told.value).startswith(f"{path}, offset {len(parts[0] + parts[1])}: {problem}")
    report = ReadReport()
    documents = read(path, b"".join(parts), skip_corrupt=True, report=report)
    assert [each.text for each in documents] == ["eins ü\nzwei", "last"], "reading goes on with the next record"
    assert report.corrupt == 1


@pytest.mark.parametrize("cut", [3, 6, 100, 180])
def test_a_truncated_file(tmp_path, cut):
    report = ReadReport()
    documents = read(tmp_path / "a.wet", FIRST + record(b"0123456789")[:-cut], skip_corrupt=True, report=report)
    assert len(documents) == 1
    assert report.corrupt == 1
    assert f"offset {len(FIRST)}" in report.problems[0]


HTML = """<html><head><title>T</title><script>var x;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/b">About</a></li></ul></nav>
<main><article><h1>Überschrift</h1><p>Ein <b>fetter</b> Absatz, der lang genug ist, um Inhalt zu sein.</p>
<p>Noch einer,<br>in zwei Zeilen.</p></article></main><footer>Impressum</footer></body></html>"""
MAIN = ["Überschrift", "Ein fetter Absatz, der lang genug ist, um Inhalt zu sein.", "Noch einer,", "in zwei Zeilen."]


@pytest.mark.parametrize(
    "page",
    [
        response(HTML.encode(), content_type="text/html; charset=utf-8"),
        response(HTML.encode("latin-1"), content_type="text/html; charset=ISO-8859-1"),
        response(HTML.encode(), content_type="text/html"),
        response(gzip.compress(HTML.encode()), content_type="text/html", content_encoding="gzip"),
        response(
            f"{len(HTML.encode()):x}\r\n{HTML}\r\n0\r\n\r\n".encode(),
            content_type="text/html",
            transfer_encoding="chunked",
        ),
    ],
)
def test_main_text_of_pages(tmp_path, page):
    (document,) = read(tmp_path / "a.warc", INFO + page)
    assert document.text.splitlines() == MAIN
    assert document.where == f"{tmp_path / 'a.warc'}, offset {len(INFO)}"
    everything = read(tmp_path / "a.warc", INFO + page, main_content=False)[0].text
    assert {"Home", "About", "Impressum"} <= set(everything.splitlines())
    assert "var x" not in everything


def test_responses_that_are_no_pages(tmp_path):
    content = b"".join(
        (
            response(HTML.encode(), "404 Not Found", content_type="text/html"),
            response(b"\x89PNG", content_type="image/png"),
            response(b"plain\n\ntext", content_type="text/plain"),
            record(b"GET / HTTP/1.1\r\n\r\n", None, "request", "application/http; msgtype=request"),
        )
    )
    report = ReadReport()
    assert [each.text for each in read(tmp_path / "a.warc.gz", gzip.compress(content), report=report)] == [
        "plain\ntext"
    ]
    assert report.skipped == {"status 404": 1, "neither HTML nor plain text": 1, "a record of type request": 1}


def test_a_response_that_is_none(tmp_path):
    with pytest.raises(CorruptRecord, match="offset 0: holds no HTTP response"):
        read(tmp_path / "a.warc", record(b"what is this", kind="response"))


def test_records_are_those_that_fastwarc_finds(tmp_path):
    """Framing, against the library's own on a sound archive."""
    content = INFO + FIRST + b"".join(record(b"text %d \r\n\r\n more" % number) for number in range(50)) + LAST
    theirs = [each.reader.read() for each in ArchiveIterator(io.BytesIO(content), parse_http=False)][1:]
    documents = read(tmp_path / "a.wet.bz2", bz2.compress(content))
    assert [each.text for each in documents] == [
        "\n".join(line.strip() for line in text.decode().splitlines() if line.strip()) for text in theirs
    ]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), name=st.sampled_from(["fuzz.wet", "fuzz.warc", "fuzz.warc.gz"]))
def test_damaged_archives_are_read_or_told(tmp_path_factory, data, name):
    pages = [response(HTML.encode(), content_type="text/html"), response(gzip.compress(b"x"), content_encoding="gzip")]
    parts = [INFO, *pages, LAST]
    damaged = bytearray(b"".join(map(gzip.compress, parts)) if name.endswith("gz") else b"".join(parts))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[place] ^= data.draw(st.integers(1, 255))
        else:
            del damaged[place : place + data.draw(st.integers(1, 100) | st.just(len(damaged)))]
        if not damaged:
            break
    try:
        read(tmp_path_factory.getbasetemp() / name, bytes(damaged), skip_corrupt=True)
    except ValueError as error:
        if "not one document" not in str(error):
            raise
