"""What the classes of `transformers` know that a vocabulary's own files do not say: special tokens, and how to match them.

Where tokenizer.json is missing, tokenizer_config.json's tokenizer_class, or else config.json's model_type, says which
family a vocabulary belongs to; `sentencepiece_files.py` and `bpe_files.py` then write the tokenizer.json that the class
would, so that one compiler serves all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_NAMED = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_OF_MODEL = {
    "t5": "T5Tokenizer", "mt5": "T5Tokenizer", "longt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer",
    "mbart": "MBartTokenizer", "mbart50": "MBart50Tokenizer", "albert": "AlbertTokenizer", "llama": "LlamaTokenizer",
    "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "opt": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer", "roberta": "RobertaTokenizer",
    "bart": "RobertaTokenizer", "longformer": "RobertaTokenizer", "led": "RobertaTokenizer",
    "qwen2": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
}  # fmt: skip
_SAME = {
    "MT5Tokenizer": "T5Tokenizer", "BartTokenizer": "RobertaTokenizer", "LongformerTokenizer": "RobertaTokenizer",
    "LEDTokenizer": "RobertaTokenizer", "PreTrainedTokenizer": None, "TokenizersBackend": None,
}  # fmt: skip
# Checkpoints of these say LlamaTokenizer, and are read by what their SentencePiece model says.
_BY_MODEL = ("mistral", "mistral3", "mixtral", "ministral", "ministral3", "phi3")


def class_of(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The tokenizer class's name without "Fast"; None where nothing is said, or only that it is some tokenizer."""
    from garden.tokenizers.files import read_json

    model_type = read_json(directory / "config.json", missing={}).get("model_type")
    if model_type in _BY_MODEL:
        return None
    name = str(config.get("tokenizer_class") or _OF_MODEL.get(model_type) or "").removesuffix("Fast")
    return _SAME.get(name, name or None)


def content(token: str | Mapping[str, Any]) -> str:
    """A token as written: a string, or an object that says also how it is matched."""
    return token if isinstance(token, str) else token["content"]


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a class's special tokens where it names none of its own."""
    return {**defaults, **{name: value for name, value in config.items() if value is not None or name not in defaults}}


def added_tokens(
    vocabulary: Iterable[str] | Mapping[str, int],
    config: Mapping[str, Any],
    extra: Iterable[str | Mapping[str, Any]] = (),
) -> list[dict]:
    """The added_tokens section: those that the configuration lists, special tokens, and more that a family has.

    A token that the vocabulary lacks gets the next id. Of two that are spelled alike the first one counts.
    """
    ids = (
        dict(vocabulary)
        if isinstance(vocabulary, Mapping)
        else {token: index for index, token in enumerate(vocabulary)}
    )
    size = len(ids)
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    named = [config[name] for name in _NAMED if config.get(name) is not None]
    more = [*(config.get("additional_special_tokens") or []), *(config.get("extra_special_tokens") or [])]
    special = {content(token) for token in named}
    found: dict[str, dict] = {}
    for token, is_special in [(token, None) for _, token in listed] + [
        (token, True) for token in (*named, *more, *extra)
    ]:
        spelled = content(token)
        if not spelled or spelled in found:
            continue
        fields = dict.fromkeys(_FLAGS, False)
        if not isinstance(token, str):
            fields.update({name: bool(token[name]) for name in _FLAGS if name in token})
        if is_special or spelled in special:
            fields["special"] = True if isinstance(token, str) or spelled in special else fields["special"]
        if spelled not in ids:
            ids[spelled] = max([size, *(token["id"] + 1 for token in found.values())])
        found[spelled] = {"id": ids[spelled], "content": spelled, **fields}
    return sorted(found.values(), key=lambda token: token["id"])


def template(single: str, pair: str, ids: Mapping[str, int], types: bool = False) -> dict:
    """A post_processor section. single, pair: tokens and A and B, separated by spaces; types: B and after are type 1."""

    def items(parts: str) -> list[dict]:
        type_id, result = 0, []
        for part in parts.split():
            type_id = 1 if types and part == "B" else type_id
            kind = "Sequence" if part in ("A", "B") else "SpecialToken"
            result.append({kind: {"id": part, "type_id": type_id}})
        return result

    special = {part for part in f"{single} {pair}".split() if part not in ("A", "B")}
    return {
        "type": "TemplateProcessing",
        "single": items(single),
        "pair": items(pair),
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in sorted(special)},
    }


def ends(config: Mapping[str, Any], ids: Mapping[str, int]) -> dict:
    """The post_processor section of families that put tokens around a text only where add_bos_token, add_eos_token say."""
    bos, eos = (
        content(config[f"{role}_token"]) if config.get(f"add_{role}_token") and config.get(f"{role}_token") else ""
        for role in ("bos", "eos")
    )
    section = template(f"{bos} A {eos}", f"{bos} A {eos} {bos} B {eos}", ids)
    second = next(at for at, part in enumerate(section["pair"]) if part.get("Sequence", {}).get("id") == "B") - bool(
        bos
    )
    for part in section["pair"][second:]:
        next(iter(part.values()))["type_id"] = 1
    return section
