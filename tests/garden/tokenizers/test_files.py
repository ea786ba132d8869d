"""Reading and writing the Hugging Face layout; what is refused, and by which name."""

import json

import pytest
from tokenizers import Tokenizer as Reference

from garden.tokenizers import AddedToken, Tokenizer, WordPieceTokenizer

BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
MODEL = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"Sequence": {"id": "A", "type_id": 2}},
        {"SpecialToken": {"id": "end", "type_id": 1}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "B", "type_id": 1}}, {"Sequence": {"id": "A", "type_id": 3}}],
    "special_tokens": {"end": {"id": "end", "ids": [3, 2], "tokens": ["[SEP]", "[CLS]"]}},
}


@pytest.mark.parametrize(
    "processor", [None, {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, TEMPLATE]
)
@pytest.mark.parametrize("special", [True, False])
def test_templates(processor, special, write_json, same):
    directory = write_json(post_processor=processor)
    reference = Reference.from_file(str(directory / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(directory)
    texts, pairs = ["a ab", "", "abb a a"], ["b", "a", "a a a"]
    same(tokenizer, reference, texts, special=special)
    same(tokenizer, reference, texts, pairs, special=special)
    same(tokenizer, reference, texts, pairs, 4, special=special)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalizer": {"type": "Other"}},
            'normalizer "Other" is not supported; supported: Sequence, BertNormalizer',
        ),
        ({"normalizer": {**BERT, "fold": True}}, 'normalizer option "fold" = True is not supported'),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, 'pre_tokenizer "UnicodeScripts" is not supported'),
        ({"post_processor": {"type": "Other"}}, 'post_processor "Other" is not supported'),
        ({"post_processor": {**TEMPLATE, "special_tokens": {}}}, "not a valid template"),
        ({"decoder": {"type": "CTC"}}, 'decoder "CTC" is not supported; supported: BPEDecoder'),
        ({"model": {"type": "Other"}}, 'model "Other" is not supported; supported: BPE'),
        ({"model": {**MODEL, "vocab": {"a": 0, "b": 2}}}, '"b" has id 2; expected each of 0 to 1 once'),
        ({"model": {**MODEL, "vocab": {"a": 0}}}, r'unknown token "\[UNK\]" is missing'),
        ({"model": {**MODEL, "vocab": {"[UNK]": 0}, "dropout": 0.1}}, 'model option "dropout" = 0.1 is not supported'),
        ({"added_tokens": [{"id": 9, "content": "x"}]}, '"x": expected id 7, got 9'),
        ({"added_tokens": [{"id": 7}]}, "expected objects with content and id"),
        ({"surprise": 1}, 'section "surprise" is not supported'),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message, write_json):
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_pretrained(write_json(**changes))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer is there; expected tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="vocabulary is empty"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: not UTF-8"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not valid JSON"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_vocabulary_file_with_options(ending, tmp_path, reference_of, same):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "É", "e", "##e", "中", "\u2028", "中中"]
    (tmp_path / "vocab.txt").write_bytes("".join(token + ending for token in tokens).encode())
    config = {"do_lower_case": False, "tokenize_chinese_chars": False, "model_max_length": 64, "never_split": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocabulary == tokens
    assert tokenizer.model_max_length == 64
    assert tokenizer(["É ee 中中 [MASK]"]).to_list() == [[2, 5, 6, 7, 10, 4, 3]]
    same(tokenizer, reference_of(tokenizer), ["É ee 中中 [MASK] \u2028e"])
    (tmp_path / "tokenizer_config.json").write_text('{"never_split": ["e"]}', encoding="utf-8")
    with pytest.raises(ValueError, match="never_split"):
        Tokenizer.from_pretrained(tmp_path)


def test_roles_come_from_the_configuration(write_json):
    directory = write_json()
    config = {"pad_token": {"content": "a"}, "mask_token": "absent", "model_max_length": 1e30}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "special_tokens_map.json").write_text('{"sep_token": "##b"}', encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(directory)
    assert (tokenizer.pad_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.model_max_length) == (5, 6, None, None)


def test_saved_and_loaded_again(tmp_path, same):
    tokens = ["<pad>", "<unk>", "<s>", "</s>", "a", "++b", "é"]
    tokenizer = WordPieceTokenizer(
        tokens,
        lowercase=False,
        split_chinese=False,
        clean_text=False,
        unk_token="<unk>",
        continuing_prefix="++",
        max_word_characters=5,
        roles={"pad": "<pad>", "cls": "<s>", "sep": "</s>"},
        added_tokens=[
            AddedToken(id=3, content="</s>", special=True, lstrip=True),
            AddedToken(id=7, content="neu", normalized=True, single_word=True),
        ],
        cleanup=False,
        model_max_length=9,
    )
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert isinstance(again, WordPieceTokenizer)
    assert (again.vocabulary, again.added_tokens, again.template) == (
        tokenizer.vocabulary, tokenizer.added_tokens, tokenizer.template
    )  # fmt: skip
    assert (again.pad_id, again.unk_id, again.model_max_length) == (0, 1, 9)
    texts = ["ab aé </s> neu neua", "abbbbb\0x"]
    same(again, Reference.from_file(str(tmp_path / "tokenizer.json")), texts)
    assert again(texts).to_list() == tokenizer(texts).to_list()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"
    ]  # fmt: skip


def test_saving_over_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        WordPieceTokenizer(["[UNK]"]).save_pretrained(tmp_path / "file")
