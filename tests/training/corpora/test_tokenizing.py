"""Token ids and sentence starts: sentences as texts of their own give what places in the text give."""

import numpy as np
import pytest
from corpus_texts import texts

from garden.tokenizers import Tokenizer
from training.corpora import tokenizing
from training.corpora.tokenizing import fingerprint, layout_of, tokenise
from training.corpora.vocabulary import train_vocabulary, write_vocabulary

SOME = [*texts(40, seed=9), "", "  ", "\n\nOne. Two.\n", "No end", "Mr. X. ran... Off! And on", "[SEP] a. [MASK] B."]
WITHOUT_SPACES = [*SOME, "「東京です。」大阪。"]


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("vocabularies") / request.param
    size = {"wordpiece": 150, "unigram": 180, "bpe": 300}[request.param]
    write_vocabulary(train_vocabulary(texts(100), kind=request.param, size=size), directory)
    return Tokenizer.from_pretrained(directory, split_special_tokens=True)


def test_the_quick_way_gives_what_places_in_the_text_give(tokenizer, monkeypatch):
    quick = tokenise(tokenizer, SOME, sentences=True) + tokenise(tokenizer, WITHOUT_SPACES, sentences=True)[-1:]
    monkeypatch.setattr(tokenizing, "_parts_at", lambda *_: False)
    slow = tokenise(tokenizer, WITHOUT_SPACES, sentences=True)
    plain = tokenise(tokenizer, WITHOUT_SPACES)
    for text, one, other, (ids, nothing) in zip(WITHOUT_SPACES, quick, slow, plain, strict=True):
        assert np.array_equal(one[0], ids), text
        assert np.array_equal(other[0], ids), text
        assert np.array_equal(one[1][1:], other[1][1:]), text
        assert nothing is None
    assert len(quick[0][1]) > quick[0][1].sum() >= 1
    assert tokenise(tokenizer, [], sentences=True) == tokenise(tokenizer, []) == []


def test_special_tokens_in_texts_are_text(tokenizer, request):
    if "unigram" in request.node.name:
        pytest.skip("special tokens are pieces of a Unigram vocabulary, as they are of T5's")
    (ids, _), *_ = tokenise(tokenizer, ["[SEP] a. [MASK] B. </s> <|endoftext|>"])
    assert not set(ids.tolist()) & (set(tokenizer.special_ids) - {tokenizer.unk_id})


def test_fingerprints_tell_tokenizers_apart(tokenizer_dir, tmp_path):
    write_vocabulary(train_vocabulary(texts(200), kind="wordpiece", size=120), tmp_path / "cased")
    one, same, cased = (
        fingerprint(Tokenizer.from_pretrained(each)) for each in (tokenizer_dir, tokenizer_dir, tmp_path / "cased")
    )
    assert one == same != cased


def test_layouts(tokenizer_dir):
    opened = Tokenizer.from_pretrained(tokenizer_dir)
    single, pair, causal = (layout_of(opened, name) for name in ("single", "pair", "causal"))
    assert (single.prefix, single.suffix) == ((2,), (3,))
    assert pair.suffix == (3, 3)
    assert causal.suffix[-1] == 3
