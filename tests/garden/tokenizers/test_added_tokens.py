"""Added tokens written in a text, against the reference."""

import random

import pytest

from garden.tokenizers import AddedToken, WordPieceTokenizer

TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "b",
    "c",
    "ab",
    "##a",
    "##b",
    "##c",
    "##ab",
    ".",
    "中",
    "é",
]
CONTENTS = ["[MASK]", "[SEP]", "ab", "abc", "bca", "Foo", "foo bar", "x", "中", "É", "c.", "[NEW]", "a中b", "[ma"]


def random_tokens(choose: random.Random) -> list[AddedToken]:
    tokens, next_id = [], len(TOKENS)
    for content in choose.sample(CONTENTS, choose.randrange(1, 7)):
        known = content in TOKENS
        flags = {name: choose.random() < 0.4 for name in ("special", "single_word", "lstrip", "rstrip", "normalized")}
        tokens.append(AddedToken(id=TOKENS.index(content) if known else next_id, content=content, **flags))
        next_id += not known
    return tokens


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 60))])
def test_any_added_tokens(seed, reference_of, same):
    choose = random.Random(seed)
    added = random_tokens(choose)
    tokenizer = WordPieceTokenizer(
        TOKENS,
        lowercase=choose.random() < 0.6,
        split_chinese=choose.random() < 0.6,
        clean_text=choose.random() < 0.6,
        added_tokens=added,
        split_special_tokens=seed % 2 == 1,
    )
    alphabet = [
        *"abcABC.-[]_ xz0é中\u0301\u200b\u3000\xa0\v\t",
        "  ",
        *CONTENTS,
        *(token.content for token in added),
    ] * 1
    batch = ["".join(choose.choices(alphabet, k=choose.randrange(12))) for _ in range(300)]
    reference = reference_of(tokenizer)
    same(tokenizer, reference, batch)
    ids = [[choose.randrange(tokenizer.vocabulary_size) for _ in range(8)] for _ in range(50)]
    for skip in (True, False):
        decoded = [text.decode() for text in tokenizer.detokenize(ids, skip_special_tokens=skip).numpy()]
        assert decoded == reference.decode_batch(ids, skip_special_tokens=skip)


def test_special_tokens_in_a_text():
    text = ["a [MASK] b[SEP]"]
    assert WordPieceTokenizer(TOKENS)(text).to_list() == [[2, 5, 4, 6, 3, 3]]
    plain = WordPieceTokenizer(TOKENS, split_special_tokens=True)
    assert 4 not in plain(text).to_list()[0]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (AddedToken(id=3, content="new"), '"new": expected id 16, got 3'),
        (AddedToken(id=16, content=""), "empty"),
        (AddedToken(id=16, content="\u200b", normalized=True), "normalised to nothing"),
    ],
)
def test_bad_tokens(token, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(TOKENS, added_tokens=[token])
