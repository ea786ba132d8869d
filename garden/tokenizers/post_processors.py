"""The post_processor section of tokenizer.json: special tokens around texts, and spans without the space of a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from garden.tokenizers.files import options, parse_template
from garden.tokenizers.template import Part, Template

_SUPPORTED = "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing"


class PostProcessor(NamedTuple):
    """What is done to a text's pieces."""

    template: Template
    trims: tuple[bool, ...]  # spans lose white space, once for each; True: but for a prefix that was not in the text


def parse_post_processor(value: Mapping | None) -> PostProcessor:
    """Read the section; ValueError that names what is not supported."""
    template, trims = None, []
    for component in _flat(value):
        kind = component.get("type")
        made = None
        if kind == "ByteLevel":
            fields = options("post_processor", component, add_prefix_space=True, trim_offsets=True, use_regex=True)
            trims += [fields["add_prefix_space"]] * fields["trim_offsets"]
        elif kind == "RobertaProcessing":
            fields = options("post_processor", component, sep=None, cls=None, trim_offsets=True, add_prefix_space=True)
            trims += [fields["add_prefix_space"]] * fields["trim_offsets"]
            made = _roberta(fields["cls"], fields["sep"])
        elif kind in ("BertProcessing", "TemplateProcessing"):
            made = parse_template({"post_processor": component})
        else:
            raise ValueError(f'tokenizer.json: post_processor "{kind}" is not supported; supported: {_SUPPORTED}')
        if made is not None and template is not None:
            raise ValueError("tokenizer.json: post_processor: a Sequence of two templates is not supported")
        template = made or template
    return PostProcessor(template or Template(), tuple(trims))


def _flat(value: Mapping | None) -> list[Mapping]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ValueError(f"tokenizer.json: post_processor: expected an object, got {value!r:.80}")
    if value.get("type") != "Sequence":
        return [value]
    return [part for item in options("post_processor", value, processors=[])["processors"] for part in _flat(item)]


def _roberta(cls, sep) -> Template:
    """`<s> A </s>` and `<s> A </s></s> B </s>`, all of type 0."""
    try:
        (cls_name, cls_id), (sep_name, sep_id) = cls, sep
    except (TypeError, ValueError):
        raise ValueError("tokenizer.json: post_processor: expected sep and cls, each [token, id]") from None
    start, end = (
        Part(source="special", name=name, ids=(token_id,))
        for name, token_id in ((cls_name, cls_id), (sep_name, sep_id))
    )
    single = (start, Part(source="first"), end)
    return Template(single, (*single, end, Part(source="second"), end))


def with_ends(template: Template, begin: tuple[str, int] | None, end: tuple[str, int] | None) -> Template:
    """The template that transformers makes of add_bos_token and add_eos_token: each text between the two."""

    def around(source: str, type_id: int) -> tuple[Part, ...]:
        parts = [
            Part(source="special", type_id=type_id, name=named[0], ids=(named[1],)) if named else None
            for named in (begin, end)
        ]
        return tuple(part for part in (parts[0], Part(source=source, type_id=type_id), parts[1]) if part)

    return Template(around("first", 0), (*around("first", 0), *around("second", 1)))
