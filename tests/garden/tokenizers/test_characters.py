"""The packaged character table against the installed reference, for every scalar value."""

import random

import numpy as np
import pytest
from tokenizers import normalizers, pre_tokenizers

from garden.tokenizers.characters import CodePointTable, Flag, character_data, encode_points
from garden.tokenizers.wordpiece_characters import normalize

SCALARS = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000 and chr(point) != "\n"]


@pytest.mark.parametrize("flag", ["clean_text", "handle_chinese_chars", "strip_accents", "lowercase"])
def test_normalisation_of_every_scalar_value(flag):
    data = character_data()
    options = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    # An "a" keeps neighbours apart; no character becomes one but through lower-casing "A".
    expected = normalizers.BertNormalizer(**{**options, flag: True}).normalize_str("a".join(SCALARS))
    if flag in ("strip_accents", "lowercase"):
        keys, lengths, values = data.strip if flag == "strip_accents" else data.lower
        ends = np.cumsum(lengths)
        strings = ("".join(map(chr, values[end - length : end])) for end, length in zip(ends, lengths, strict=True))
        becomes = dict(zip(map(chr, keys), strings, strict=True))
    elif flag == "clean_text":
        becomes = {chr(point): "" for point in np.flatnonzero(data.flags & Flag.CLEANED)}
        becomes |= {chr(point): " " for point in np.flatnonzero(data.flags & Flag.BLANKED)}
    else:
        becomes = {chr(point): f" {chr(point)} " for point in np.flatnonzero(data.flags & Flag.CHINESE)}
    assert "a".join(becomes.get(c, c) for c in SCALARS) == expected


def test_normalisation_of_mixed_strings():
    """The one that added tokens' contents go through, which puts marks in order too."""
    choose = random.Random(0)
    marks = [chr(point) for point in np.flatnonzero(character_data().combining)]
    for _ in range(300):
        text = "".join(choose.choices(marks, k=5) + choose.choices(SCALARS, k=3) + choose.choices("aÀİ中각", k=3))
        flags = [choose.random() < 0.5 for _ in range(4)]
        reference = normalizers.BertNormalizer(
            clean_text=flags[0], handle_chinese_chars=flags[1], strip_accents=flags[2], lowercase=flags[3]
        )
        ours = normalize(text, character_data(), clean=flags[0], chinese=flags[1], strip=flags[2], lowercase=flags[3])
        assert ours == reference.normalize_str(text)


def test_separators_and_punctuation_of_every_scalar_value():
    data = character_data()
    scalars = [*SCALARS, "\n"]
    pieces = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("".join(f"a{c}" for c in scalars) + "a")
    expected = np.zeros(0x110000, bool)
    expected[[ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"]] = True
    punctuation = (data.flags & Flag.PUNCTUATION) > 0
    assert np.array_equal(punctuation, expected)
    covered = sum(len(piece) for piece, _ in pieces)
    assert len(scalars) * 2 + 1 - covered == ((data.flags & Flag.SEPARATOR) > 0).sum()


def test_code_point_table():
    values = np.random.default_rng(0).integers(0, 9, 1000).astype(np.int32)
    assert np.array_equal(CodePointTable(values)(np.arange(1000, dtype=np.int32)), values)


def test_encode_points():
    assert encode_points("aé\U0001f600").tolist() == [0x61, 0xE9, 0x1F600]
