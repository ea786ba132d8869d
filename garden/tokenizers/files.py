"""A tokenizer's files in the Hugging Face layout: reading them, and the parts of tokenizer.json that all models share."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garden.tokenizers.added_tokens import AddedToken
from garden.tokenizers.template import Part, Template

_ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
_ADDED_FIELDS = ("special", "single_word", "lstrip", "rstrip", "normalized")
_LARGEST_LENGTH = 10**9  # Hugging Face writes 1e30 for "no limit"


@dataclass(frozen=True)
class TokenizerFiles:
    """What a directory says of its tokenizer."""

    directory: Path
    tokenizer: dict[str, Any] | None  # tokenizer.json
    vocabulary: list[str] | None  # vocab.txt, when there is no tokenizer.json
    config: dict[str, Any]  # tokenizer_config.json over special_tokens_map.json

    @property
    def roles(self) -> dict[str, str]:
        """pad, unk, bos, eos, cls, sep, mask -> token, as far as they are named."""
        named = {role: self.config.get(f"{role}_token") for role in _ROLES}
        # A token is written as a string, or as an object that says how it is matched.
        named = {role: token.get("content") if isinstance(token, dict) else token for role, token in named.items()}
        return {role: token for role, token in named.items() if token is not None}

    @property
    def model_max_length(self) -> int | None:
        """The longest sequence the model takes, None if not given."""
        length = self.config.get("model_max_length")
        if not isinstance(length, (int, float)) or isinstance(length, bool) or not 0 < length <= _LARGEST_LENGTH:
            return None
        return int(length)


def read_files(directory: str | os.PathLike) -> TokenizerFiles:
    """Read a directory's tokenizer; FileNotFoundError if there is none.

    tokenizer.json, or else vocab.txt; a SentencePiece model, or vocab.json and merges.txt, as the tokenizer.json that
    they amount to.
    """
    from garden.tokenizers.bpe_files import bpe_spec
    from garden.tokenizers.sentencepiece_files import NAMES, sentencepiece_spec

    directory = Path(directory)
    kinds = f"tokenizer.json, vocab.txt, vocab.json with merges.txt, or {', '.join(NAMES)}"
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory; expected one with {kinds}")
    config = {
        **read_json(directory / "special_tokens_map.json", missing={}),
        **read_json(directory / "tokenizer_config.json", missing={}),
    }
    tokenizer = read_json(directory / "tokenizer.json", missing=None)
    if tokenizer is not None:
        return TokenizerFiles(directory, tokenizer, None, config)
    if (directory / "vocab.txt").is_file():
        return TokenizerFiles(directory, None, _read_lines(directory / "vocab.txt"), config)
    for name in NAMES:
        if (directory / name).is_file():
            spec, config = sentencepiece_spec(directory / name, config)
            return TokenizerFiles(directory, spec, None, config)
    if (directory / "vocab.json").is_file():
        spec, config = bpe_spec(directory, config)
        return TokenizerFiles(directory, spec, None, config)
    raise FileNotFoundError(f"{directory}: no tokenizer is there; expected {kinds}")


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start})") from None
    # Only \n ends a line: vocabularies have tokens such as U+2028 that Python takes for line ends too.
    lines = text.replace("\r\n", "\n").split("\n")
    vocabulary = lines[:-1] if lines[-1] == "" else lines
    if not vocabulary:
        raise ValueError(f"{path}: the vocabulary is empty")
    return vocabulary


def read_json(path: Path, missing: Any) -> Any:
    """The object in a JSON file, or `missing` if there is no file; ValueError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return missing
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def write_files(directory: str | os.PathLike, files: Mapping[str, str]) -> None:
    """Write all files aside, then rename each into place, so that none is ever half written."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory}: is a file; name a directory")
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=directory)))
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8", newline="\n")
        for name in files:
            os.replace(aside / name, directory / name)


# ---- Parts of tokenizer.json -------------------------------------------------------------------------------------


def component(spec: Mapping, section: str, *supported: str) -> dict | None:
    """A section of tokenizer.json, None if it is null; ValueError that names a type which is not supported."""
    value = spec.get(section)
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else value
    if kind not in supported:
        raise ValueError(f'tokenizer.json: {section} "{kind}" is not supported; supported: {", ".join(supported)}')
    return value


def options(section: str, value: Mapping, **defaults: Any) -> dict:
    """The options of a component, defaults filled in; ValueError that names an option which is not known."""
    unknown = [name for name in value if name not in defaults and name != "type"]
    if unknown:
        raise ValueError(
            f'tokenizer.json: {section} option "{unknown[0]}" = {value[unknown[0]]!r} is not supported; '
            f"known: {', '.join(defaults) or 'none'}"
        )
    return {**defaults, **{name: value[name] for name in value if name != "type"}}


def parse_vocabulary(vocabulary: Any) -> list[str]:
    """Token -> id as tokens in id order; ValueError if an id is missing or occurs twice."""
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("tokenizer.json: model.vocab: expected an object of tokens and ids")
    tokens: list[str | None] = [None] * len(vocabulary)
    for token, token_id in vocabulary.items():
        if not isinstance(token_id, int) or not 0 <= token_id < len(tokens) or tokens[token_id] is not None:
            raise ValueError(
                f'tokenizer.json: model.vocab: "{token}" has id {token_id!r}; '
                f"expected each of 0 to {len(tokens) - 1} once"
            )
        tokens[token_id] = token
    return tokens


def parse_added_tokens(values: Any) -> list[AddedToken]:
    """The added_tokens section."""
    tokens = []
    for value in values or []:
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise ValueError(f"tokenizer.json: added_tokens: expected objects with content and id, got {value!r:.80}")
        fields = options("added_tokens", value, id=None, content=None, **dict.fromkeys(_ADDED_FIELDS, False))
        tokens.append(AddedToken(**fields))
    return tokens


def added_tokens_json(tokens: tuple[AddedToken, ...]) -> list[dict]:
    """The added_tokens section, in the reference's order of fields."""
    order = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return [{name: getattr(token, name) for name in order} for token in sorted(tokens, key=lambda token: token.id)]


def parse_template(spec: Mapping) -> Template:
    """The post_processor section."""
    value = component(spec, "post_processor", "TemplateProcessing", "BertProcessing")
    if value is None:
        return Template()
    if value["type"] == "BertProcessing":
        ends = options("post_processor", value, sep=None, cls=None)
        try:
            (sep, sep_id), (start, start_id) = ends["sep"], ends["cls"]
        except (TypeError, ValueError):
            raise ValueError("tokenizer.json: post_processor: expected sep and cls, each [token, id]") from None
        return Template.bert((start, start_id), (sep, sep_id))
    value = options("post_processor", value, single=[], pair=[], special_tokens={})
    try:
        parts = {
            name: tuple(_part(item, value["special_tokens"]) for item in value[name]) for name in ("single", "pair")
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tokenizer.json: post_processor: not a valid template: {error!r}") from None
    if not all(any(part.source == "first" for part in parts[name]) for name in parts):
        raise ValueError("tokenizer.json: post_processor: the template leaves out the text ($A)")
    return Template(**parts)


def _part(item: dict, special_tokens: dict) -> Part:
    (kind, fields), *more = item.items()
    if more or kind not in ("Sequence", "SpecialToken"):
        raise ValueError(f"expected Sequence or SpecialToken, got {item!r:.80}")
    if kind == "Sequence":
        return Part(source={"A": "first", "B": "second"}[fields["id"]], type_id=fields["type_id"])
    ids = tuple(special_tokens[fields["id"]]["ids"])
    return Part(source="special", type_id=fields["type_id"], name=fields["id"], ids=ids)


def template_json(template: Template, tokens: list[str]) -> dict:
    """The post_processor section, always as TemplateProcessing."""

    def item(part: Part) -> dict:
        if part.source == "special":
            return {"SpecialToken": {"id": part.name, "type_id": part.type_id}}
        return {"Sequence": {"id": {"first": "A", "second": "B"}[part.source], "type_id": part.type_id}}

    special = {part.name: part.ids for part in (*template.single, *template.pair) if part.source == "special"}
    return {
        "type": "TemplateProcessing",
        "single": [item(part) for part in template.single],
        "pair": [item(part) for part in template.pair],
        "special_tokens": {
            name: {"id": name, "ids": list(ids), "tokens": [tokens[token_id] for token_id in ids]}
            for name, ids in special.items()
        },
    }
