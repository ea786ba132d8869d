"""Wikipedia dumps: the articles of a `pages-articles` export, in MediaWiki's XML of any version."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from training.configuration import key
from training.corpora import wikitext
from training.corpora.documents import CorruptRecord, Document, Reading
from training.corpora.files import LONGEST_RECORD, open_stream

_ARTICLES = "0"  # the number of their namespace
_AT_THE_END = (3, 5, 6)  # expat's codes: no element found, unclosed token, partial character


@dataclass(frozen=True, kw_only=True)
class WikipediaOptions:
    """Options of the format `wikipedia`."""

    headings: bool = key("keep headings, as paragraphs", False)
    lists: bool = key("keep the items of lists, as paragraphs", False)


def read_wikipedia(path: str, reading: Reading, options: WikipediaOptions) -> Iterator[Document]:
    """Yields the articles of a dump: pages of the main namespace that are not redirects, in their newest revision.

    Raises CorruptRecord where the XML is not well-formed, with line and column: nothing behind that place can be read.
    """
    with open_stream(path) as stream:
        namespaces = dict(wikitext.CANONICAL)
        for number, page in enumerate(_pages(stream, path, namespaces), start=1):
            reason = page.not_an_article(namespaces)
            if reason:
                reading.report.skip(reason)
                continue
            where = f"page {page.id or number} '{page.title}'"
            try:
                text = wikitext.plain_text(page.text, namespaces, **dataclasses.asdict(options))
            except ValueError as error:
                reading.corrupt(CorruptRecord(path, where, str(error)))
                continue
            if text:
                yield reading.document(text, f"{path}, {where}")
            else:
                reading.report.skip("no text")


@dataclass
class _Page:
    """What an export tells of a page."""

    title: str = ""
    id: str = ""
    namespace: str = ""
    redirects: bool = False
    model: str = "wikitext"
    text: str = ""

    def tell(self, name: str, element: ElementTree.Element) -> None:
        """Takes in a child of <page>."""
        text = element.text or ""
        if name == "title":
            self.title = text
        elif name == "id":
            self.id = text
        elif name == "ns":
            self.namespace = text
        elif name == "redirect":
            self.redirects = True

    def tell_revision(self, name: str, element: ElementTree.Element) -> None:
        """Takes in a child of <revision>; of several revisions the last stays."""
        if name == "text":
            self.text = element.text or ""
        elif name == "model":
            self.model = element.text or self.model

    def not_an_article(self, namespaces: Mapping[str, str]) -> str | None:
        """Returns why the page is not one; exports before version 0.6 tell a page's namespace by its title alone."""
        namespace = self.namespace.strip() or namespaces.get(self.title.partition(":")[0].lower(), _ARTICLES)
        if namespace != _ARTICLES:
            return "another namespace"
        if self.redirects or self.text.lstrip()[:9].lower() == "#redirect":
            return "a redirect"
        return None if self.model == "wikitext" else "not wikitext"


def _pages(stream: io.BufferedReader, path: str, namespaces: dict[str, str]) -> Iterator[_Page]:
    """Yields the pages of an export, each freed after the next; fills in the names of the wiki's namespaces."""
    measured = _Measured(stream, path)
    above: list[ElementTree.Element] = []
    page = _Page()
    try:
        for event, element in ElementTree.iterparse(measured, events=("start", "end")):
            name = _name(element)
            if event == "start":
                if not above and name != "mediawiki":
                    raise CorruptRecord(
                        path, "line 1", f"not a MediaWiki export: it begins with <{name}>, not <mediawiki>"
                    )
                above.append(element)
                continue
            above.pop()
            inside = _name(above[-1]) if above else ""
            if inside == "page":
                page.tell(name, element)
            elif inside == "revision":
                page.tell_revision(name, element)
            elif name == "page":
                yield page
                page = _Page()
            elif name == "namespace":
                namespaces[(element.text or "").lower()] = element.get("key", _ARTICLES)
            if name in ("page", "revision"):
                measured.since = 0
            if inside in ("mediawiki", "page", "revision"):
                above[-1].remove(element)
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(":")[0]
        what = f"ends too early ({reason}): it is truncated" if error.code in _AT_THE_END else f"is invalid: {reason}"
        raise CorruptRecord(path, f"line {line}, column {column + 1}", f"the XML {what}") from None


def _name(element: ElementTree.Element) -> str:
    """Returns the name of an element without that of the export's schema, which differs from version to version."""
    return element.tag.rpartition("}")[2]


class _Measured:
    """A stream that fails before a page fills the memory, which only one without end can do."""

    def __init__(self, stream: io.BufferedReader, path: str):
        self._stream = stream
        self._path = path
        self._read = 0
        self.since = 0  # bytes since the last page or revision ended

    def read(self, size: int) -> bytes:
        """Returns the next bytes, some of them rather than none before a damaged place."""
        data = self._stream.read1(size)
        self._read += len(data)
        self.since += len(data)
        if self.since > LONGEST_RECORD:
            what = f"a page longer than {LONGEST_RECORD >> 20} MiB, with no end in sight"
            raise CorruptRecord(self._path, f"offset {self._read - self.since} of the unpacked file", what)
        return data
