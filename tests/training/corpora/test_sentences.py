"""Where sentences begin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.corpora.sentences import sentence_starts, sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ('He said "Stop." Then (at last) it ended.) Done', ['He said "Stop."', " Then (at last) it ended.)", " Done"]),
        ("Mr. Smith and Dr. J. R. Jones met Prof. Moriarty, e.g. There. End.", None),
        ("It costs 3.50 in v1.2. Yes", ["It costs 3.50 in v1.2.", " Yes"]),
        ("left... or not? yes! no", ["left... or not? yes! no"]),
        ("a title\nIts text\n\nmore\n", ["a title\n", "Its text\n\n", "more\n"]),
        ("東京です。大阪です！", ["東京です。", "大阪です！"]),
        ("यह है। वह है।", ["यह है।", " वह है।"]),
        ("", [""]),
        ("no end", ["no end"]),
    ],
)
def test_where_sentences_end(text, parts):
    parts = parts or ["Mr. Smith and Dr. J. R. Jones met Prof. Moriarty, e.g. There.", " End."]
    assert sentences(text) == parts


@given(st.text(alphabet="aB. !?\n\"')。 …1é", max_size=60))
def test_nothing_is_lost(text):
    assert "".join(sentences(text)) == text
    starts = sentence_starts(text)
    assert starts[0] == 0
    assert all(starts[1:] > starts[:-1])
    assert len(text) == 0 or starts[-1] < len(text)
