"""Wikipedia dumps: the export's XML, and wikitext as prose."""

import bz2
import tracemalloc
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.documents import CorruptRecord, Reading, ReadReport
from training.corpora.readers import read_documents
from training.corpora.wikipedia import WikipediaOptions, read_wikipedia
from training.corpora.wikitext import plain_text

PAGE = """{{Short description|x}}{{Use dmy dates}}
'''Anarchism''' is a [[political philosophy]] ([[Greek language|Greek]]: {{lang|el|αναρχία}}; {{IPA|x}}).<ref name="a">{{cite
book|title=[[X]]}}</ref><ref name=b/> It is&nbsp;''old''<!-- a {{ comment -->, [[w:en|very]] old {{circa|1840}}.
[[File:Foo.jpg|thumb|left|A [[caption]] here]]
{{Infobox
| a = b
| c = {{d|e}}
}}
== History ==
=== Early ===
Text [http://a.b label] [http://c.d], [[:Category:Bar]]. [[Category:Foo]] {{convert|3|km|mi}} long.

* item [[one]]
*# item two
: indented
{| class="wikitable"
! h
|-
| x || y {{z}}
|}
== Empty ==
<gallery>
File:A.jpg|cap
</gallery>
== Last ==
<math>x^2 {{ </math> <nowiki>[[raw]]</nowiki> H<sub>2</sub>O<br/>next __NOTOC__
----
<blockquote>quoted</blockquote>[[de:Foo]]
"""
PROSE = """Anarchism is a political philosophy (Greek: αναρχία). It is old, very old.
Text label, Category:Bar. 3 km long.
[[raw]] H2O
next
quoted"""


def export(pages, version="0.11", namespaces=True) -> str:
    """An export of (title, text, extra elements) pages."""
    held = [f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" version="{version}" xml:lang="de">']
    held.append('<siteinfo><sitename>W</sitename><namespaces><namespace key="0" case="first-letter" />')
    held.append('<namespace key="1">Diskussion</namespace><namespace key="6">Datei</namespace></namespaces></siteinfo>')
    for number, (title, text, extra) in enumerate(pages, 1):
        namespace = f"<ns>{1 if 'Diskussion' in title else 0}</ns>" if namespaces else ""
        held.append(f"\n<page><title>{title}</title>{namespace}<id>{number * 10}</id>{extra}<revision><id>9</id>")
        held.append("<contributor><id>3</id><text>not this</text></contributor><comment>nor this</comment>")
        held.append(
            f'<model>wikitext</model><text bytes="1" xml:space="preserve">{escape(text)}</text></revision></page>'
        )
    return "".join([*held, "\n</mediawiki>"])


SCRIPT = "<revision><model>Scribunto</model><text>local x</text></revision>"
PAGES = [
    ("A &amp; O", "Erster [[Datei:x.jpg|mini|Bild]] Text.", ""),
    ("B", "#REDIRECT [[A]]", '<redirect title="A"/>'),
    ("C", "#redirect [[A]]", ""),
    ("Diskussion:A", "Hallo", ""),
    ("D", "{{nur|Vorlage}}", ""),
    ("E", "Neu.", "<revision><text>Alt.</text></revision>"),
]


def read(path, content: str | bytes, **options):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_documents("wikipedia", [path], name="wiki", **options))


@pytest.mark.parametrize(("version", "namespaces"), [("0.3", False), ("0.10", True), ("0.11", True)])
def test_articles_of_an_export(tmp_path, version, namespaces):
    report = ReadReport()
    documents = read(tmp_path / "a.xml", export(PAGES, version, namespaces), report=report)
    path = tmp_path / "a.xml"
    assert [(each.text, each.where) for each in documents] == [
        ("Erster Text.", f"{path}, page 10 'A & O'"),
        ("Neu.", f"{path}, page 60 'E'"),
    ]
    assert report.skipped == {"a redirect": 2, "another namespace": 1, "no text": 1}


def test_multistream_archives(tmp_path):
    whole = export(PAGES).encode()
    packed = b"".join(bz2.compress(whole[place : place + 300]) for place in range(0, len(whole), 300))
    assert len(read(tmp_path / "a.xml.bz2", packed)) == 2


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda xml: xml[:-9], "line 8, column 1: the XML ends too early (unclosed token): it is truncated"),
        (lambda xml: xml[: xml.index("<title>D")], "the XML ends too early (no element found): it is truncated"),
        (lambda xml: xml.replace("</ns><id>50", "</n><id>50"), "line 6, column 30: the XML is invalid: mismatched tag"),
        (lambda xml: xml.replace("<id>50", "\x01<id>50"), "line 6, column 33: the XML is invalid: not well-formed"),
        (lambda xml: xml.encode().replace(b"nur", b"\xff"), "line 6, column 211: the XML is invalid: not well-formed"),
        (lambda xml: "<html><body/></html>", "line 1: not a MediaWiki export: it begins with <html>, not <mediawiki>"),
        (lambda xml: "", "line 1, column 1: the XML ends too early (no element found): it is truncated"),
    ],
)
def test_invalid_xml_is_told_with_its_place(tmp_path, break_it, problem):
    path = tmp_path / "a.xml"
    broken = break_it(export(PAGES))
    with pytest.raises(CorruptRecord) as told:
        read(path, broken)
    assert problem in str(told.value)
    assert str(told.value).startswith(f"{path}, ")
    report = ReadReport()
    reading = Reading("wiki", True, report)
    with pytest.raises(CorruptRecord):  # of the file: the reader cannot go on
        list(read_wikipedia(str(path), reading, WikipediaOptions()))
    assert report.documents in (0, 1, 2)


def test_entities_that_multiply_are_refused(tmp_path):
    entities = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{number} "{f"&a{number - 1};" * 10}">' for number in range(1, 10)
    )
    with pytest.raises(CorruptRecord, match="the XML is invalid"):
        read(tmp_path / "a.xml", f"<!DOCTYPE x [{entities}]><mediawiki>&a9;</mediawiki>")


def test_memory_does_not_grow_with_the_dump(tmp_path):
    def peak(pages: int) -> int:
        path = tmp_path / "a.xml"
        path.write_text(export([("A", "Some prose is here. " * 50, "")] * pages))
        tracemalloc.start()
        assert sum(1 for _ in read_documents("wikipedia", [path], name="w")) == pages
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(10)  # imports
    assert peak(1000) < peak(100) + 200_000


def test_wikitext_as_prose():
    assert plain_text(PAGE) == PROSE


def test_tags_that_are_not_closed_are_no_text():
    assert plain_text("<div class='x'>a <span>b</div> 1 < 2 > c</i>") == "a b\n1 < 2 > c"


def test_headings_and_lists_are_kept_on_demand():
    lines = plain_text(PAGE, headings=True, lists=True).splitlines()
    assert [line for line in lines if line in ("History", "Early", "Empty", "Last")] == ["History", "Early", "Last"]
    assert {"item one", "item two", "indented"} <= set(lines)


def test_links_into_namespaces_of_the_wiki():
    text = "a [[Datei:x.jpg|mini|b]] [[Kategorie:c]] [[Wikt:d|e]] [[Terminator 2: f]]"
    assert plain_text(text, {"datei": "6", "kategorie": "14"}) == "a e Terminator 2: f"


MARKUP = """word [[ ]] {{ }} | {{lang| '' <ref> </ref> <ref/> <nowiki> </nowiki> <!-- --> \n \n\n \n{| \n|} \n* \n== ==\n
&amp; &#1; <br> <math> </math> [http://a ] File: ( ) <b> </b> __TOC__ <div> </div> = <pre {{{ }}} </gallery>"""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=st.lists(st.sampled_from(MARKUP.split(" ")), max_size=25))
def test_any_markup_is_read(pieces):
    plain_text(" ".join(pieces))


def test_cutting_changes_nothing():
    """The pass that cuts what is dropped, against parsing all of it."""
    for headings in (True, False):
        for lists in (True, False):
            expected = plain_text(PAGE, headings=headings, lists=lists, cut=False)
            assert plain_text(PAGE, headings=headings, lists=lists) == expected


NESTED = st.recursive(
    st.sampled_from(
        [
            "word ",
            "''it'' ",
            "[[a|b]] ",
            "(x) ",
            "<br/>",
            "\n\n",
            "&nbsp;",
            "<!-- {{ <b> -->",
            "<gallery>a|{{b}}</gallery>",
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        inner.map("{{{{t|{}}}}}".format),
        inner.map("{{{{nowrap|{}}}}}".format),
        inner.map("<ref>{}</ref>".format),
        inner.map("\n{{|\n| {}\n|}}\n".format),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(page=NESTED)
def test_cutting_changes_nothing_in_any_closed_markup(page):
    assert plain_text(page) == plain_text(page, cut=False)
