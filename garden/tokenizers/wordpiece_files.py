"""tokenizer.json and vocab.txt to WordPieceTokenizer, and back."""

from __future__ import annotations

import json
from typing import Any

from garden.tokenizers.added_tokens import AddedToken
from garden.tokenizers.files import (
    TokenizerFiles,
    added_tokens_json,
    component,
    options,
    parse_added_tokens,
    parse_template,
    parse_vocabulary,
    template_json,
)
from garden.tokenizers.wordpiece import WordPieceTokenizer

_SECTIONS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")
_SECTIONS += ("decoder", "model")


def wordpiece_from_files(files: TokenizerFiles, split_special_tokens: bool = False) -> WordPieceTokenizer:
    """Compile a directory's WordPiece tokenizer; ValueError names whatever is not supported."""
    common = {
        "roles": files.roles,
        "model_max_length": files.model_max_length,
        "split_special_tokens": split_special_tokens,
    }
    if files.tokenizer is not None:
        return _from_json(files.tokenizer, common)
    return _from_vocabulary(files.vocabulary, files.config, common)


def _from_json(spec: dict[str, Any], common: dict) -> WordPieceTokenizer:
    unknown = [name for name in spec if name not in _SECTIONS]
    if unknown:
        raise ValueError(f'tokenizer.json: section "{unknown[0]}" is not supported; known: {", ".join(_SECTIONS)}')
    model = component(spec, "model", "WordPiece")
    if model is None:
        raise ValueError("tokenizer.json: the model section is missing")
    model = options(
        "model", model, vocab={}, unk_token="[UNK]", continuing_subword_prefix="##", max_input_chars_per_word=100
    )
    normalizer = component(spec, "normalizer", "BertNormalizer")
    flags = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    if normalizer is not None:
        defaults = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
        flags = options("normalizer", normalizer, **defaults)
    pre_tokenizer = component(spec, "pre_tokenizer", "BertPreTokenizer")
    if pre_tokenizer is None:
        raise ValueError("tokenizer.json: pre_tokenizer null is not supported; supported: BertPreTokenizer")
    options("pre_tokenizer", pre_tokenizer)
    decoder = component(spec, "decoder", "WordPiece")
    decoding = options("decoder", decoder or {}, prefix=model["continuing_subword_prefix"], cleanup=True)
    if decoding["prefix"] != model["continuing_subword_prefix"]:
        raise ValueError(
            f'tokenizer.json: decoder prefix "{decoding["prefix"]}" is not supported; '
            f'expected the model\'s, "{model["continuing_subword_prefix"]}"'
        )
    return WordPieceTokenizer(
        parse_vocabulary(model["vocab"]),
        lowercase=flags["lowercase"],
        strip_accents=flags["strip_accents"],
        split_chinese=flags["handle_chinese_chars"],
        clean_text=flags["clean_text"],
        unk_token=model["unk_token"],
        continuing_prefix=model["continuing_subword_prefix"],
        max_word_characters=model["max_input_chars_per_word"],
        added_tokens=parse_added_tokens(spec.get("added_tokens")),
        template=parse_template(spec),
        decoder=decoder is not None,
        cleanup=decoding["cleanup"],
        **common,
    )


def _from_vocabulary(vocabulary: list[str], config: dict[str, Any], common: dict) -> WordPieceTokenizer:
    """vocab.txt under tokenizer_config.json's options, as BertTokenizer reads them."""
    for name, expected in (("do_basic_tokenize", True), ("never_split", None), ("wordpieces_prefix", "##")):
        value = config.get(name, expected)
        if value != expected and value:
            raise ValueError(f"tokenizer_config.json: {name} = {value!r} is not supported; expected {expected!r}")
    added_tokens = None
    if config.get("added_tokens_decoder"):
        added_tokens = [
            AddedToken(**{"id": int(token_id), **fields, "content": fields["content"]})
            for token_id, fields in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
        ]
    return WordPieceTokenizer(
        vocabulary,
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        split_chinese=config.get("tokenize_chinese_chars", True),
        added_tokens=added_tokens,
        **common,
    )


def wordpiece_spec(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The contents of tokenizer.json."""
    model_tokens = tokenizer.vocabulary[: tokenizer._vocabulary.model_size]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens_json(tokenizer.added_tokens),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": tokenizer.clean_text,
            "handle_chinese_chars": tokenizer.split_chinese,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template_json(tokenizer.template, tokenizer.vocabulary),
        "decoder": (
            {"type": "WordPiece", "prefix": tokenizer.continuing_prefix, "cleanup": tokenizer.cleanup}
            if tokenizer.decoder
            else None
        ),
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.unk_token,
            "continuing_subword_prefix": tokenizer.continuing_prefix,
            "max_input_chars_per_word": tokenizer.max_word_characters,
            "vocab": {token: token_id for token_id, token in enumerate(model_tokens)},
        },
    }


def wordpiece_to_files(tokenizer: WordPieceTokenizer) -> dict[str, str]:
    """File name -> text: tokenizer.json, vocab.txt, tokenizer_config.json, special_tokens_map.json."""
    spec = wordpiece_spec(tokenizer)
    roles = {f"{role}_token": token for role, token in tokenizer._vocabulary.roles.items()}
    config = {
        # BertTokenizer builds its own pipeline from the vocabulary and these options; the other class reads it from
        # tokenizer.json, with whatever BertTokenizer has no option for.
        "tokenizer_class": "BertTokenizer" if _is_bert(tokenizer) else "PreTrainedTokenizerFast",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.split_chinese,
        **({"model_max_length": tokenizer.model_max_length} if tokenizer.model_max_length else {}),
        **roles,
    }
    dump = lambda value: json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    return {
        "tokenizer.json": dump(spec),
        "vocab.txt": "".join(token + "\n" for token in spec["model"]["vocab"]),
        "tokenizer_config.json": dump(config),
        "special_tokens_map.json": dump(roles),
    }


def _is_bert(tokenizer: WordPieceTokenizer) -> bool:
    """Whether BertTokenizer's options say all there is to say."""
    plain = WordPieceTokenizer(
        tokenizer.vocabulary[: tokenizer._vocabulary.model_size],
        lowercase=tokenizer.lowercase,
        strip_accents=tokenizer.strip_accents,
        split_chinese=tokenizer.split_chinese,
        unk_token=tokenizer.unk_token,
        roles=tokenizer._vocabulary.roles,
    )
    return wordpiece_spec(plain) == wordpiece_spec(tokenizer)
