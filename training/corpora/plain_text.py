"""Plain text: folders of books, files of one sentence or one document a line, blocks between empty lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from training import configuration
from training.configuration import key
from training.corpora.documents import CorruptRecord, Document, Reading, paragraphs
from training.corpora.files import lines, open_stream

# The marks round a book of Project Gutenberg, in their spellings since 1990.
_BEGIN = re.compile(rb"\W*(?:START OF (?:THE |THIS )?PROJECT GUTENBERG|END\W*THE SMALL PRINT)", re.IGNORECASE)
_END = re.compile(rb"\W*END OF (?:THE |THIS )?PROJECT GUTENBERG", re.IGNORECASE)
_HEAD = 1000  # lines in which a book's first mark is looked for
_ORDER_MARK = b"\xef\xbb\xbf"  # which some editors write before UTF-8


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options of the format `text`."""

    document: str = key("what a document is", "file", choices=("file", "block", "line"))
    wrapped: bool = key("lines are broken at a column: those up to an empty one are one paragraph", False)
    gutenberg: bool = key("leave out what Project Gutenberg puts before and behind a book", False)
    longest: int = key("bytes of a document; a longer one goes on in another, at a line's beginning", 1 << 22, least=1)
    encoding: str = key("of the files", "utf-8")

    def __post_init__(self):
        configuration.check(self)
        try:
            by_lines = "\n".encode(self.encoding) == b"\n"
        except LookupError:
            by_lines = False
        if not by_lines:
            expected = "expected one that Python knows and that ends lines with one byte, such as utf-8 or cp1252"
            raise ValueError(f'encoding: {expected}, got "{self.encoding}"')


def read_text(path: str, reading: Reading, options: TextOptions) -> Iterator[Document]:
    """Yields the documents of a file of plain text.

    Raises CorruptRecord for a document that has bytes which the encoding has not.
    """
    with open_stream(path) as stream:
        numbered = _numbered(lines(stream, path))
        if options.gutenberg:
            numbered = _inside_marks(numbered)
        for number, offset, raw in _documents(numbered, options):
            try:
                text = raw.decode(options.encoding)
            except UnicodeDecodeError as error:
                line = number + raw.count(b"\n", 0, error.start)
                where = f"line {line}, offset {offset + error.start}"
                what = f"not {options.encoding}: byte 0x{raw[error.start]:02x}, {error.reason}"
                reading.corrupt(CorruptRecord(path, where, what))
                continue
            text = _unwrapped(text) if options.wrapped else paragraphs(text)
            if text:
                yield reading.document(text, path if number == 1 else f"{path}, line {number}")
            elif options.document != "block":
                reading.report.skip("no text")


def _numbered(raw_lines: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yields each line's number, offset and bytes."""
    offset = 0
    for number, raw in enumerate(raw_lines, start=1):
        begin = offset
        offset += len(raw)
        if number == 1 and raw.startswith(_ORDER_MARK):
            begin, raw = len(_ORDER_MARK), raw[len(_ORDER_MARK) :]
        yield number, begin, raw


def _inside_marks(numbered: Iterator[tuple[int, int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    """Yields the lines of the book itself; all of them where no mark is found."""
    head = list(itertools.islice(numbered, _HEAD))
    begin = next((index + 1 for index, (_, _, raw) in enumerate(head) if _BEGIN.match(raw)), 0)
    for line in itertools.chain(head[begin:], numbered):
        if _END.match(line[2]):
            return
        yield line


def _documents(numbered: Iterator[tuple[int, int, bytes]], options: TextOptions) -> Iterator[tuple[int, int, bytes]]:
    """Yields each document's first line's number and offset, and its bytes."""
    held: list[bytes] = []
    first = offset = size = 0
    for number, begin, raw in numbered:
        ends = options.document == "block" and not raw.strip()
        if held and (ends or options.document == "line" or size + len(raw) > options.longest):
            yield first, offset, b"".join(held)
            held, size = [], 0
        if ends:
            continue
        if not held:
            first, offset = number, begin
        held.append(raw)
        size += len(raw)
    if held:
        yield first, offset, b"".join(held)


def _unwrapped(text: str) -> str:
    """Returns one paragraph a line, of lines that were broken at a column."""
    blocks = re.split(r"\n[^\S\n]*\n", "\n".join(text.splitlines()))
    return "\n".join(filter(None, (" ".join(block.split()) for block in blocks)))
