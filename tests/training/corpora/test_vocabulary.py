"""Vocabularies: their files open, the same text gives the same ones, and what does not fit is said."""

import json

import pytest
from corpus_texts import texts
from tokenizers import Tokenizer as Reference

from garden.tokenizers import Tokenizer
from training.corpora.vocabulary import check_target, limited, train_vocabulary, write_vocabulary

KINDS = [("wordpiece", "bert", 150), ("bpe", "gpt2", 300), ("bpe", "roberta", 300), ("unigram", "t5", 180)]
ROLES = {
    "bert": {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None},
    "gpt2": {"pad": None, "unk": 0, "cls": None, "sep": None, "mask": None, "bos": 0, "eos": 0},
    "roberta": {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4, "bos": 0, "eos": 2},
    "t5": {"pad": 0, "unk": 2, "cls": None, "sep": None, "mask": None, "bos": None, "eos": 1},
}
AROUND = {"bert": ((2,), (3,)), "gpt2": ((), ()), "roberta": ((0,), (2,)), "t5": ((), (1,))}


@pytest.mark.parametrize(
    ("kind", "template", "size", "lower_case"),
    [(*each, False) for each in KINDS] + [("wordpiece", "bert", 150, True), ("unigram", "t5", 180, True)],
)
def test_files_open_here_and_in_the_reference(kind, template, size, lower_case, tmp_path):
    trained = train_vocabulary(iter(texts(150)), kind=kind, template=template, size=size, lower_case=lower_case)
    write_vocabulary(trained, tmp_path / "made")
    opened = Tokenizer.from_pretrained(tmp_path / "made")
    assert opened.vocabulary_size == trained.size <= size
    assert trained.documents == 150
    assert {role: getattr(opened, f"{role}_id") for role in ROLES[template]} == ROLES[template]
    given = [*texts(5, seed=3), "The Cat\tsat\n on  é", ""]
    ids = opened(given).to_list()
    reference = Reference.from_file(str(tmp_path / "made" / "tokenizer.json"))
    assert ids == [reference.encode(text).ids for text in given]
    prefix, suffix = AROUND[template]
    assert tuple(ids[-1]) == (*prefix, *suffix), "what stands round an empty text"
    assert (ids[0] == opened([given[0].lower()]).to_list()[0]) == lower_case
    names = {path.name for path in (tmp_path / "made").iterdir()}
    more = {"wordpiece": {"vocab.txt"}, "bpe": {"vocab.json", "merges.txt"}, "unigram": set()}[kind]
    assert names == {"tokenizer.json", "tokenizer_config.json"} | more


@pytest.mark.parametrize(("kind", "template", "size"), KINDS)
def test_the_same_text_gives_the_same_files(kind, template, size):
    some = [*texts(60), "Zebra quartz", "ünï çødé"]
    first, second = (train_vocabulary(some, kind=kind, template=template, size=size).files for _ in range(2))
    assert first == second


def test_sentinels_stand_behind_the_pieces(tmp_path):
    write_vocabulary(train_vocabulary(texts(100), kind="unigram", size=180), tmp_path / "t5")
    opened = Tokenizer.from_pretrained(tmp_path / "t5")
    assert opened.vocabulary[-1] == "<extra_id_0>"
    assert opened.vocabulary[-100] == "<extra_id_99>"
    assert opened(["<extra_id_0>"]).to_list()[0][-2:] == [opened.vocabulary_size - 1, 1]


def test_rare_characters_are_left_out_by_coverage():
    some = ["ab ba aab " * 1000, "ж"]
    kept = train_vocabulary(some, kind="wordpiece", size=30, coverage=1.0)
    left = train_vocabulary(some, kind="wordpiece", size=30, coverage=0.999)
    assert (kept.characters, kept.left_out) == (3, 0)
    assert (left.characters, left.left_out) == (2, 1)
    assert "ж" in json.loads(kept.files["tokenizer.json"])["model"]["vocab"]
    assert "ж" not in json.loads(left.files["tokenizer.json"])["model"]["vocab"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "wordpiece", "size": 20}, r"size: 20 tokens are too few for 5 special tokens and \d+ characters"),
        (
            {"kind": "bpe", "size": 256},
            "size: 256 tokens are too few for 1 special token and 256 bytes; give at least 257",
        ),
        ({"kind": "unigram", "size": 110}, r"size: 110 tokens are too few for 103 special tokens and \d+ characters"),
        ({"kind": "unigram", "size": 200, "template": "bert"}, 'expected t5 with kind unigram, got "bert"'),
        ({"kind": "words", "size": 200}, "expected one of wordpiece, bpe, unigram"),
        ({"kind": "bpe", "size": 300, "coverage": 0}, "coverage: expected a share"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train_vocabulary(texts(20), **options)


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 1), ("unigram", 1)])
def test_the_size_that_is_needed_is_enough(kind, size):
    with pytest.raises(ValueError, match="give at least") as error:
        train_vocabulary(texts(20), kind=kind, size=size)
    needed = int(str(error.value).rsplit(" ", 1)[1])
    assert train_vocabulary(texts(20), kind=kind, size=needed).size == needed


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="the corpus is empty"):
        train_vocabulary([" ", ""], kind="bpe", size=300)


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="give another one"):
            check_target(place)
    check_target(tmp_path / "new")


def test_limits():
    assert list(limited(["aa", "bb", "cc"], documents=2)) == ["aa", "bb"]
    assert list(limited(["aa", "bb", "cc"], most_bytes=3)) == ["aa", "bb"]
