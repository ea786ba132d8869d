"""The steps of cleaning together: their order, what they count, and what they say about wrong values."""

import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import configuration
from training.corpora.c4 import C4Rules
from training.corpora.cleaning import EXAMPLES, Cleaner, Cleaning, CleaningReport
from training.corpora.documents import Document
from training.corpora.gopher import GopherRules

PROSE = (
    "This package installs the documentation of the server. It explains what to do after the first start.\n"
    "Readers who have used it before may go on to the list of options. That is all there is to say about it."
)


def document(text: str, number: int = 0) -> Document:
    return Document(text, "source", f"a.txt, line {number}")


def cleaned(text: str, **config) -> str | None:
    kept = Cleaner(Cleaning(**config))(document(text))
    return None if kept is None else kept.text


def test_by_default_only_what_is_no_text_goes():
    odd = "\u200fschÃ¶n  ﬁ\tＡ {} ..."
    assert cleaned(odd) == odd
    assert cleaned("a\x00b\ud800\n\n c\r\nd") == "ab\nc\nd"
    assert cleaned("a\x07b", controls=False) == "a\x07b"
    same = document(PROSE)
    assert Cleaner(Cleaning())(same) is same


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n", "\x00"])
def test_empty_documents_are_dropped(text):
    cleaner = Cleaner(Cleaning())
    assert cleaner(document(text)) is None
    assert cleaner.counts["dropped empty"] == 1


def test_steps_come_in_their_order():
    # Repair makes the letters that the normal form then decides about, and masks are not personal data or stop words.
    assert cleaned("ﬁsh &amp; schÃ¶n", repair=True, unicode="nfkc") == "fish & schön"
    assert cleaned("mail to me@example.com", personal_data="mask", stop_words="en") == "mail <email>"
    text = f"{PROSE}\nClick here"
    assert cleaned(text, c4=True, gopher=True, gopher_rules=GopherRules(least_words=30), languages=["en"]) == PROSE


def test_counts_what_each_rule_does():
    config = Cleaning(
        repair=True,
        c4=True,
        c4_rules=C4Rules(least_sentences=2),
        gopher=True,
        gopher_rules=GopherRules(least_words=10),
        languages=["en"],
        personal_data="mask",
    )
    german = "Das Paket enthält die Dokumentation of the Server. Es erklärt, was nach dem ersten Start zu tun ist."
    texts = [
        PROSE,
        f"{PROSE}\nHome | Log in\nEnable JavaScript to go on here.",
        "Only this one line.",
        "if (x) { return a or b; } and so on.",
        "Two are here now. No more than nine words.",
        german,
        f"{PROSE} Ask me@example.com or you@example.com about it.",
        PROSE.replace("options", "Ã¶ptions"),
    ]
    cleaner = Cleaner(config)
    kept = [cleaner(document(text, number)) for number, text in enumerate(texts)]
    assert [each is not None for each in kept] == [True, True, False, False, False, False, True, True]
    counts = cleaner.counts
    assert counts["documents"] == 8
    assert counts["kept"] == 4
    assert counts["characters"] == sum(map(len, texts))
    assert counts["kept_characters"] == sum(len(each.text) for each in kept if each)
    assert {name: number for name, number in counts.items() if " " in name} == {
        "lines c4.punctuation": 1,
        "lines c4.javascript": 1,
        "lines c4.least_words": 1,
        "changed c4": 1,
        "removed c4": len(texts[1]) - len(PROSE),
        "dropped c4.least_sentences": 1,
        "dropped c4.curly_brackets": 1,
        "dropped gopher.least_words": 1,
        "dropped languages.de": 1,
        "personal_data email": 2,
        "changed repair": 1,
        "removed repair": 1,
    }
    assert cleaner.report.examples["dropped languages.de"] == ["a.txt, line 5"]
    assert cleaner.report.examples["personal_data email"] == ["a.txt, line 6"]


def test_personal_data_may_drop_documents():
    assert cleaned("Ask me@example.com.", personal_data="drop") is None
    assert cleaned("Ask me@example.com.", personal_data="drop", personal_data_kinds=["phone"]) == "Ask me@example.com."


def test_reports_of_processes_add_up_and_stay_small():
    texts = [document("+" if number % 3 else "", number) for number in range(90)]
    one, first, second = (Cleaner(Cleaning()) for _ in range(3))
    for number, each in enumerate(texts):
        one(each)
        (first if number < 30 else second)(each)
    report = pickle.loads(pickle.dumps(first.report))
    report.merge(CleaningReport.from_dict(second.report.to_dict()))
    assert report == one.report
    assert report.counts["dropped empty"] == 30
    assert len(report.examples["dropped empty"]) == EXAMPLES


def test_is_a_section_of_configs():
    made = configuration.make(Cleaning, {"unicode": "nfc", "c4_rules": {"least_words": None}}, ["near_duplicates=0.8"])
    assert made == Cleaning(unicode="nfc", c4_rules=C4Rules(least_words=None), near_duplicates=0.8)
    assert "gopher_rules.top_2_gram: 0.2" in dict(configuration.key_table(Cleaning))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unicode": "utf8"}, 'unicode: expected one of none, nfc, nfkc, got "utf8"'),
        ({"personal_data": "hide"}, "personal_data: expected one of keep, mask, drop"),
        ({"near_duplicates": 1.5}, "near_duplicates: expected a number above 0 and of at most 1, got 1.5"),
        ({"gopher_rules": GopherRules(letters=2.0)}, "gopher_rules.letters: expected a number"),
        ({"personal_data": "mask", "personal_data_kinds": ["age"]}, 'personal_data_kinds: .* got "age"'),
    ],
)
def test_names_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        Cleaner(Cleaning(**values))


def test_makes_what_finds_duplicates(tmp_path):
    assert Cleaning().fingerprints() is None
    assert Cleaning().duplicates(tmp_path) is None
    texts = ["One two three four five six.", "one two three four five six", "One two  three four five six."]
    for config, dropped in (
        (Cleaning(exact_duplicates=True), [False, False, True]),
        (Cleaning(near_duplicates=0.9), [False, True, True]),
    ):
        prints = config.fingerprints()(texts)
        with config.duplicates(tmp_path / str(config.near_duplicates)) as duplicates:
            assert duplicates.judge(prints).duplicate.tolist() == dropped


EVERYTHING = Cleaner(
    Cleaning(
        repair=True,
        unicode="nfkc",
        c4=True,
        c4_rules=C4Rules(punctuation=False, least_words=None, least_sentences=None),
        languages=["en"],
        language_score=0.0,
        personal_data="mask",
        stop_words="en",
    )
)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_takes_any_text(text):
    kept = EVERYTHING(document(text))
    if kept is not None:
        kept.text.encode("utf-8")
        assert kept.text.strip()
        assert "\n\n" not in kept.text


def test_does_not_import_tensorflow():
    code = "import sys, training.corpora.cleaning; sys.exit('tensorflow' in sys.modules or 'ftfy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
