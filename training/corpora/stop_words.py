"""Stop words, which topic models do without and language models do not."""

from __future__ import annotations

import re
from pathlib import Path

from training.corpora.libraries import library

_WORDS = re.compile(r"\w+(?:['’]\w+)*")
_SPACES = re.compile(r"[ \t]+")
_LEFT_BEHIND = re.compile(r" (?=[,.;:!?)\]])|(?<=[(\[]) ")


class StopWords:
    """Removes stop words from texts.

    Args:
        language: ISO 639-1 code of one of the 58 lists of the package stopwordsiso, or a file of words, one a line.

    Raises ValueError for another language, ImportError, with the remedy, where stopwordsiso is missing.
    """

    def __init__(self, language: str):
        if Path(language).is_file():
            words = Path(language).read_text(encoding="utf-8").split("\n")
        else:
            lists = library("stopwordsiso", "cleaning.stop_words")
            if not lists.has_lang(language):
                known = ", ".join(sorted(lists.langs()))
                raise ValueError(
                    f'cleaning.stop_words: no list for "{language}"; give a file of words, or one of {known}'
                )
            words = lists.stopwords(language)
        self._words = frozenset(_key(word.strip()) for word in words)

    def __call__(self, text: str) -> str:
        """Returns the text without stop words, and without the spaces and lines that these leave behind."""
        text = _WORDS.sub(lambda match: "" if _key(match[0]) in self._words else match[0], text)
        lines = (_LEFT_BEHIND.sub("", _SPACES.sub(" ", line)).strip() for line in text.split("\n"))
        return "\n".join(line for line in lines if _WORDS.search(line))


def _key(word: str) -> str:
    return word.lower().replace("’", "'")
