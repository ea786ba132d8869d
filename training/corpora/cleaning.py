"""Cleaning documents before they are tokenised: each step optional, counted, and told apart in the report.

The order: `repair` (ftfy), `unicode` (normal form), `controls`, `c4`, `gopher`, `languages`, `personal_data`, `stop_words`.
Duplicates and repeated sentences, whose switches are here too, are found after that, by `duplicates` and `repeats`. MB/s of
one core on English texts of 360 bytes: the first three together 70, personal_data 28, c4 22, languages 7, gopher 5,
stop_words 5. Importing this module does not import TensorFlow.
"""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from training import configuration
from training.configuration import key
from training.corpora import unicode
from training.corpora.c4 import C4, C4Rules
from training.corpora.documents import Document, without_empty_lines
from training.corpora.duplicates import Duplicates
from training.corpora.gopher import Gopher, GopherRules
from training.corpora.languages import Languages
from training.corpora.minhash import Fingerprints, MinHash
from training.corpora.personal_data import PersonalData
from training.corpora.stop_words import StopWords

EXAMPLES = 5  # places that a report keeps for each rule


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Steps of cleaning, in their order; by default only what cannot be encoded or shown is removed."""

    repair: bool = key("mend text that was decoded with the wrong encoding, and HTML entities", False)
    unicode: str = key("normal form of Unicode", "none", choices=unicode.FORMS)
    controls: bool = key("remove control characters", True)
    c4: bool = key("apply C4's rules for lines and documents", False)
    c4_rules: C4Rules = key("which of C4's rules", C4Rules)
    gopher: bool = key("apply Gopher's rules for quality and repetition", False)
    gopher_rules: GopherRules = key("Gopher's limits", GopherRules)
    languages: list[str] | None = key("keep documents in these languages only: en, zh, ...", None)
    language_score: float = key("drop documents whose language is less sure, 0 to 1", 0.5, least=0, most=1)
    personal_data: str = key("what to do about personal data", "keep", choices=("keep", "mask", "drop"))
    personal_data_kinds: list[str] | None = key(
        "kinds of personal data: credentials, email, iban, card, ssn, ip, phone; default: all", None
    )
    stop_words: str | None = key(
        "language whose stop words are removed, such as en, or a file of words; for topic models, not language models",
        None,
    )
    exact_duplicates: bool = key("drop documents whose text was there before, but for case and white space", False)
    near_duplicates: float | None = key(
        "drop documents that share this much with an earlier one: estimated Jaccard similarity of their runs of words",
        None,
        above=0,
        most=1,
    )
    minhash: MinHash = key("how near duplicates are found", MinHash)
    repeated_sentences: int | None = key(
        "leave out runs of so many sentences that were there before, in any document; C4 does with 3", None, least=1
    )

    @property
    def finds_duplicates(self) -> bool:
        """Whether documents that were there before are dropped."""
        return self.exact_duplicates or self.near_duplicates is not None

    def fingerprints(self) -> Fingerprints | None:
        """Returns what makes fingerprints of cleaned texts, in any process; None if duplicates are kept."""
        if self.near_duplicates is None:
            return Fingerprints() if self.exact_duplicates else None
        return Fingerprints(self.minhash)

    def duplicates(self, directory: str | Path) -> Duplicates | None:
        """Returns what judges fingerprints in corpus order, with its index in a directory; None if duplicates are kept."""
        if not self.finds_duplicates:
            return None
        return Duplicates(directory, self.near_duplicates, self.minhash)


@dataclass
class CleaningReport:
    """What cleaning did: numbers by name, and for each rule the places of the first documents that it touched.

    Names: `documents`, `characters` that came in; `kept`, `kept_characters`; "dropped gopher.least_words" and so on, documents;
    "lines c4.punctuation", lines dropped from documents; "changed STEP", documents, and "removed STEP", characters;
    "personal_data email", places. Reports of several processes add up.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, where: str, number: int = 1) -> None:
        """Counts what happened to the document at `where`."""
        self.counts[name] += number
        places = self.examples.setdefault(name, [])
        if len(places) < EXAMPLES:
            places.append(where)

    def shorten(self, step: str, before: str, after: str) -> None:
        """Counts a kept document that a later step left less of, or nothing."""
        removed = len(before) - len(after)
        self.counts.update({f"changed {step}": 1, f"removed {step}": removed})
        self.counts["kept_characters"] -= removed
        if not after:
            self.counts[f"dropped {step}"] += 1
            self.counts["kept"] -= 1

    def merge(self, other: CleaningReport) -> None:
        """Adds what another process did to documents that come after these."""
        self.counts.update(other.counts)
        for name, places in other.examples.items():
            self.examples[name] = [*self.examples.get(name, ()), *places][:EXAMPLES]

    def to_dict(self) -> dict[str, dict]:
        """Returns the report as JSON holds it: `counts` and `examples`, sorted by name."""
        return {"counts": dict(sorted(self.counts.items())), "examples": dict(sorted(self.examples.items()))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping]) -> CleaningReport:
        """Returns a report that `to_dict` wrote."""
        return cls(Counter(values["counts"]), {name: list(places) for name, places in values["examples"].items()})


class Cleaner:
    """Cleans documents as a config says; `report` counts what it did.

    Raises ValueError for a value that a step does not know, ImportError, with the remedy, where a step's library is missing.

        >>> cleaner = Cleaner(Cleaning(unicode="nfc", personal_data="mask"))
        >>> cleaner(Document("Ask jane@example.com.", "mails", "a.txt")).text
        'Ask <email>.'
        >>> cleaner.counts["personal_data email"]
        1
    """

    def __init__(self, config: Cleaning):
        configuration.check(config)
        self.config = config
        self.report = CleaningReport()
        self._repair = unicode.Repair() if config.repair else None
        self._c4 = C4(config.c4_rules) if config.c4 else None
        self._gopher = Gopher(config.gopher_rules) if config.gopher else None
        self._languages = Languages(config.languages, config.language_score) if config.languages else None
        self._personal_data = PersonalData(config.personal_data_kinds) if config.personal_data != "keep" else None
        self._stop_words = None if config.stop_words is None else StopWords(config.stop_words)

    @property
    def counts(self) -> Counter[str]:
        """The report's numbers by name (see `CleaningReport`)."""
        return self.report.counts

    def __call__(self, document: Document) -> Document | None:
        """Returns the document as it is kept, or None if a rule drops it."""
        counts, text = self.report.counts, document.text
        counts["documents"] += 1
        counts["characters"] += len(text)
        kept, rule = self._cleaned(text, document.where)
        if rule is not None:
            self.report.add(f"dropped {rule}", document.where)
            return None
        counts["kept"] += 1
        counts["kept_characters"] += len(kept)
        return document if kept == text else replace(document, text=kept)

    def _cleaned(self, text: str, where: str) -> tuple[str, str | None]:
        """Returns the text and the rule that drops it, or None."""
        config = self.config
        text = self._changed("controls", text, unicode.encodable(text), where)
        if self._repair is not None:
            text = self._changed("repair", text, self._repair(text), where)
        text = self._changed("unicode", text, unicode.normal(text, config.unicode), where)
        if config.controls:
            text = self._changed("controls", text, unicode.without_controls(text), where)
        if self._c4 is not None:
            lines: Counter[str] = Counter()
            left, rule = self._c4(text, lines)
            for name, number in lines.items():
                self.report.add(f"lines c4.{name}", where, number)
            if rule is not None:
                return text, f"c4.{rule}"
            text = self._changed("c4", text, left, where)
        if self._gopher is not None and (rule := self._gopher(text)) is not None:
            return text, f"gopher.{rule}"
        if self._languages is not None and (rule := self._languages(text)) is not None:
            return text, f"languages.{rule}"
        if self._personal_data is not None:
            found: Counter[str] = Counter()
            masked = self._personal_data(text, found)
            for kind, number in found.items():
                self.report.add(f"personal_data {kind}", where, number)
            if found and config.personal_data == "drop":
                return text, "personal_data"
            text = masked
        if self._stop_words is not None:
            text = self._changed("stop_words", text, self._stop_words(text), where)
        text = text if "\n\n" not in text and text == text.strip() else without_empty_lines(text)
        return text, None if text else "empty"

    def _changed(self, step: str, before: str, after: str, where: str) -> str:
        """Counts a document that a step changed, and the characters that are gone; returns it as it is now."""
        if after is not before and after != before:
            self.report.add(f"changed {step}", where)
            self.report.counts[f"removed {step}"] += max(len(before) - len(after), 0)
        return after
