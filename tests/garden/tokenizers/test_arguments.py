"""What may be asked of a tokenizer, and what is said to bad input."""

import numpy as np
import pytest
import tensorflow as tf

import garden.tokenizers
from garden.tokenizers import WordPieceTokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(TOKENS)


def test_kinds_of_batches(tokenizer):
    expected = [[2, 4, 5, 3], [2, 3]]
    batches = [
        ["a b", ""],
        ("a b", b""),
        np.array(["a b", ""]),
        np.array(["a b", ""], object),
        tf.constant(["a b", ""]),
    ]
    for batch in batches:
        ids = tokenizer(batch)
        assert isinstance(ids, tf.RaggedTensor)
        assert ids.dtype == tf.int32
        assert ids.to_list() == expected
    assert tokenizer([]).shape.as_list() == [0, None]
    assert tokenizer.encode([], []).starts.to_list() == []
    assert tokenizer.detokenize([]).shape == [0]


def test_vocabulary(tokenizer):
    assert tokenizer.vocabulary == TOKENS
    assert tokenizer.vocabulary_size == 7
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        None,
    )
    assert tokenizer.special_ids == (0, 1, 2, 3)
    assert tokenizer.id_of("b") == 5
    assert tokenizer.model_max_length is None
    with pytest.raises(ValueError, match='"zebra" is not a token'):
        tokenizer.id_of("zebra")


@pytest.mark.parametrize("max_length", [4, np.int64(4), tf.constant(4), tf.constant(4, tf.int64)])
def test_kinds_of_max_length(tokenizer, max_length):
    assert tokenizer(["a b c a"], max_length=max_length).to_list() == [[2, 4, 5, 3]]


def test_in_a_dataset_with_a_length_from_the_graph(tokenizer):
    data = tf.data.Dataset.from_tensor_slices(["a b c", "c", "b a"]).batch(2)
    rows = data.map(lambda texts: tokenizer(texts, texts, max_length=tf.shape(texts)[0] + 5))
    assert [row.to_list() for row in rows] == [[[2, 4, 5, 3, 4, 5, 3], [2, 6, 3, 6, 3]], [[2, 5, 3, 5, 4, 3]]]
    assert rows.element_spec.dtype == tf.int32
    assert rows.element_spec.shape.as_list() == [None, None]


def test_errors_in_a_graph(tokenizer):
    short = tf.function(lambda texts, length: tokenizer(texts, max_length=length))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_length must be at least 2"):
        short(tf.constant(["a"]), tf.constant(1))
    pairs = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many as texts"):
        pairs(tf.constant(["a"] * 3), tf.constant(["a"] * 5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": "a"}, TypeError, r"got one string; write \['a'\]"),
        ({"texts": tf.constant("a")}, TypeError, "got a scalar"),
        ({"texts": [["a"]]}, TypeError, r"texts\[0\]: expected a string"),
        ({"texts": ["a", None]}, TypeError, r"texts\[1\]: expected a string, got None"),
        ({"texts": tf.constant([["a"]])}, TypeError, r"expected shape \[batch\], got \(1, 1\)"),
        ({"texts": tf.constant([1])}, TypeError, "expected a list of strings"),
        ({"texts": ["\ud800"]}, ValueError, "not valid Unicode"),
        ({"texts": ["a"], "pairs": ["a", "b"]}, ValueError, "as many as texts, 1, got 2"),
        ({"texts": ["a"], "pairs": "b"}, TypeError, "pairs: expected a batch"),
        ({"texts": ["a"], "max_length": 1}, ValueError, "max_length must be at least 2, .* got 1"),
        ({"texts": ["a"], "pairs": ["a"], "max_length": 2}, ValueError, "max_length must be at least 3"),
        ({"texts": ["a"], "max_length": 2.5}, TypeError, "max_length: expected an integer"),
        ({"texts": ["a"], "truncation": "longest"}, ValueError, "truncation: expected one of"),
        ({"texts": ["a"], "truncation": "only_second"}, ValueError, "needs pairs"),
        (
            {"texts": ["a"], "pairs": ["a b c a b c"], "max_length": 5, "truncation": "only_first"},
            ValueError,
            "truncation only_first: the text to cut is too short",
        ),
    ],
)
def test_bad_calls(tokenizer, arguments, error, message):
    with pytest.raises(error, match=message):
        tokenizer(**arguments)


@pytest.mark.parametrize(
    ("ids", "shown"), [([1, 2], "list of lists"), (tf.constant([1]), "shape"), ([["a"]], "integers")]
)
def test_bad_ids(tokenizer, ids, shown):
    with pytest.raises(TypeError, match=shown):
        tokenizer.detokenize(ids)


def test_kinds_of_ids(tokenizer):
    dense = [[2, 4, 5, 3], [2, 6, 3, 0]]
    for ids in (dense, np.array(dense), tf.constant(dense), tf.ragged.constant(dense), tf.constant(dense, tf.int64)):
        assert tokenizer.detokenize(ids).numpy().tolist() == [b"a b", b"c"]
    assert tokenizer.detokenize([[-100, 4, 99]]).numpy().tolist() == [b"a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": ["a"]}, 'unknown token "\\[UNK\\]" is missing'),
        ({"vocabulary": ["[UNK]", "a", "a"]}, 'token "a" occurs more than once'),
        ({"vocabulary": ["[UNK]"], "max_word_characters": 0}, "expected at least 1, got 0"),
    ],
)
def test_bad_vocabularies(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(**arguments)


def test_unknown_name():
    with pytest.raises(AttributeError, match="Nothing"):
        _ = garden.tokenizers.Nothing
