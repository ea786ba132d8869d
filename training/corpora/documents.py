"""What corpora are made of: documents, the records that cannot be read as one, and the count of both."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

KEPT_PROBLEMS = 100  # messages that a report keeps in full; all are counted


@dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    `text` is one paragraph a line, with no empty lines. `source` is the name of its source in the config. `where` is a place
    that a person can find: "wiki.xml.bz2, page 12 'Anarchism'", "a.jsonl.gz, line 3", "x.warc.gz, offset 1042".
    """

    text: str
    source: str
    where: str


class CorruptRecord(ValueError):  # noqa: N818 (it names what was found)
    """A record that cannot be read: the file, the place in it ("line 3", "offset 1042") and what is wrong."""

    def __init__(self, file: str, place: str, what: str):
        super().__init__(file, place, what)  # the arguments as they are, so that processes can hand the error on
        self.file, self.place, self.what = file, place, what

    def __str__(self) -> str:
        return f"{self.problem}; mend the file, or set skip_corrupt: true to count such records and go on"

    @property
    def problem(self) -> str:
        """Where and what, without the remedy."""
        return f"{self.file}, {self.place}: {self.what}"


@dataclass
class ReadReport:
    """What reading found: documents, records passed over (each for a reason), and corrupt records.

    `problems` keeps the first messages of corrupt records; `corrupt` counts all of them.
    """

    documents: int = 0
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)

    def skip(self, reason: str, count: int = 1) -> None:
        """Counts records that are not documents, such as redirects."""
        self.skipped[reason] += count

    def add_corrupt(self, error: CorruptRecord) -> None:
        """Counts a corrupt record that was passed over."""
        self.corrupt += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(error.problem)

    def merge(self, other: ReadReport) -> None:
        """Adds what another process found."""
        self.documents += other.documents
        self.skipped.update(other.skipped)
        self.corrupt += other.corrupt
        self.problems = [*self.problems, *other.problems][:KEPT_PROBLEMS]


@dataclass(frozen=True)
class Reading:
    """What every reader is told: the source's name, what to do about corrupt records, and where to count."""

    name: str
    skip_corrupt: bool = False
    report: ReadReport = field(default_factory=ReadReport)

    def document(self, text: str, where: str) -> Document:
        """Returns a document, counted."""
        self.report.documents += 1
        return Document(text, self.name, where)

    def corrupt(self, error: CorruptRecord) -> None:
        """Counts the record and returns, if corrupt ones are to be passed over; raises it otherwise."""
        if not self.skip_corrupt:
            raise error
        self.report.add_corrupt(error)


def without_empty_lines(text: str) -> str:
    """Returns a text's lines ("\\n") that have something on them, without white space at their ends."""
    return "\n".join(line for line in map(str.strip, text.split("\n")) if line)


def paragraphs(text: str) -> str:
    """Returns the lines of a text that have something on them, without white space at their ends."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))
