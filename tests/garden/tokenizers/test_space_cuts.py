"""Texts cut before spaces give the ids that whole texts give, and the reference's."""

import functools
import gzip
import json
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Reference

from garden.tokenizers import PipelineTokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "tokenizers.json.gz"
WORDS = [
    "a",
    "the",
    "garden",
    " b",
    "don't",
    "I'LL",
    "12345",
    "...",
    "<s>",
    "<mask>",
    "x y",
    "é日한",
    "\u0600",
    "ﬁ",
    "½",
]
WHITE = [*[" "] * 6, "  ", "   ", "\n", "\r\n", "\t", "\xa0", "\u3000", "\u200b", "\u0301", " \u0301", "\u00a8", "▁"]
texts = st.lists(st.sampled_from([*WORDS, *WHITE, *WHITE]), max_size=14).map("".join)
batches = st.lists(texts, min_size=1, max_size=8)


def nfkc_metaspace(made: Reference) -> None:
    """As the Unigram tokenizers of small models have it."""
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def greedy_tokens(made: Reference) -> None:
    """Added tokens with spaces inside and around."""
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.add_tokens([AddedToken("x y", normalized=False), AddedToken("garden", rstrip=True, normalized=False)])
    made.add_tokens([AddedToken("a", lstrip=True, single_word=True), AddedToken("the  ", normalized=False)])


@functools.cache
def both(name: str, change=None) -> tuple[PipelineTokenizer, Reference]:
    spec = json.loads(gzip.decompress(GOLDEN.read_bytes()))["tokenizers"][name]["tokenizer"]
    reference = Reference.from_str(json.dumps(spec))
    if change is not None:
        change(reference)
    return PipelineTokenizer(json.loads(reference.to_str())), reference


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case[0], marks=pytest.mark.slow if case[0] in ("xlm-r", "gpt2") else ())
        for case in (("roberta",), ("llama3",), ("xlm-r",), ("gpt2", greedy_tokens), ("t5", nfkc_metaspace))
    ],
)
def test_chunks_as_in_their_texts(case, batch):
    tokenizer, reference = both(*case)
    assert tokenizer._cut is not None
    wanted = [encoding.ids for encoding in reference.encode_batch(batch)]
    assert tokenizer.encode(batch).token_ids.to_list() == wanted  # whole texts
    assert tokenizer(batch).to_list() == wanted


def test_bytes_that_are_no_text():
    tokenizer, _ = both("llama3")
    rows = [
        b"\xe3\x81 a",
        b"a\xff b",
        b"\xff \xff\xfe a",
        b"\xf0\x9f  \x80 b",
        b"a\x00 \x00b",
        b" \xc2 \xa0",
        b"\xe2\x80 \xa8",
    ]
    whole = tokenizer.encode(tf.constant(rows)).token_ids
    assert tokenizer(tf.constant(rows)).to_list() == whole.to_list()


def test_empty_batches():
    tokenizer, reference = both("roberta")
    for rows in ([], [""], [" "], ["", "", " a", "a "]):
        assert tokenizer(rows).to_list() == [encoding.ids for encoding in reference.encode_batch(rows)]
