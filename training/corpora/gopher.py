"""The rules by which MassiveText, Gopher's corpus, keeps documents: quality, and repetition within a document.

Rae et al. 2021, "Scaling Language Models", appendix A.1.1 and table A1. Words are what white space separates, so the rules suit
languages that write spaces; the stop words are English unless others are given. Letters: W words of a document.
"""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.configuration import key

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "‣", "▪", "◦", "●", "*", "-", "–", "·")
ELLIPSES = ("...", "…")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, kw_only=True)
class GopherRules:
    """Gopher's limits, each to be switched off with null."""

    least_words: int | None = key("words of a document at least", 50, least=0)
    most_words: int | None = key("words of a document at most", 100_000, least=1)
    shortest_mean_word: float | None = key("characters of its words on average at least", 3.0, least=0)
    longest_mean_word: float | None = key("characters of its words on average at most", 10.0, least=0)
    symbols: float | None = key("hashes, or ellipses, for each word at most", 0.1, least=0)
    bullet_lines: float | None = key("share of lines that begin with a bullet at most", 0.9, least=0, most=1)
    ellipsis_lines: float | None = key("share of lines that end in an ellipsis at most", 0.3, least=0, most=1)
    letters: float | None = key("share of words with a letter at least", 0.8, least=0, most=1)
    least_stop_words: int | None = key("different stop words at least", 2, least=0)
    stop_words: list[str] | None = key(f"words that count as such; default: {', '.join(STOP_WORDS)}", None)
    repeated_lines: float | None = key("share of lines that repeat another at most", 0.3, least=0, most=1)
    repeated_line_characters: float | None = key("share of characters in such lines at most", 0.2, least=0, most=1)
    top_2_gram: float | None = key("share of characters in the commonest pair of words at most", 0.2, least=0, most=1)
    top_3_gram: float | None = key("same of three words", 0.18, least=0, most=1)
    top_4_gram: float | None = key("same of four words", 0.16, least=0, most=1)
    repeated_5_grams: float | None = key("share of characters in repeated runs of 5 words", 0.15, least=0, most=1)
    repeated_6_grams: float | None = key("same of 6 words", 0.14, least=0, most=1)
    repeated_7_grams: float | None = key("same of 7 words", 0.13, least=0, most=1)
    repeated_8_grams: float | None = key("same of 8 words", 0.12, least=0, most=1)
    repeated_9_grams: float | None = key("same of 9 words", 0.11, least=0, most=1)
    repeated_10_grams: float | None = key("same of 10 words", 0.10, least=0, most=1)


class Gopher:
    """Applies Gopher's rules to documents, and names the first that a document breaks."""

    def __init__(self, rules: GopherRules):
        self.rules = rules
        given = STOP_WORDS if rules.stop_words is None else rules.stop_words
        self._stop_words = frozenset(word.lower() for word in given)

    def __call__(self, text: str) -> str | None:
        """Returns the name of the first rule that drops the document, None if it is kept."""
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        words = text.split()
        return self._quality(text, lines, words) or self._repetition(lines, words)

    def _quality(self, text: str, lines: list[str], words: list[str]) -> str | None:
        rules, count = self.rules, len(words)
        if _under(count, rules.least_words):
            return "least_words"
        if _over(count, rules.most_words):
            return "most_words"
        if not count:
            return None
        mean = sum(map(len, words)) / count
        if _under(mean, rules.shortest_mean_word):
            return "shortest_mean_word"
        if _over(mean, rules.longest_mean_word):
            return "longest_mean_word"
        if _over(max(text.count("#"), sum(map(text.count, ELLIPSES))) / count, rules.symbols):
            return "symbols"
        if _over(sum(line.startswith(BULLETS) for line in lines) / len(lines), rules.bullet_lines):
            return "bullet_lines"
        if _over(sum(line.endswith(ELLIPSES) for line in lines) / len(lines), rules.ellipsis_lines):
            return "ellipsis_lines"
        if rules.letters is not None:
            without = [word for word in words if not word.isalpha() and _LETTER.search(word) is None]
            if 1 - len(without) / count < rules.letters:
                return "letters"
        if rules.least_stop_words and len(self._stop_words.intersection(text.lower().split())) < rules.least_stop_words:
            return "least_stop_words"
        return None

    def _repetition(self, lines: list[str], words: list[str]) -> str | None:
        """The rules of table A1. A document has one paragraph a line, so that its rules for both, equal, are one here.

        What repeats is every occurrence but the first; runs that overlap count once.
        """
        rules = self.rules
        repeats = len(lines) - len(set(lines))
        if repeats:
            if _over(repeats / len(lines), rules.repeated_lines):
                return "repeated_lines"
            total, unique = sum(map(len, lines)), sum(map(len, set(lines)))
            if _over((total - unique) / total, rules.repeated_line_characters):
                return "repeated_line_characters"
        for n, top, repeated in _n_grams(words):
            name, share = (f"top_{n}_gram", top) if n < 5 else (f"repeated_{n}_grams", repeated)
            if _over(share, getattr(rules, name)):
                return name
        return None


def _n_grams(words: list[str]) -> Iterator[tuple[int, float, float]]:
    """Yields n from 2 to 10 while any repeat, and the share of characters in the commonest n-gram and in repeated ones."""
    known: dict[str, int] = {}
    # A word's number is its first place.
    ids_W = np.fromiter(map(known.setdefault, words, range(len(words))), np.int64, len(words))
    if len(known) == len(words):
        return
    lengths_W = np.fromiter(map(len, words), np.int64, len(words))
    total, ends_W = int(lengths_W.sum()), np.concatenate([[0], np.cumsum(lengths_W)])
    grams = ids_W
    for n in range(2, 11):
        # An n-gram is a shorter one and a word, both numbered.
        grams = grams[:-1] * len(words) + ids_W[n - 1 :]
        ordered = np.sort(grams)
        if (ordered[1:] != ordered[:-1]).all():
            return
        _, first, grams, counts = np.unique(grams, return_index=True, return_inverse=True, return_counts=True)
        most = int(counts.max())
        sizes = (ends_W[n:] - ends_W[:-n])[first]
        top = most * int(sizes[counts == most].max()) / total
        again = np.ones(len(grams), bool)
        again[first] = False
        covered_W = np.zeros(len(words), bool)
        for offset in range(n):
            covered_W[offset : offset + len(again)] |= again
        yield n, top, int(lengths_W[covered_W].sum()) / total


def _under(value: float, limit: float | None) -> bool:
    return limit is not None and value < limit


def _over(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit
