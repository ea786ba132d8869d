"""Gopher's rules: for each a text that it drops and a near miss that it keeps; n-grams against a plain twin."""

from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.gopher import Gopher, GopherRules, _n_grams

OFF = GopherRules(**{field.name: None for field in fields(GopherRules)})


def broken_rule(text: str, **rules) -> str | None:
    return Gopher(replace(OFF, **rules))(text)


@pytest.mark.parametrize(
    ("rule", "value", "dropped", "kept"),
    [
        ("least_words", 50, "word " * 49, "word " * 50),
        ("most_words", 60, "word " * 61, "word " * 60),
        ("shortest_mean_word", 3.0, "ab abc", "abc abc"),
        ("longest_mean_word", 10.0, "abcdefghijk", "abcdefghij"),
        ("symbols", 0.1, "# a b c d e f g h", "# a b c d e f g h i"),
        ("symbols", 0.1, "a... b… c d e f g h i j k", "a... b c d e f g h i j"),
        ("bullet_lines", 0.5, "- a\n• b\nc", "- a\nb"),
        ("ellipsis_lines", 0.3, "a ...\nb…\nc\nd\ne\nf", "a ...\nb\nc\nd"),
        ("letters", 0.8, "a b c 1 2", "a b c d 2"),
        ("letters", 0.8, "x -- 100% é ö", "x 10th 猫 é ö"),
        ("least_stop_words", 2, "the cat sat, the dog", "The cat sat with a dog"),
        ("repeated_lines", 0.3, "a\nb\na\nb", "a\nb\nc\nd\ne\na"),
        ("repeated_line_characters", 0.2, "long line\nx\ny\nz\nlong line", "x\nlong line\nx"),
        ("top_2_gram", 0.2, "a b c a b d e f", "a b a c ghi jkl mno pqr stu vwx a b"),
        ("top_3_gram", 0.18, "a b c x a b c y", "a b c x a b d y"),
        ("top_4_gram", 0.16, "a b c d x a b c d y", "a b c d x a b c e y"),
        ("repeated_5_grams", 0.15, "a b c d e x a b c d e", "a b c d e x a b c d f"),
        ("repeated_10_grams", 0.1, "a b c d e f g h i j " * 2, "a b c d e f g h i j x a b c d e f g h i k"),
    ],
)
def test_drops_documents(rule, value, dropped, kept):
    assert broken_rule(dropped, **{rule: value}) == rule
    assert broken_rule(kept, **{rule: value}) is None


def test_published_limits_keep_prose_and_drop_what_repeats_itself():
    prose = (
        "The package that you have installed comes with a short manual, which explains how to set up the server for a "
        "small office. It starts from an empty disk and ends with a machine that answers requests from the local network. "
        "Readers who know their way around may skip the first chapter and go on to the list of options."
    )
    gopher = Gopher(GopherRules())
    assert gopher(prose) is None
    assert gopher("the click here to be of more " * 20) == "top_2_gram"
    assert gopher("\n".join(["to live or not to live that is the question"] * 6)) == "repeated_lines"
    assert gopher("") == "least_words"


def test_other_stop_words():
    assert broken_rule("der Hund und die Katze", least_stop_words=2, stop_words=["der", "und"]) is None
    assert broken_rule("der Hund und die Katze", least_stop_words=2) == "least_stop_words"


def plain_n_grams(words: list[str]) -> list[tuple[int, float, float]]:
    """What `_n_grams` computes, the slow way."""
    found, total = [], sum(map(len, words))
    for n in range(2, 11):
        grams = [tuple(words[begin : begin + n]) for begin in range(len(words) - n + 1)]
        counts = Counter(grams)
        most = max(counts.values(), default=1)
        if most == 1:
            break
        longest = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
        seen, covered = set(), set()
        for begin, gram in enumerate(grams):
            if gram in seen:
                covered |= set(range(begin, begin + n))
            seen.add(gram)
        found.append((n, most * longest / total, sum(len(words[place]) for place in covered) / total))
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), max_size=80))
def test_n_grams_equal_the_plain_ones(words):
    assert sum(_n_grams(words), ()) == pytest.approx(sum(plain_n_grams(words), ()))


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300))
def test_takes_any_text(text):
    Gopher(GopherRules())(text)
    assert Gopher(OFF)(text) is None
