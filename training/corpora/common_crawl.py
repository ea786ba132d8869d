"""Common Crawl: texts of web pages (WET), and the main text of the pages themselves (WARC).

Records are framed here, since libraries read on past a wrong length without a word; FastWARC reads the HTTP response inside of
a record, and Resiliparse finds the main text of its HTML.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from training.configuration import key
from training.corpora.documents import CorruptRecord, Document, Reading, paragraphs
from training.corpora.files import LONGEST_RECORD, open_stream, place
from training.corpora.libraries import library

_END = b"\r\n\r\n"  # of a record
_NEXT = _END + b"WARC/"
_LONGEST_HEADER = 1 << 20  # bytes
_CHUNK = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, kw_only=True)
class WETOptions:
    """Options of the format `wet`: none."""


@dataclass(frozen=True, kw_only=True)
class WARCOptions:
    """Options of the format `warc`."""

    main_content: bool = key("leave out menus, footers and the like, instead of keeping all visible text", True)


def read_wet(path: str, reading: Reading, options: WETOptions) -> Iterator[Document]:
    """Yields the texts of a WET file.

    Raises CorruptRecord for a record that is cut short, has a wrong length or is not UTF-8, with its offset.
    """
    del options
    with open_stream(path) as stream:
        for record in _records(stream, path, reading):
            if record.kind != "conversion":
                reading.report.skip(f"a record of type {record.kind}")
                continue
            try:
                text = paragraphs(record.content.decode("utf-8"))
            except UnicodeDecodeError as error:
                what = (
                    f"not UTF-8: 0x{record.content[error.start]:02x} at byte {error.start} of the text, {error.reason}"
                )
                reading.corrupt(CorruptRecord(path, record.place, what))
                continue
            yield from _document(text, path, record, reading)


def read_warc(path: str, reading: Reading, options: WARCOptions) -> Iterator[Document]:
    """Yields the main text of the HTML pages (status 200) and plain texts of a web archive.

    Raises CorruptRecord for a record that is cut short, has a wrong length or holds no HTTP response, with its offset.
    """
    warc = library("fastwarc.warc", "a web archive")
    encodings = library("resiliparse.parse.encoding", "a web archive")
    extract = library("resiliparse.extract.html2text", "a web archive").extract_plain_text
    with open_stream(path) as stream:
        for record in _records(stream, path, reading):
            if record.kind != "response":
                reading.report.skip(f"a record of type {record.kind}")
                continue
            try:
                # "all": transfer and content encodings are undone
                response = next(warc.ArchiveIterator(io.BytesIO(record.raw), auto_decode="all"))
                if response.http_headers is None:
                    raise OSError(f"content of type {record.fields.get('content-type')}")
                status, mime = response.http_headers.status_code, response.http_content_type
                body = response.reader.read(LONGEST_RECORD)
            except Exception as error:  # FastWARC's OSError, StopIteration, or what its decoders raise
                what = f"holds no HTTP response: {str(error) or type(error).__name__}"
                reading.corrupt(CorruptRecord(path, record.place, what))
                continue
            if status != 200 or mime not in (*_HTML, "text/plain"):
                reading.report.skip(f"status {status}" if status != 200 else "neither HTML nor plain text")
                continue
            text = encodings.bytes_to_str(body, response.http_charset or encodings.detect_encoding(body))
            if mime in _HTML:
                text = extract(text, main_content=options.main_content, alt_texts=False, list_bullets=False)
            yield from _document(paragraphs(text), path, record, reading)


def _document(text: str, path: str, record: _Record, reading: Reading) -> Iterator[Document]:
    if text:
        yield reading.document(text, f"{path}, {record.place}")
    else:
        reading.report.skip("no text")


@dataclass(frozen=True)
class _Record:
    """A record, whole: its place, its header as it stands and as names (in lower case) and values, its content."""

    place: str
    header: bytes
    fields: Mapping[str, str]
    content: bytes

    @property
    def kind(self) -> str:
        return self.fields.get("warc-type", "none").lower()

    @property
    def raw(self) -> bytes:
        return b"".join((self.header, b"\r\n", self.content, _END))


def _records(stream: io.BufferedReader, path: str, reading: Reading) -> Iterator[_Record]:
    """Yields the records of a web archive. After a corrupt one, reading goes on at what looks like the next."""
    source = _Rewound(stream)
    while True:
        while (line := source.readline()) in (b"\r\n", b"\n"):
            pass
        if not line:
            return
        begin = source.offset - len(line)
        where = place(stream, begin)
        try:
            if not line.startswith(b"WARC/"):
                source.unread(line)
                raise _Wrong(f"expected a record, which begins with WARC/, found {line[:20]!r}")
            header = _header(line, source)
            fields = _fields(header)
            length = _length(fields)
            if length > LONGEST_RECORD:
                _pass_over(length, source)
                reading.report.skip(f"longer than {LONGEST_RECORD >> 20} MiB")
                continue
            content = source.read(length)
            end = source.read(len(_END))
            if len(content) < length or end not in (_END, b"", b"\r\n"):
                source.unread(content + end)
                raise _Wrong(
                    f"Content-Length: {length}, but the record does not end there: truncated, or a wrong length"
                )
        except _Wrong as error:
            reading.corrupt(CorruptRecord(path, where, str(error)))
            source.seek_next()
        else:
            yield _Record(where, header, fields, content)


class _Wrong(Exception):  # noqa: N818 (it is a reason, not an error)
    """What is wrong with a record."""


def _header(line: bytes, source: _Rewound) -> bytes:
    """Returns the lines of a record's header, without the empty one that ends it."""
    held = [line]
    size = len(line)
    while (line := source.readline()) not in (b"\r\n", b"\n"):
        size += len(line)
        if not line or size > _LONGEST_HEADER:
            raise _Wrong("the file ends in its header" if not line else "its header has no end")
        held.append(line)
    return b"".join(held)


def _fields(header: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in header.decode("utf-8", "replace").splitlines()[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _length(fields: Mapping[str, str]) -> int:
    length = fields.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise _Wrong(f'expected a number as Content-Length, got "{length[:20]}"')
    return int(length)


def _pass_over(length: int, source: _Rewound) -> None:
    """Goes on behind a record that is too long to hold, if it is as long as it says."""
    end = source.offset + length + len(_END)
    source.seek_next()
    if source.offset != end:
        early = end - source.offset
        source.unread(_END)  # for the next to be found again
        raise _Wrong(
            f"Content-Length: {length}, but the record ends {early} bytes earlier: truncated, or a wrong length"
        )


class _Rewound:
    """A stream that takes back what was read too far."""

    def __init__(self, stream: io.BufferedReader):
        self._stream = stream
        self._back = io.BytesIO()
        self.offset = 0  # of the next byte

    def read(self, size: int) -> bytes:
        """Returns that many bytes, or fewer at the end."""
        data = self._back.read(size)
        if len(data) < size:
            data += self._stream.read(size - len(data))
        self.offset += len(data)
        return data

    def readline(self) -> bytes:
        """Returns a line with its end, or the beginning of one that is very long."""
        line = self._back.readline(_LONGEST_HEADER)
        if not line.endswith(b"\n"):
            line += self._stream.readline(_LONGEST_HEADER)
        self.offset += len(line)
        return line

    def unread(self, data: bytes) -> None:
        """Takes the last bytes back."""
        self.offset -= len(data)
        self._back = io.BytesIO(data + self._back.read())

    def seek_next(self) -> int:
        """Goes on to where the next record seems to begin, or to the end, and returns that offset."""
        held = b""
        while data := self.read(_CHUNK):
            held += data
            found = held.find(_NEXT)
            if found >= 0:
                self.unread(held[found + len(_END) :])
                break
            held = held[1 - len(_NEXT) :]
        return self.offset
