"""C4's rules: for each a text that it drops and a near miss that it keeps."""

from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.c4 import C4, C4Rules

GOOD = "This first line has enough words. It holds two sentences already.\nA second line has enough of them, too."
NONE = C4Rules(
    **{field.name: False if isinstance(field.default, bool) else None for field in fields(C4Rules)}  # every rule off
)


def lines_kept(text: str, **rules) -> tuple[str, Counter]:
    dropped = Counter()
    return C4(replace(NONE, **rules))(text, dropped)[0], dropped


def document_rule(text: str, **rules) -> str | None:
    return C4(replace(NONE, **rules))(text, Counter())[1]


def test_keeps_a_good_document_as_it_is():
    assert C4(C4Rules())(GOOD, Counter()) == (GOOD, None)


def test_every_rule_can_be_switched_off():
    text = "{ javascript lorem ipsum [1] privacy policy ..."
    assert C4(NONE)(text, Counter()) == (text, None)


@pytest.mark.parametrize(
    ("rule", "value", "dropped", "kept"),
    [
        ("punctuation", True, "a line without an end", "a line with one."),
        ("punctuation", True, "more of this ...", 'she said "so."'),
        ("punctuation", True, "to be continued…", "they said “so.”"),
        ("least_words", 5, "only four words here.", "here are five of them."),
        ("longest_word", 20, "a " + "x" * 21, "a " + "x" * 20),
        ("javascript", True, "Please enable JavaScript.", "Java is an island."),
        ("policies", True, "Read our Privacy Policy.", "Privacy is a policy."),
        ("policies", True, "This site uses cookies.", "She uses cookie cutters."),
    ],
)
def test_drops_lines(rule, value, dropped, kept):
    text, counts = lines_kept(f"{dropped}\n{kept}", **{rule: value})
    assert text == kept
    assert counts == {rule: 1}


@pytest.mark.parametrize(
    ("rule", "value", "dropped", "kept"),
    [
        ("lorem_ipsum", True, "A text.\nLorem Ipsum dolor.", "Lorem and ipsum are words."),
        ("curly_brackets", True, "if (a) { b }", "if [a] (b)"),
        ("least_sentences", 3, "One here. Two there.", "One here. Two there. Three."),
        ("least_sentences", 3, "Mr. Fox met Dr. Hen.", "He met him.\nHe left.\nHe slept."),
    ],
)
def test_drops_documents(rule, value, dropped, kept):
    assert document_rule(dropped, **{rule: value}) == rule
    assert document_rule(kept, **{rule: value}) is None


def test_drops_documents_with_bad_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("darn\nblooming heck\n", encoding="utf-8")
    assert document_rule("A Darn thing.", bad_words=str(path)) == "bad_words"
    assert document_rule("A blooming heck of it.", bad_words=str(path)) == "bad_words"
    assert document_rule("She darned a blooming sock.", bad_words=str(path)) is None
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no words"):
        C4(C4Rules(bad_words=str(path)))
    with pytest.raises(FileNotFoundError, match="no such file; give words"):
        C4(C4Rules(bad_words=str(tmp_path / "nothing")))


def test_removes_citations():
    assert lines_kept("It is so.[1][] Really[citation needed].[edit]", citations=True)[0] == "It is so. Really."
    assert lines_kept("a[i] = [x]", citations=True)[0] == "a[i] = [x]"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_takes_any_text_and_keeps_only_its_lines(text):
    kept, _ = C4(C4Rules(citations=False, least_sentences=None))(text, Counter())
    assert set(kept.split("\n")) <= {line.strip() for line in text.split("\n")} | {""} or kept == text
