"""Removing stop words."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.stop_words import StopWords

ENGLISH = StopWords("en")


def test_removes_stop_words_and_the_space_around_them():
    assert ENGLISH("The compiler isn't (in the) kernel, but near it.") == "compiler () kernel,."
    assert ENGLISH("It’s the\nkernel") == "kernel"


def test_has_lists_for_many_languages():
    assert StopWords("de")("Der Hund und die Katze") == "Hund Katze"
    with pytest.raises(ValueError, match=r'no list for "english"; give a file of words, or one of af, ar, .*en'):
        StopWords("english")


def test_takes_a_file_of_words(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("package\nthis\n", encoding="utf-8")
    assert StopWords(str(path))("This Package contains the rest") == "contains the rest"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_takes_any_text_and_leaves_nothing_to_remove(text):
    once = ENGLISH(text)
    assert len(once) <= len(text)
    assert ENGLISH(once) == once


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "stopwordsiso", None)
    with pytest.raises(ImportError, match=r"cleaning\.stop_words needs stopwordsiso .*'tf-garden\[corpora\]'"):
        StopWords("en")
