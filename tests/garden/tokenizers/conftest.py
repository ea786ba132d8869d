"""Tokenizers of the tests, and the reference that each is compared with."""

import json
import random

import pytest
from tokenizers import Tokenizer as Reference

from garden.tokenizers import WordPieceTokenizer
from garden.tokenizers.characters import character_data

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "garden", "gardener", "un", "aff", "able", "in", "a", "of", "is", "it", "'s", "don", "t", "über"]
WORDS += ["straße", "école", "привет", "мир", "日本", "안녕", "नमस्ते", "สวัสดี", "مرحبا"]


def vocabulary() -> list[str]:
    """Special tokens, words, and single characters of every kind, so that each character shows in the ids."""
    data = character_data()
    choose = random.Random(0)
    marks = [chr(point) for point in data.combining.nonzero()[0]]
    letters = [chr(point) for point in range(33, 0x3000)] + [chr(choose.randrange(0x3000, 0xD7FF)) for _ in range(500)]
    letters += [chr(choose.randrange(0xE000, 0x110000)) for _ in range(500)] + [
        chr(point) for point in range(0xAC00, 0xAC20)
    ]
    pieces = [*WORDS, "Garden", "UN", "É", "İ", *letters, *marks]
    return list(dict.fromkeys([*SPECIAL, *pieces, *("##" + piece for piece in pieces)]))


@pytest.fixture(scope="session")
def reference_of(tmp_path_factory):
    """A function: tokenizer -> the reference's Tokenizer, by way of save_pretrained."""

    def load(tokenizer) -> Reference:
        directory = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save_pretrained(directory)
        reference = Reference.from_file(str(directory / "tokenizer.json"))
        reference.encode_special_tokens = tokenizer.split_special_tokens
        return reference

    return load


@pytest.fixture(scope="session", params=["uncased", "cased"])
def both(request, reference_of):
    """(tokenizer, reference), lower-casing and not."""
    tokenizer = WordPieceTokenizer(vocabulary(), lowercase=request.param == "uncased")
    return tokenizer, reference_of(tokenizer)


@pytest.fixture
def write_json(tmp_path):
    """A function: tokenizer.json's object, or changes to a small valid one -> the directory that holds it."""

    def write(**changes):
        spec = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate([*SPECIAL, "a", "##b"])}},
        }  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(json.dumps({**spec, **changes}), encoding="utf-8")
        return tmp_path

    return write


def compare(tokenizer, reference, texts, pairs=None, max_length=None, truncation="longest_first", special=True):
    """Assert that ids, types, spans and masks of a batch are the reference's."""
    reference.no_truncation()
    if max_length is not None:
        reference.enable_truncation(max_length, strategy=truncation)
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    expected = reference.encode_batch(inputs, add_special_tokens=special)
    encoding = tokenizer.encode(texts, pairs, max_length, truncation, add_special_tokens=special)
    rows = zip(*(field.to_list() for field in encoding), strict=True)
    for text, (ids, types, starts, ends, mask), wanted in zip(inputs, rows, expected, strict=True):
        assert ids == wanted.ids, (text, wanted.tokens)
        assert types == wanted.type_ids, text
        assert list(zip(starts, ends, strict=True)) == wanted.offsets, (text, wanted.tokens)
        assert mask == [bool(bit) for bit in wanted.special_tokens_mask], text
    if special:
        assert tokenizer(texts, pairs, max_length, truncation).to_list() == [wanted.ids for wanted in expected]


@pytest.fixture(scope="session")
def same():
    """The function `compare`."""
    return compare
