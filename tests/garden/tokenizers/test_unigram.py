"""UnigramModel against `tokenizers`: scores that tie, unknown characters, bytes, and long words."""

import itertools
import json
import random
import time

import pytest
import tensorflow as tf
from tokenizers import Tokenizer, models

from garden.tokenizers.unigram import UnigramModel, _as_the_reference_reads
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


def same(words, vocabulary, byte_fallback=False):
    """Assert that the ids and spans of all words are the reference's."""
    reference = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback))
    spec = {
        "type": "Unigram",
        "vocab": vocabulary,
        "unk_id": 0,
        "byte_fallback": byte_fallback,
    }
    for word, (ids, spans) in zip(words, compiled(UnigramModel.from_spec(spec))(words), strict=True):
        expected = reference.encode(word)
        assert (ids, spans) == (expected.ids, expected.offsets), (word, expected.tokens)


# Whole numbers and tenths tie often, the latter by their rounding; the last kind has scores above zero.
SCORES = {
    "real": lambda choose: -choose.random() * 8,
    "whole": lambda choose: -float(choose.randrange(1, 6)),
    "tenths": lambda choose: -round(choose.random() * 5, 1),
    "positive": lambda choose: choose.random() * 3 - 1.5,
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_the_best_tokens(scores, byte_fallback):
    for seed, alphabet in enumerate(["ab", "abcé", "abcd日"][1:]):
        choose = random.Random(f"{scores} {byte_fallback} {seed}")
        tokens = {"<unk>": 0.0, **{letter: SCORES[scores](choose) for letter in alphabet[1:]}}
        for _ in range(choose.choice([5, 15, 50])):
            length = choose.randrange(2, choose.choice([4, 9, 20]))
            tokens["".join(choose.choices(alphabet, k=length))] = SCORES[scores](choose)
        if byte_fallback:
            tokens.update({f"<0x{byte:02X}>": 0.0 for byte in range(256) if seed or byte % 7})
        others = alphabet + "xz🙂"
        words = [
            "".join(choose.choices(others if index % 3 else alphabet, k=choose.randrange(70))) for index in range(120)
        ]
        words += [choose.choice(alphabet) * choose.randrange(60) for _ in range(20)]
        words += ["", "a<unk>b", "<unk>", "x<unk>", "<unk><unk>", "<0x41>b", "xx", ""]
        same(words, list(tokens.items()), byte_fallback)


def test_no_words():
    model = UnigramModel([("<unk>", 0.0), ("a", -1.0)], 0)
    assert compiled(model)([]) == []
    assert compiled(model)(["", ""]) == [([], []), ([], [])]


def test_of_equal_tokens_the_last_counts():
    same(["ab", "aab", "b"], [("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("ab", -9.0), ("ab", -1.5)])


def test_long_tokens():
    same(["a" * 30, "a" * 200, "ba" * 40], [("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("a" * 40, -3.0)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one letter", "letters"])
def test_a_megabyte_without_a_space_takes_seconds(kind):
    choose = random.Random(2)
    tokens = {"<unk>": 0.0, **{letter: -choose.random() * 5 for letter in "abcdefgh"}}
    tokens.update(
        {"".join(choose.choices("abcdefgh", k=choose.randrange(2, 9))): -choose.random() * 9 for _ in range(2000)}
    )
    tokens.update({"a" * length: -(length**0.7) for length in (2, 3, 5, 8, 16)})
    word = "a" * 1_000_000 if kind == "one letter" else "".join(choose.choices("abcdefgh", k=1_000_000))
    run = compiled(UnigramModel(list(tokens.items()), 0))
    begin = time.process_time()
    ((ids, _),) = run([word])
    assert time.process_time() - begin < 60
    assert ids == Tokenizer(models.Unigram(list(tokens.items()), 0, False)).encode(word).ids


def test_scores_are_what_the_reference_reads_from_a_file():
    scores = {"a": -7.2597174644470215, "aa": -7.338973999023437, "aaa": -9.4623188972473145, "aaaa": -1e-07, "b": -12}
    vocabulary = [["<unk>", 0.0], *([token, score] for token, score in scores.items())]
    spec = {"type": "Unigram", "vocab": vocabulary, "unk_id": 0, "byte_fallback": False}
    empty = json.loads(Tokenizer(models.Unigram([("<unk>", 0.0)], 0, False)).to_str())
    reference = Tokenizer.from_str(json.dumps({**empty, "model": spec}))
    read = dict(json.loads(reference.to_str())["model"]["vocab"])
    assert read["a"] != scores["a"]
    assert {token: _as_the_reference_reads(score) for token, score in scores.items()} | {"<unk>": 0.0} == read
    made = compiled(UnigramModel.from_spec(spec))(["a" * n for n in range(60)])
    assert [ids for ids, _ in made] == [reference.encode("a" * n).ids for n in range(60)]


def test_refusals():
    for spec, message in [
        ({"vocab": []}, "model.vocab: expected a list"),
        ({"vocab": [["a", 0.0]], "unk_id": None}, "model.unk_id = None is not supported"),
        ({"vocab": [["a", 0.0]], "unk_id": 4}, "expected the id of a token, 0 to 0"),
        ({"vocab": [["a"]], "unk_id": 0}, "model.vocab: 0: expected a token and a score"),
        ({"vocab": [["a", 0.0]], "unk_id": 0, "alpha": 0.1}, 'option "alpha" = 0.1 is not supported'),
    ]:
        with pytest.raises(ValueError, match=message):
            UnigramModel.from_spec(spec)
