"""Pipelines of published tokenizers against the reference: goldens, any text, every character, files, exports."""

import functools
import gzip
import json
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from garden.tokenizers import PipelineTokenizer, Tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "tokenizers.json.gz"
FAST = ["gpt2", "roberta", "llama2", "mistral", "t5"]
SLOW = ["llama3", "qwen2", "modernbert", "gemma", "xlm-r", "albert", "clip", "wordpiece", "wordlevel"]
NASTY = [
    *"\0\t\n\x0b\x0c\r \x1c\x7f\x85\xa0\xad\u1680\u2000\u200b\u200d\u2028\u2029\u202f\u3000\ufeff\ufffd\ufffe\ue000",
    *"\u0300\u0301\u0323\u0344\u0345\u0941\u09cb\u0f73\u1b44\u302a\u302e\u302f\U0001d165\U0001d16e\U0001d15e",
    *"Aaİıßẞſﬁǅσςϓé가각각㐀中丽\U00020000\U0002f800.-_'[]#$^`~«»¿、。１５Ⅻ㍿😀\U000e0041\U0010ffff▁Ġ½",
    *["  ", "   ", "▁▁", "``", "''", "\r\n", "ｶﾞ", "\u1100\u1161\u11a8", "\u0600a", "क्षि", "don't", "I'LL", "12345"],
    *["garden", "the ", "<s>", " <mask> ", "<|endoftext|>", "[MASK]", "<0x41>", "x" * 30],
]
batches = st.lists(
    st.lists(st.one_of(st.sampled_from(NASTY), st.characters(exclude_categories=["Cs"])), max_size=10).map("".join),
    min_size=1,
    max_size=6,
)


@functools.cache
def golden() -> dict:
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


@functools.cache
def both(name: str) -> tuple[PipelineTokenizer, Reference]:
    spec = golden()["tokenizers"][name]["tokenizer"]
    return PipelineTokenizer(spec), Reference.from_str(json.dumps(spec))


every = pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])


@every
def test_goldens(name):
    tokenizer, _ = both(name)
    wanted, texts, pairs = golden()["tokenizers"][name], golden()["texts"], golden()["pairs"]
    rows = [tokenizer.encode(texts), tokenizer.encode(*map(list, zip(*pairs, strict=True)))]
    ids, types, starts, ends, special = ([*rows[0][field].to_list(), *rows[1][field].to_list()] for field in range(5))
    assert ids == wanted["ids"]
    assert ["".join(map(str, row)) for row in types] == wanted["types"]
    assert ["".join(str(int(bit)) for bit in row) for row in special] == wanted["special"]
    spans = [[p for span in zip(*row, strict=True) for p in span] for row in zip(starts, ends, strict=True)]
    assert spans == wanted["offsets"]
    assert tokenizer(texts).to_list() == wanted["ids"][: len(texts)]


@every
def test_goldens_of_decoding(name):
    tokenizer, _ = both(name)
    wanted = golden()["tokenizers"][name]
    ids = wanted["ids"] + wanted["decode_ids"]
    text = lambda **options: [text.decode() for text in tokenizer.detokenize(ids, **options).numpy()]
    assert text() == wanted["decoded"]
    assert text(skip_special_tokens=False) == wanted["decoded_special"]
    assert text(clean_up=True) == wanted["decoded_clean"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches)
@pytest.mark.parametrize("name", ["roberta", "mistral", "t5"])
def test_any_text(name, batch, same):
    same(*both(name), batch)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches)
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_any_text_at_length(name, batch, same):
    same(*both(name), batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_every_scalar_value(name, same):
    scalars = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for begin in range(0, len(scalars), 50_000):
        same(*both(name), [f"a{c}b {c}{c}" for c in scalars[begin : begin + 50_000]])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_any_ids_decode(name, data):
    tokenizer, reference = both(name)
    token = st.integers(0, tokenizer.vocabulary_size + 2)
    ids = data.draw(st.lists(st.lists(token, max_size=9), min_size=1, max_size=5))
    for skip in (True, False):
        decoded = [text.decode() for text in tokenizer.detokenize(ids, skip_special_tokens=skip).numpy()]
        assert decoded == reference.decode_batch(ids, skip_special_tokens=skip)


def test_files(tmp_path):
    spec = golden()["tokenizers"]["gpt2"]["tokenizer"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    config = {"eos_token": "<|endoftext|>", "add_eos_token": True, "model_max_length": 64, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, PipelineTokenizer)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.model_max_length) == (0, None, None, 64)
    assert tokenizer(["garden"]).to_list()[0][-1] == tokenizer.eos_id
    tokenizer.save_pretrained(tmp_path / "saved")
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    reference = Reference.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    texts = golden()["texts"][3:6]
    assert again(texts).to_list() == tokenizer(texts).to_list() == [e.ids for e in reference.encode_batch(texts)]
    assert (again.eos_id, again.model_max_length) == (0, 64)


def test_in_a_dataset_and_a_saved_model(tmp_path):
    tokenizer, reference = both("mistral")
    texts = golden()["texts"]
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    data = tf.data.Dataset.from_tensor_slices(texts).batch(8).map(tokenizer)
    assert [row for batch in data for row in batch.to_list()] == expected

    class Exported(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def serve(self, text):
            ids = tokenizer(text)
            return {"ids": ids.to_tensor(-1), "text": tokenizer.detokenize(ids)}

    module = Exported()
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](text=tf.constant(texts))
    assert [[i for i in row if i >= 0] for row in loaded["ids"].numpy().tolist()] == expected
    assert [text.decode() for text in loaded["text"].numpy()] == reference.decode_batch(expected)
    operations = {node.op for f in tf.saved_model.load(str(tmp_path)).serve.concrete_functions
                  for node in f.graph.as_graph_def().node}  # fmt: skip
    assert not {op for op in operations if "HashTable" in op or ">" in op}
