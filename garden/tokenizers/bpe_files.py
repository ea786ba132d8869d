"""vocab.json and merges.txt, with tokenizer_config.json, as the contents of tokenizer.json.

What the two files do not say, how a text is cut into words and which special tokens go around it, follows the classes of
`transformers` 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from garden.tokenizers.tokenizer_classes import added_tokens, class_of, content, ends, with_defaults

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bpe_spec(directory: Path, config: Mapping[str, Any]) -> tuple[dict, dict]:
    """The contents of tokenizer.json, and tokenizer_config.json with the family's special tokens.

    Raises FileNotFoundError if a file is missing, ValueError if one is broken or the family is not supported.
    """
    from garden.tokenizers.files import read_json

    vocabulary = read_json(directory / "vocab.json", missing=None)
    path = directory / "merges.txt"
    if vocabulary is None or not path.is_file():
        missing = "vocab.json" if vocabulary is None else "merges.txt"
        raise FileNotFoundError(
            f"{directory}: {missing} is missing; byte-pair encoding needs vocab.json and merges.txt"
        )
    for token, token_id in vocabulary.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise ValueError(f'{directory / "vocab.json"}: "{token}" has id {token_id!r}; expected a number from 0 on')
    merges = _read_merges(path)
    name = class_of(directory, config)
    if name is None:  # nobody says: by the special tokens
        likely = {"GPT2Tokenizer": {"<|endoftext|>"}, "RobertaTokenizer": {"<s>", "</s>", "<pad>", "<unk>", "<mask>"}}
        name = next((family for family, tokens in likely.items() if tokens <= set(vocabulary)), None)
    if name not in _FAMILIES:
        said = "neither tokenizer_config.json nor config.json says which" if name is None else f"tokenizer_class {name}"
        raise ValueError(
            f"{directory}: vocab.json and merges.txt of {said} are not supported; supported: {', '.join(_FAMILIES)}; "
            "or save tokenizer.json with transformers"
        )
    return _FAMILIES[name](vocabulary, merges, config)


def _read_merges(path: Path) -> list[list[str]]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start})") from None
    merges = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise ValueError(f"{path}:{number}: expected two tokens, got {line!r:.60}")
        merges.append(pair)
    return merges


def _gpt2(vocabulary: dict, merges: list, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"))
    return _spec(vocabulary, merges, config, _byte_level(config)), config


def _roberta(vocabulary: dict, merges: list, config: Mapping) -> tuple[dict, dict]:
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
    config = with_defaults(config, {**defaults, "pad_token": "<pad>", "mask_token": "<mask>"})
    spec = _spec(vocabulary, merges, config, _byte_level(config))
    return {**spec, "post_processor": _around(spec, config, bool(config.get("trim_offsets", True)))}, config


def _qwen2(vocabulary: dict, merges: list, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"))
    split = {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}
    steps = [split, {**_byte_level(config), "use_regex": False}]
    spec = _spec(vocabulary, merges, config, {"type": "Sequence", "pretokenizers": steps})
    return {**spec, "normalizer": {"type": "NFC"}}, config


def _clip(vocabulary: dict, merges: list, config: Mapping) -> tuple[dict, dict]:
    defaults = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    config = with_defaults(config, {"bos_token": "<|startoftext|>", **defaults})
    split = {"type": "Split", "pattern": {"Regex": _CLIP}, "behavior": "Removed", "invert": True}
    spec = _spec(
        vocabulary,
        merges,
        config,
        {"type": "Sequence", "pretokenizers": [split, _byte_level({})]},
        unk_token=content(config["unk_token"]),
        end_of_word_suffix="</w>",
    )
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]}
    named = {"cls_token": config["bos_token"], "sep_token": config["eos_token"]}
    return {**spec, "post_processor": _around(spec, named, False)}, config


_FAMILIES: dict[str, Callable[[dict, list, Mapping], tuple[dict, dict]]] = {
    "GPT2Tokenizer": _gpt2,
    "RobertaTokenizer": _roberta,
    "Qwen2Tokenizer": _qwen2,
    "CLIPTokenizer": _clip,
}


def _spec(vocabulary: dict, merges: list, config: Mapping, pre_tokenizer: dict, **options: Any) -> dict:
    added = added_tokens(vocabulary, config)
    ids = {**vocabulary, **{token["content"]: token["id"] for token in added}}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": ends(config, ids),
        "decoder": _byte_level({"add_prefix_space": True}),
        "model": {**model, **options},
    }


def _byte_level(config: Mapping) -> dict:
    prefix = bool(config.get("add_prefix_space", False))
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}


def _around(spec: dict, config: Mapping, trim_offsets: bool) -> dict:
    """RobertaProcessing: a token before a text, another after it."""
    ids = {**spec["model"]["vocab"], **{token["content"]: token["id"] for token in spec["added_tokens"]}}
    sep, cls = (content(config[f"{role}_token"]) for role in ("sep", "cls"))
    prefix = _byte_level(config)["add_prefix_space"]
    return {
        "type": "RobertaProcessing",
        "sep": [sep, ids[sep]],
        "cls": [cls, ids[cls]],
        "trim_offsets": trim_offsets,
        "add_prefix_space": prefix,
    }
