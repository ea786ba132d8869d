"""The rules by which C4 keeps lines and pages of the web.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, with the numbers of the code released with it. Its
removal of repeated spans of three sentences, which looks at all documents, is `repeated_sentences` of `cleaning`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from training.configuration import key
from training.corpora.sentences import sentence_starts

# The paper's ". ! ?" and closing quotation marks; those of other scripts besides.
END_MARKS = (".", "!", "?", '"', "”", "»", "。", "！", "？", "」", "।", "؟")
ELLIPSES = ("...", "…")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATIONS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


@dataclass(frozen=True, kw_only=True)
class C4Rules:
    """C4's rules, each to be switched off with false or null."""

    punctuation: bool = key("drop lines that do not end as sentences do, and those that end in an ellipsis", True)
    least_words: int | None = key("drop lines with fewer words", 5, least=1)
    longest_word: int | None = key("drop lines with a longer word, in characters", 1000, least=1)
    javascript: bool = key('drop lines that say "javascript"', True)
    policies: bool = key("drop lines about privacy policies, terms of use and cookies", True)
    citations: bool = key("remove [1], [edit] and [citation needed]", True)
    lorem_ipsum: bool = key('drop documents that say "lorem ipsum"', True)
    curly_brackets: bool = key("drop documents with a {, since they are code", True)
    least_sentences: int | None = key("drop documents in which fewer sentences are left", 3, least=1)
    bad_words: str | None = key("file of words and phrases, one a line: documents that say one are dropped", None)


class C4:
    """Applies C4's rules; FileNotFoundError for a `bad_words` that is not a file, ValueError for an empty one."""

    def __init__(self, rules: C4Rules):
        self.rules = rules
        self._bad_words = None if rules.bad_words is None else _pattern(Path(rules.bad_words))

    def __call__(self, text: str, lines: Counter[str]) -> tuple[str, str | None]:
        """Returns the lines of a text that are kept, and the rule that drops the document or None; counts dropped lines."""
        rules, kept = self.rules, []
        for line in text.split("\n"):
            line = line.strip()
            if not line:
                continue
            words = line.split()
            if rules.longest_word is not None and len(line) > rules.longest_word < max(map(len, words)):
                lines["longest_word"] += 1
                continue
            if rules.citations and "[" in line:
                line = _CITATIONS.sub("", line).strip()
            if rules.punctuation and (not line.endswith(END_MARKS) or line.endswith(ELLIPSES)):
                lines["punctuation"] += 1
                continue
            if rules.least_words is not None and len(words) < rules.least_words:
                lines["least_words"] += 1
                continue
            lower = line.lower()
            if rules.lorem_ipsum and "lorem ipsum" in lower:
                return text, "lorem_ipsum"
            if rules.javascript and "javascript" in lower:
                lines["javascript"] += 1
                continue
            if rules.curly_brackets and "{" in line:
                return text, "curly_brackets"
            if rules.policies and any(phrase in lower for phrase in POLICIES):
                lines["policies"] += 1
                continue
            kept.append(line)
        text = "\n".join(kept)
        if rules.least_sentences is not None and len(sentence_starts(text)) < rules.least_sentences:
            return text, "least_sentences"
        if self._bad_words is not None and self._bad_words.search(text.lower()):
            return text, "bad_words"
        return text, None


def _pattern(path: Path) -> re.Pattern[str]:
    if not path.is_file():
        raise FileNotFoundError(f"cleaning.c4_rules.bad_words: {path}: no such file; give words, one a line")
    words = [word.strip().lower() for word in path.read_text(encoding="utf-8").splitlines() if word.strip()]
    if not words:
        raise ValueError(f"cleaning.c4_rules.bad_words: {path} has no words; give some, one a line")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(words)))})(?!\w)")
