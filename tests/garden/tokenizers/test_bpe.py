"""BytePairModel against `tokenizers`: any table of merges, unknown symbols, affixes, and long words."""

import itertools
import random
import string
import time

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from garden.tokenizers.bpe import BytePairModel
from garden.tokenizers.words import Words


def compiled(model):
    """A function: list of words -> [(ids, spans)] of each."""
    signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)]
    graph = tf.function(lambda *words: model(Words(*words)), input_signature=signature, autograph=False)

    def run(words):
        bounds = [0]
        for word in words:
            bounds.append(bounds[-1] + len(word))
        made = graph(tf.constant([ord(c) for word in words for c in word], tf.int32), tf.constant(bounds, tf.int64))
        ids, splits, starts, ends = (values.numpy().tolist() for values in made)
        pieces = [slice(*pair) for pair in itertools.pairwise(splits)]
        return [
            (ids[piece], [(a - begin, b - begin) for a, b in zip(starts[piece], ends[piece], strict=True)])
            for piece, begin in zip(pieces, bounds, strict=False)
        ]

    return run


def same(words, vocabulary, merges, **options):
    """Assert that the ids and spans of all words are the reference's."""
    spec = {"type": "BPE", "vocab": vocabulary, "merges": [list(merge) for merge in merges], **options}
    given_options = {name: value for name, value in options.items() if value is not None}
    reference = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **given_options))
    run = compiled(BytePairModel.from_spec(spec))
    for word, (ids, spans) in zip(words, run(words), strict=True):
        expected = reference.encode(word)
        assert (ids, spans) == (expected.ids, expected.offsets), (word, expected.tokens, merges)


def random_merges(random_, alphabet, count, order):
    """Merges of random tokens: trained ones are in order, these may come in any."""
    tokens, merges = list(alphabet), []
    for _ in range(3 * count):
        pair = (random_.choice(tokens), random_.choice(tokens))
        if len(merges) < count and pair not in merges and len("".join(pair)) <= 12:
            merges.append(pair)
            tokens += ["".join(pair)] * ("".join(pair) not in tokens)
    if order == "shuffled":
        random_.shuffle(merges)
    elif order == "reversed":
        merges.reverse()
    elif order == "swapped":
        for _ in range(len(merges) // 4):
            a, b = random_.randrange(len(merges)), random_.randrange(len(merges))
            merges[a], merges[b] = merges[b], merges[a]
    return {token: index for index, token in enumerate(tokens)}, merges


@pytest.mark.parametrize("order", ["trained", "shuffled", "reversed", "swapped"])
@pytest.mark.parametrize(("alphabet", "count"), [("ab", 12), ("abc", 60), ("abcd", 25)])
def test_any_order_of_merges(order, alphabet, count):
    for seed in range(2):
        choose = random.Random(f"{order} {alphabet} {count} {seed}")
        vocabulary, merges = random_merges(choose, alphabet, count, order)
        words = ["".join(choose.choices(alphabet, k=choose.randrange(40))) for _ in range(150)]
        words += [choose.choice(alphabet) * choose.randrange(40) for _ in range(20)]
        words += ["".join(choose.choices(alphabet, k=3)) * choose.randrange(20) for _ in range(30)]
        same(words, vocabulary, merges)


@settings(max_examples=6, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 30),
    st.sampled_from(["trained", "shuffled", "reversed", "swapped"]),
    st.lists(st.text("abc", max_size=60), min_size=1, max_size=60),
)
def test_hypothesis(choose, count, order, words):
    vocabulary, merges = random_merges(choose, "abc", count, order)
    same(words, vocabulary, merges)


def test_a_merge_that_opens_a_lower_rank_comes_at_once():
    vocabulary = {token: index for index, token in enumerate(["a", "b", "ab", "aba"])}
    merges = [("ab", "a"), ("a", "b")]
    assert compiled(BytePairModel(vocabulary, merges))(["abab", "ababa"])[0][0] == [3, 1]
    same(["abab", "ababa", "abaabab", "ab" * 50], vocabulary, merges)


WORDS = ["abab", "xx", "axxb", "", "é", "aéé🙂b", "🙂", "ab🙂🙂", "b", "xabx"]


@pytest.mark.parametrize("fuse", [False, True])
def test_unknown_symbols(fuse):
    vocabulary = {token: index for index, token in enumerate(["<u>", "a", "b", "ab", "<u>a"])}
    merges = [("a", "b"), ("<u>", "a")]
    run = compiled(
        BytePairModel.from_spec({"vocab": vocabulary, "merges": merges, "unk_token": "<u>", "fuse_unk": fuse})
    )
    reference = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<u>", fuse_unk=fuse))
    for word, (ids, spans) in zip(WORDS, run(WORDS), strict=True):
        assert (ids, spans) == (reference.encode(word).ids, reference.encode(word).offsets), word


def test_symbols_that_are_nothing_vanish():
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    reference = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    made = compiled(BytePairModel(vocabulary, [("a", "b")]))(WORDS)
    assert [ids for ids, _ in made] == [reference.encode(word).ids for word in WORDS]


def test_byte_fallback():
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "<0xC3><0xA9>", "<0xA9>a"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("a", "b"), ("<0xC3>", "<0xA9>")]
    same(WORDS, vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    same(WORDS, vocabulary, merges[:1], byte_fallback=True)


def test_affixes_and_ignored_merges():
    tokens = ["a", "b", "##a", "##b", "ab", "##ab", "##ba", "aba", "<u>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("##b", "##a"), ("a", "##b"), ("ab", "##a")]
    words = ["a", "ab", "aba", "abab", "baba", "bb", "xab", "##a", ""]
    same(words, vocabulary, merges, continuing_subword_prefix="##", unk_token="<u>")
    tokens = ["a", "b", "a</w>", "b</w>", "ab", "ab</w>", "ba</w>", "aab</w>", "<u>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("a", "b</w>"), ("b", "a</w>"), ("a", "b"), ("a", "ab</w>")]
    same([*words, "aab", "aaab", "abb"], vocabulary, merges, end_of_word_suffix="</w>", unk_token="<u>")
    vocabulary = {"a": 0, "b": 1, "ab": 2, "abc": 3, "ba": 4, "baab": 5}
    same(["ab", "abc", "ba", "baab", "abba", "c"], vocabulary, [("a", "b")], ignore_merges=True)


def long_words():
    choose = random.Random(0)
    return {
        "one letter": "a" * 1_000_000,
        "a period": "ab-" * 330_000,
        "letters": "".join(choose.choices(string.ascii_lowercase, k=1_000_000)),
        "base64": "".join(choose.choices(string.ascii_letters + string.digits + "+/", k=1_000_000)),
    }


@pytest.fixture(scope="module")
def trained():
    """A vocabulary of 6,000 tokens of random syllables, as a trainer would order them, and the reference."""
    from tokenizers import trainers

    choose = random.Random(1)
    syllables = ["".join(choose.choices("etaoinshrdlu", k=choose.randrange(1, 5))) for _ in range(200)]
    texts = ["".join(choose.choices(syllables, k=4)) for _ in range(20_000)] + [
        "aaaaaaaa",
        "abababab",
        "ab-ab-ab-",
    ] * 50
    reference = Tokenizer(models.BPE())
    alphabet = list(string.printable)
    reference.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=6000, show_progress=False, initial_alphabet=alphabet)
    )
    return reference


@pytest.mark.slow
@pytest.mark.parametrize("kind", long_words())
def test_a_megabyte_without_a_space_takes_seconds(kind, trained):
    import json

    word = long_words()[kind]
    run = compiled(BytePairModel.from_spec(json.loads(trained.to_str())["model"]))
    begin = time.process_time()
    ((ids, _),) = run([word])
    assert time.process_time() - begin < 30
    assert ids == trained.encode(word).ids


def test_the_trained_vocabulary_and_its_long_words(trained):
    import json

    words = [word[:20_000] for word in long_words().values()]
    run = compiled(BytePairModel.from_spec(json.loads(trained.to_str())["model"]))
    for word, (ids, spans) in zip(words, run(words), strict=True):
        expected = trained.encode(word)
        assert (ids, spans) == (expected.ids, expected.offsets)


def test_bytes_as_symbols():
    from tokenizers import pre_tokenizers

    vocabulary = {token: index for index, token in enumerate([*pre_tokenizers.ByteLevel.alphabet(), "ĠÃ", "Ã©"])}
    merges = [("Ã", "©"), ("Ġ", "Ã")]
    reference = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = " é\u0000É🙂a\xa0"
    model = BytePairModel(vocabulary, merges, byte_level=True)
    assert compiled(model)([text.encode().decode("latin-1")])[0][0] == reference.encode(text).ids


def test_refusals():
    small = {"vocab": {"a": 0, "b": 1}, "merges": []}
    for change, message in [
        ({"dropout": 0.1}, "dropout = 0.1 is not supported"),
        ({"merges": ["a b"]}, 'merge 0, "a" and "b": "ab" is not in the vocabulary'),
        ({"merges": ["a"]}, "model.merges: 0: expected two tokens"),
        ({"unk_token": "<unk>"}, '"<unk>" is not in the vocabulary'),
        ({"byte_fallback": True}, '"<0x00>" is missing'),
        ({"cache": 3}, 'option "cache" = 3 is not supported'),
        ({"vocab": []}, "model.vocab: expected an object"),
    ]:
        with pytest.raises(ValueError, match=message):
            BytePairModel.from_spec({**small, **change})
