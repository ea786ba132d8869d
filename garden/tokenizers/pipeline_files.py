"""tokenizer.json and its companions to PipelineTokenizer, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from garden.tokenizers.files import TokenizerFiles, template_json
from garden.tokenizers.pipeline import PipelineTokenizer
from garden.tokenizers.post_processors import parse_post_processor, with_ends
from garden.tokenizers.template import Template

# What special tokens are usually called, for a tokenizer.json without a tokenizer_config.json that says so.
_USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "[BOS]", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "[EOS]", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("<mask>", "[MASK]"),
}


def is_bert(spec: Mapping[str, Any]) -> bool:
    """Whether WordPieceTokenizer, which is faster, does what the file says."""

    def kind(section: str) -> Any:
        value = spec.get(section)
        return value.get("type") if isinstance(value, Mapping) else value

    model, decoder = spec.get("model"), spec.get("decoder")
    return (
        kind("model") == "WordPiece"
        and kind("normalizer") in (None, "BertNormalizer")
        and kind("pre_tokenizer") == "BertPreTokenizer"
        and kind("post_processor") in (None, "TemplateProcessing", "BertProcessing")
        and kind("decoder") in (None, "WordPiece")
        and (decoder is None or decoder.get("prefix", "##") == model.get("continuing_subword_prefix", "##"))
    )


def pipeline_from_files(files: TokenizerFiles, split_special_tokens: bool = False) -> PipelineTokenizer:
    """Compile a directory's tokenizer.json; ValueError names whatever is not supported."""
    spec = files.tokenizer
    roles = _roles(files)
    return PipelineTokenizer(
        spec,
        roles=roles,
        template=_template(spec, files.config, roles),
        model_max_length=files.model_max_length,
        split_special_tokens=split_special_tokens,
    )


def _roles(files: TokenizerFiles) -> dict[str, str]:
    roles = {}
    if not any(f"{role}_token" in files.config for role in _USUAL):
        special = {token.get("content") for token in files.tokenizer.get("added_tokens") or [] if token.get("special")}
        for role, names in _USUAL.items():
            if found := [name for name in names if name in special]:
                roles[role] = found[0]
        post = files.tokenizer.get("post_processor") or {}
        for role in ("cls", "sep"):  # of BertProcessing and RobertaProcessing
            if isinstance(post.get(role), list):
                roles[role] = post[role][0]
    padding = files.tokenizer.get("padding")
    if isinstance(padding, dict) and "pad_token" not in files.config and "pad_token" in padding:
        roles["pad"] = padding["pad_token"]
    return {**roles, **files.roles}


def _template(spec: Mapping[str, Any], config: Mapping[str, Any], roles: Mapping[str, str]) -> Template | None:
    """The template that add_bos_token and add_eos_token ask for, where a config has them, as in transformers."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return None
    template = parse_post_processor(spec.get("post_processor")).template
    ends = {roles.get("bos"), roles.get("eos")}
    if any(part.source == "special" and part.name not in ends for part in (*template.single, *template.pair)):
        return None  # a template of other tokens, which the two do not speak of
    ids = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
    if isinstance(spec["model"].get("vocab"), dict):
        ids.update(spec["model"]["vocab"])
    named = [
        (token, ids[token]) if config.get(option) and (token := roles.get(role)) in ids else None
        for role, option in (("bos", "add_bos_token"), ("eos", "add_eos_token"))
    ]
    return with_ends(template, *named)


def pipeline_to_files(tokenizer: PipelineTokenizer) -> dict[str, str]:
    """File name -> text: tokenizer.json, tokenizer_config.json, special_tokens_map.json."""
    spec = {**tokenizer.spec, "truncation": None, "padding": None}
    if tokenizer.template != parse_post_processor(spec.get("post_processor")).template:
        spec["post_processor"] = _with_template(spec.get("post_processor"), tokenizer)
    roles = {f"{role}_token": token for role, token in tokenizer._vocabulary.roles.items()}
    config = {
        # The class that takes everything from tokenizer.json; others build pipelines of their own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": tokenizer.model_max_length} if tokenizer.model_max_length else {}),
        **roles,
    }
    dump = lambda value: json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    return {
        "tokenizer.json": dump(spec),
        "tokenizer_config.json": dump(config),
        "special_tokens_map.json": dump(roles),
    }


def _with_template(post: Mapping | None, tokenizer: PipelineTokenizer) -> dict:
    """The post_processor section with the tokenizer's template, and with its spans as before."""
    made = template_json(tokenizer.template, tokenizer.vocabulary)
    trims = [
        {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
        for prefix in parse_post_processor(post).trims
    ]
    return {"type": "Sequence", "processors": [*trims, made]} if trims else made
