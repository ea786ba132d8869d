"""New networks: what their config.json says of their tokenizer."""

import json

import pytest
from small_networks import SMALL

from garden import Tokenizer
from training.config import make_config
from training.corpora.vocabulary import train_vocabulary, write_vocabulary
from training.models import build_task

KINDS = {
    "wordpiece": {"kind": "wordpiece", "size": 80, "lower_case": True},
    "gpt2": {"kind": "bpe", "size": 280, "template": "gpt2"},
    "roberta": {"kind": "bpe", "size": 280, "template": "roberta"},
    "unigram": {"kind": "unigram", "size": 140},
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizers")
    for name, options in KINDS.items():
        texts = ["The quick brown fox jumps over the lazy dog, and it sleeps.", "A dog, a fox: both are brown!"] * 20
        write_vocabulary(train_vocabulary(texts, **options), directory / name)
    return directory


@pytest.fixture
def saved(tokenizers, tmp_path):
    """A function: task, family, tokenizer and more sizes -> the tokenizer and the config.json of a new network, saved."""

    def save(task: str, family: str, kind: str, **sizes) -> tuple[Tokenizer, dict]:
        values = {"family": family, "config": {**SMALL[family], **sizes}, "tokenizer": str(tokenizers / kind)}
        config = make_config(
            {"task": task, "model": values, "data": {"corpus": "none"}, "output": str(tmp_path / "run")}
        )
        model = build_task(config)
        model.save_pretrained(tmp_path / "model")
        return model.tokenizer, json.loads((tmp_path / "model/config.json").read_text())

    return save


@pytest.mark.parametrize(
    ("task", "family", "kind", "begin", "end", "start"),
    [
        ("causal-lm", "gpt2", "gpt2", "eos", "eos", None),
        ("causal-lm", "llama", "roberta", "bos", "eos", None),
        ("masked-lm", "roberta", "roberta", "bos", "eos", None),
        ("seq2seq-lm", "bart", "roberta", "bos", "eos", "eos"),
        ("seq2seq-lm", "bart", "wordpiece", "cls", "sep", "sep"),
        ("seq2seq-lm", "t5", "unigram", None, "eos", "pad"),
        ("seq2seq-lm", "transformer", "gpt2", None, "eos", "eos"),
    ],
)
def test_special_tokens_are_the_tokenizers(saved, task, family, kind, begin, end, start):
    tokenizer, config = saved(task, family, kind)
    expected = {"bos_token_id": begin, "eos_token_id": end, "decoder_start_token_id": start}
    for field, role in expected.items():
        found = None if role is None else getattr(tokenizer, f"{role}_id")
        assert (role is None) == (found is None)
        assert config.get(field) == found, field
    assert config.get("pad_token_id") == tokenizer.pad_id or tokenizer.pad_id is None


def test_what_the_config_says_stays(saved):
    tokenizer, config = saved("seq2seq-lm", "bart", "roberta", bos_token_id=7, decoder_start_token_id=9)
    assert (config["bos_token_id"], config["decoder_start_token_id"]) == (7, 9)
    assert config["eos_token_id"] == tokenizer.eos_id
