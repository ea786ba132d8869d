"""Regular expressions of published tokenizers against the reference's engine, by the automaton and in the graph."""

import random

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

from garden.tokenizers.automaton import compile_pattern
from garden.tokenizers.patterns import Pattern
from garden.tokenizers.text import Text

TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-3": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL,
    "qwen-2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL,
    "possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+(?!\S)|\s+",
    "gpt-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|" + TAIL,
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|" + TAIL,
    "han": r"[\p{Han}&&[^一]]+|[一-龥\u3040-ゟ]+",
    "lazy": r"a+?b|x{2,4}?y*|(ab|a)(c|bcd)?$",
    "word": r"\w+|[^\w\s]+",
    "ahead": r"\d{1,3}(?=\D|\z)",
}
LETTERS = "'sStTrReEvVmMlLdDſK  \t\n\r\n  abcxyABC123٣Ⅻ½.,!?()-_/<|>…。一龥ぁ漢字"
LETTERS += "हिंди\u0301\u200b\u200d\U0001f600éÀǅ\u00a0\u3000#\\ "


@pytest.mark.parametrize("name", PATTERNS)
def test_matches_are_the_references(name):
    choose = random.Random(0)
    texts = ["".join(choose.choices(LETTERS, k=choose.randrange(1, 14))) for _ in range(1500)] + ["a" * 300, "a1" * 99]
    reference = pre_tokenizers.Split(Regex(PATTERNS[name]), "removed", invert=True)
    expected = [[span for _, span in reference.pre_tokenize_str(text)] for text in texts]
    automaton = compile_pattern(PATTERNS[name])
    assert [automaton.find(text) for text in texts] == expected

    points = tf.constant([ord(c) for text in texts for c in text], tf.int32)
    pieces = tf.constant(np.repeat(np.arange(len(texts)), [len(text) for text in texts]), tf.int32)
    segments = Pattern(PATTERNS[name], tokens=1)(Text(points, pieces, pieces, ()))
    begins, matched = np.zeros(len(points), bool), np.zeros(len(points), bool)
    at = 0
    for text, spans in zip(texts, expected, strict=True):
        begins[[at, *(at + place for span in spans for place in span if place < len(text))]] = True
        for start, stop in spans:
            matched[at + start : at + stop] = True
        at += len(text)
    np.testing.assert_array_equal(segments.matched.numpy(), matched)
    np.testing.assert_array_equal(segments.begins.numpy(), begins)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?<!a)b", r"the group"),
        (r"\bword", r'"\\b" is not supported'),
        (r"(a)\1", r'"\\1" is not supported'),
        (r"a(?!bc)", "the look-ahead"),
        (r"\p{Klingon}", "Klingon"),
        (r"a++a", "possessive"),
        (r"(a", "without its end"),
        (r"a{1,500}", "the repetition"),
    ],
)
def test_what_an_automaton_cannot_do_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        compile_pattern(pattern)
