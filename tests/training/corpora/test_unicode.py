"""Unicode repair: mended once is mended for good, normal forms, and what is no text."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.unicode import FORMS, Repair, encodable, normal, without_controls

ANY_TEXT = st.text(st.characters(), max_size=200)  # lone surrogates too


@pytest.fixture(scope="module")
def repair():
    return Repair()


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("schÃ¶n und gut", "schön und gut"),
        ("Il sâ€™agit dâ€™un paquet", "Il s’agit d’un paquet"),
        ("fish &amp; chips", "fish & chips"),
        ("a \x1b[31mred\x1b[0m word", "a red word"),
        ("ÃƒÂ© twice", "é twice"),
    ],
)
def test_mends_what_was_decoded_wrongly(repair, broken, mended):
    assert repair(broken) == mended


@pytest.mark.parametrize("text", ["schön", "“curly”", "ﬁne", "ＡＢＣ", "1 < 2 &amp; 3", "à la carte", "x\u200dy"])
def test_leaves_what_is_right(repair, text):
    assert repair(text) == text


@settings(deadline=None)
@given(st.text(max_size=100) | st.text(max_size=50).map(lambda text: text.encode().decode("latin-1")))
def test_repairing_again_changes_nothing(text):
    repair = Repair()
    once = repair(text)
    assert repair(once) == once


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("&amp;\x1b[1m\r\x85\u2028Ã©â€™", max_size=30))
def test_what_is_not_looked_at_holds_nothing_to_mend(text):
    repair = Repair()
    if repair(text) == text:
        assert repair._fix(text, repair._config) == text


@settings(deadline=None)
@given(ANY_TEXT, st.sampled_from(FORMS))
def test_what_is_left_is_normal_printable_and_encodable(text, form):
    clean = without_controls(normal(encodable(text), form))
    clean.encode("utf-8")
    assert not [each for each in clean if unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n"]
    if form != "none":
        assert unicodedata.is_normalized(form.upper(), clean)
    assert without_controls(clean) == clean


def test_ascii_goes_the_same_way():
    text = "".join(map(chr, range(128)))
    assert without_controls(text) == without_controls(text + "é")[:-1] == "\t\n\n\n\n" + text[32:127]


def test_normal_forms():
    assert normal("e\u0301 ﬁ", "nfc") == "é ﬁ"
    assert normal("e\u0301 ﬁ", "nfkc") == "é fi"
    assert normal("e\u0301 ﬁ", "none") == "e\u0301 ﬁ"


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ImportError, match=r"cleaning\.repair needs ftfy .*pip install 'tf-garden\[corpora\]'"):
        Repair()
