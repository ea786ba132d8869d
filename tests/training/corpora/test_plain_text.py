"""Plain text: what a document is, bytes that are no text, books of Project Gutenberg."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.documents import CorruptRecord, ReadReport, paragraphs
from training.corpora.readers import read_documents

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Zs", "Zl", "Zp", "Cc"]), min_size=1, max_size=8)


def read(path, content: bytes | None = None, **options):
    if content is not None:
        path.write_bytes(content)
    return list(read_documents("text", [path], name="books", **options))


def test_a_file_is_a_document(tmp_path):
    (tmp_path / "b.txt").write_text("Second.\n")
    (tmp_path / "a.txt").write_text("  First\tline. \r\n\r\nAnother one.\n\n")
    documents = read(tmp_path)
    assert [document.text for document in documents] == ["First\tline.\nAnother one.", "Second."]
    assert documents[0].where == str(tmp_path / "a.txt")
    assert documents[0].source == "books"


def test_a_document_a_block_and_a_line(tmp_path):
    content = b"a b\nc\n\n  \nd\ne\n\n"
    path = tmp_path / "a.txt"
    blocks = read(path, content, document="block")
    assert [(document.text, document.where) for document in blocks] == [
        ("a b\nc", f"{path}"),
        ("d\ne", f"{path}, line 5"),
    ]
    report = ReadReport()
    assert [document.text for document in read(path, content, document="line", report=report)] == ["a b", "c", "d", "e"]
    assert report.documents == 4
    assert report.skipped == {"no text": 3}


def test_wrapped_lines_are_joined(tmp_path):
    content = b"It was the best\nof times,\n\n  it was the\nworst\n of times.\n"
    (document,) = read(tmp_path / "a.txt", content, wrapped=True)
    assert document.text == "It was the best of times,\nit was the worst of times."


def test_a_long_document_goes_on_in_another(tmp_path):
    content = b"".join(b"line %d\n" % number for number in range(1000))
    documents = read(tmp_path / "a.txt", content, longest=2000)
    assert len(documents) == 5
    assert all(len(document.text) <= 2000 for document in documents)
    assert "\n".join(document.text for document in documents) == content.decode().strip()
    line = int(documents[1].where.rpartition(" ")[2])
    assert documents[1].text.startswith(f"line {line - 1}\n"), "the place is that of its first line"


BOOK = """\ufeffThe Project Gutenberg eBook of A Book

*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***

CHAPTER I

Call me a book, that was
wrapped.

*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***
Licence, very long.
"""
OLD_BOOK = """**Welcome**
***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Small print.
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
Text.
End of Project Gutenberg's A Book
"""


def test_gutenbergs_additions_are_left_out(tmp_path):
    path = tmp_path / "a.txt"
    (document,) = read(path, BOOK.encode(), gutenberg=True, wrapped=True)
    assert document.text == "CHAPTER I\nCall me a book, that was wrapped."
    assert read(path, OLD_BOOK.encode(), gutenberg=True)[0].text == "Text."
    assert read(path, b"No marks.", gutenberg=True)[0].text == "No marks."
    assert read(path, BOOK.encode())[0].text.startswith("The Project Gutenberg"), "the order mark is no text"


def test_what_is_not_utf8_is_told(tmp_path):
    path = tmp_path / "a.txt"
    content = b"one\n\ntw\xfco\nx\n\nthree"
    with pytest.raises(CorruptRecord, match=r"a.txt, line 3, offset 7: not utf-8: byte 0xfc, .*skip_corrupt: true"):
        read(path, content)
    report = ReadReport()
    documents = read(path, content, document="block", skip_corrupt=True, report=report)
    assert [document.text for document in documents] == ["one", "three"]
    assert (report.corrupt, report.documents) == (1, 2)
    assert report.problems == [f"{path}, line 3, offset 7: not utf-8: byte 0xfc, invalid start byte"]
    assert read(path, content, encoding="cp1252")[0].text == "one\ntwüo\nx\nthree"


def test_a_truncated_archive_loses_only_the_rest_of_its_file(tmp_path):
    lines = b"".join(b"line %d\n" % number for number in range(100_000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines)[:-100])
    (tmp_path / "b.txt").write_text("last")
    report = ReadReport()
    documents = read(tmp_path, document="line", skip_corrupt=True, report=report)
    assert [document.text for document in documents[:2]] == ["line 0", "line 1"]
    assert documents[-1].text == "last"
    assert 90_000 < len(documents) < 100_001
    assert report.corrupt == 1
    assert "a.txt.gz, offset" in report.problems[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"document": "page"}, 'document: expected one of file, block, line, got "page"'),
        ({"encoding": "klingon"}, 'encoding: expected one that Python knows .* got "klingon"'),
        ({"encoding": "utf-16"}, "ends lines with one byte"),
        ({"longest": 0}, "longest: expected a number of at least 1"),
        ({"splt": 1}, "splt: no such key .*; known: document, wrapped, gutenberg, longest, encoding"),
    ],
)
def test_wrong_options_are_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as told:
        read(tmp_path / "a.txt", b"x", **options)
    assert str(told.value).startswith('sources: "books": ')
    assert "\n" not in str(told.value)


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3), min_size=1)
)
def test_blocks_and_lines_of_any_text(tmp_path_factory, blocks):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    content = "\n\n".join("\n".join(lines) for lines in blocks).encode()
    assert [each.text for each in read(path, content, document="block")] == ["\n".join(lines) for lines in blocks]
    assert [each.text for each in read(path, content, document="line")] == [line for lines in blocks for line in lines]
    assert read(path, content)[0].text == paragraphs(content.decode())


@settings(max_examples=60, deadline=None)
@given(content=st.binary(), document=st.sampled_from(["file", "block", "line"]), longest=st.integers(1, 20))
def test_any_bytes_are_read_or_told(tmp_path_factory, content, document, longest):
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(content)
    report = ReadReport()
    try:
        read(path, content, document=document, longest=longest, skip_corrupt=True, report=report)
    except ValueError as error:
        if report.documents or "not one document" not in str(error):
            raise
