"""Wikitext to plain text: the prose of a page, one paragraph a line.

mwparserfromhell reads the markup. Most of a page's markup is references, templates and tables, of which nothing is kept; they
are cut out by one linear pass before, which is about twice as fast and changes nothing (`cut=False` is its plain twin).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from training.corpora.libraries import library

FILE, CATEGORY = "6", "14"  # MediaWiki's numbers of the namespaces whose links are not prose
CANONICAL = {"file": FILE, "image": FILE, "category": CATEGORY}  # names that every wiki has beside its own

# Elements without markup inside, as the parser knows them.
_RAW_NAMES = (
    "categorytree ce chem gallery graph hiero imagemap inputbox math nowiki pre score section source syntaxhighlight"
    " templatedata timeline"
)
_RAW = frozenset(_RAW_NAMES.split())
# Elements of which nothing is kept: no prose, or not the page's own.
_DROPPED_NAMES = "ref references table mapframe maplink templatestyles style script indicator"
_DROPPED = (_RAW - {"nowiki", "pre"}) | set(_DROPPED_NAMES.split())
_BLOCK_NAMES = "p div blockquote center poem li dd dt tr td th caption h1 h2 h3 h4 h5 h6 ul ol dl"
_BLOCKS = frozenset(_BLOCK_NAMES.split())
# Templates of the English Wikipedia that stand for words inside of sentences, and which of their values those are.
_WORDS: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(("lang", "transl", "transliteration"), lambda values: values[-1]),
    **dict.fromkeys(("nowrap", "nobr", "abbr", "em", "strong", "small", "okina"), lambda values: values[0]),
    **dict.fromkeys(("convert", "cvt"), lambda values: " ".join(values[:2])),
    **dict.fromkeys(("ndash", "en dash"), lambda _: "–"),
    **dict.fromkeys(("snd", "spaced ndash", "spnd"), lambda _: " – "),
    **dict.fromkeys(("mdash", "em dash"), lambda _: "—"),
    **dict.fromkeys(("nbsp", "space"), lambda _: " "),
}

_ITEM, _HEADING = "\x02", "\x03"  # marks of lines; XML has neither character
_TOKEN = re.compile(
    r"<!--|\{\{|\}\}|^[ \t:]*\{\||^[ \t]*\|\}(?!\})|<(/?)(" + "|".join(sorted(_DROPPED | _RAW)) + r")\b[^<>]*?(/?)>",
    re.IGNORECASE | re.MULTILINE,
)
_TEMPLATE_NAME = re.compile(r"\s*([^{}|<>\[\]\n]*)")
_STRAY_TAG = re.compile(r"</?(?:" + "|".join(sorted(_BLOCKS)) + r"|span|small|big|font|[bisu])\b[^<>]*>", re.IGNORECASE)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?|simple")
_SWITCHES = re.compile(r"__[A-Z]{3,}__")
# What is left round a template that was cut out, such as the pronunciation behind a name.
_EMPTY_BRACKETS = re.compile(r"\s*[(（]\s*(?:[,;:、]\s*)*[)）]")
_EDGES_OF_BRACKETS = re.compile(r"(?<=[(（])[\s,;:、]+|[\s,;:、]+(?=[)）])")
_SPACE_BEFORE = re.compile(r" +(?=[,.](?:\s|$))")
_SPACES = re.compile(r"[ \t\xa0]+")


def plain_text(
    wikitext: str,
    namespaces: Mapping[str, str] = CANONICAL,
    *,
    headings: bool = False,
    lists: bool = False,
    cut: bool = True,
) -> str:
    """Returns the paragraphs of a page, one a line; with its headings and list items, a line each, if they are wanted.

    `namespaces` are the wiki's, from names in lower case to numbers. Raises ValueError for markup that cannot be parsed.
    """
    parser = library("mwparserfromhell", "wikitext")
    try:
        code = parser.parse(_without_what_is_dropped(wikitext) if cut else wikitext)
    except (parser.parser.ParserError, RecursionError) as error:
        raise ValueError(f"the wikitext cannot be parsed: {error}") from None
    marked = _STRAY_TAG.sub("", "".join(_Prose(parser.nodes, namespaces).of(code)))
    return "\n".join(_kept_lines(_SWITCHES.sub("", marked), headings, lists))


class _Prose:
    """The text of parsed wikitext, with list items and headings marked."""

    def __init__(self, nodes: Any, namespaces: Mapping[str, str]):
        self._namespaces = namespaces
        self._ways = {
            nodes.Text: lambda node: [node.value],
            nodes.Tag: self._tag,
            nodes.Wikilink: self._link,
            nodes.ExternalLink: lambda node: [str(node.url)] if not node.brackets else self.of(node.title),
            nodes.Template: self._template,
            nodes.Heading: lambda node: ["\n", _HEADING * node.level, *self.of(node.title), "\n"],
            nodes.HTMLEntity: self._entity,
        }

    def of(self, code: Any) -> Iterator[str]:
        """Yields the text of nodes; comments and arguments have none."""
        for node in code.nodes if code else ():
            way = self._ways.get(type(node))
            if way:
                yield from way(node)

    def _tag(self, node: Any) -> Iterator[str]:
        name = str(node.tag).strip().lower()
        if name in _DROPPED:
            return
        if name in ("br", "hr"):
            yield "\n"
        elif node.wiki_markup and node.self_closing:  # the bullet before an item
            yield _ITEM
        elif name in _BLOCKS:
            yield "\n"
            yield _ITEM if name in ("li", "dd", "dt") else ""
            yield from self.of(node.contents)
            yield "\n"
        elif name in _RAW:
            yield str(node.contents)
        else:
            yield from self.of(node.contents)

    def _link(self, node: Any) -> Iterator[str]:
        title = str(node.title).strip()
        prefix, colon, _ = title.partition(":")
        prefix = prefix.strip().lower()
        if colon and prefix:
            if self._namespaces.get(prefix, CANONICAL.get(prefix)) in (FILE, CATEGORY):
                return
            if node.text is None and prefix not in self._namespaces and _LANGUAGE.fullmatch(prefix):
                return  # the same page in another language
        if node.text is None:
            yield title.lstrip(":")
        else:
            yield from self.of(node.text)

    def _template(self, node: Any) -> Iterator[str]:
        words = _words_of(str(node.name))
        values = ["".join(self.of(each.value)).strip() for each in node.params if not each.showkey] if words else []
        if words and (values or words([""]) != ""):
            yield words(values or [""])

    @staticmethod
    def _entity(node: Any) -> Iterator[str]:
        try:
            yield node.normalize()
        except ValueError:  # a number that is no character
            return


def _words_of(template: str) -> Callable[[list[str]], str] | None:
    name = template.strip().lower().replace("_", " ")
    return _WORDS["lang"] if name.startswith("lang-") else _WORDS.get(name)


def _kept_lines(marked: str, headings: bool, lists: bool) -> Iterator[str]:
    pending: list[tuple[int, str]] = []  # headings of what may come
    for line in marked.split("\n"):
        heading = len(line) - len(line.lstrip(_HEADING))
        is_item = line.lstrip().startswith(_ITEM)
        text = _tidy(line.replace(_HEADING, "").replace(_ITEM, ""))
        if not text or text.startswith(("|", "{|", "{{", "}}")):  # what is left of broken tables and templates
            continue
        if heading:
            pending = [*(each for each in pending if each[0] < heading), (heading, text)]
        elif lists or not is_item:
            yield from (title for _, title in pending if headings)
            pending = []
            yield text


def _tidy(line: str) -> str:
    """Returns a line without the traces of what was left out."""
    if "(" in line or "（" in line:
        line = _EDGES_OF_BRACKETS.sub("", _EMPTY_BRACKETS.sub("", line))
    return _SPACE_BEFORE.sub("", _SPACES.sub(" ", line)).strip()


def _without_what_is_dropped(wikitext: str) -> str:
    """Returns wikitext without comments and closed references, templates, tables and other elements that are not kept."""
    spans: list[tuple[int, int]] = []  # what to leave out; one may hold others that were found before
    opened: list[tuple[str, int, bool]] = []  # kind, beginning, whether it is dropped
    unclosed: set[str] = set()  # kinds that are not closed from here on: each is looked for once
    place = 0
    while token := _TOKEN.search(wikitext, place):
        begin, place = token.span()
        mark = token.group().strip(" \t:")
        if mark == "<!--":
            end = wikitext.find("-->", place)
            place = len(wikitext) if end < 0 else end + 3
            spans.append((begin, place))
        elif mark == "{{":
            name = _TEMPLATE_NAME.match(wikitext, place).group(1)
            opened.append(("}}", begin, _words_of(name) is None))
        elif mark == "{|":
            opened.append(("|}", begin, True))
        elif mark in ("}}", "|}"):
            _close(mark, place, opened, spans)
        elif token.group(3):  # <ref/>
            spans.append((begin, place))
        elif token.group(1):  # </ref>
            _close(token.group(2).lower(), place, opened, spans)
        elif (name := token.group(2).lower()) in _RAW:
            end = None if name in unclosed else re.compile(rf"</{name}\s*>", re.IGNORECASE).search(wikitext, place)
            if end is None:
                unclosed.add(name)
            else:
                place = end.end()
                spans += [(begin, place)] if name in _DROPPED else []
        else:
            opened.append((name, begin, True))
    spans.sort()
    kept, place = [], 0
    for begin, end in spans:
        if begin >= place:
            kept.append(wikitext[place:begin])
        place = max(place, end)
    return "".join([*kept, wikitext[place:]])


def _close(kind: str, end: int, opened: list[tuple[str, int, bool]], spans: list[tuple[int, int]]) -> None:
    """Ends the innermost element if it is of the kind; anything else is left to the parser."""
    if opened and opened[-1][0] == kind:
        _, begin, dropped = opened.pop()
        if dropped:
            spans.append((begin, end))
