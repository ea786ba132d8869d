"""SentencePiece's model files (spiece.model, tokenizer.model, sentencepiece.bpe.model) as the contents of tokenizer.json.

The file is a protocol buffer of few fields, read here. What the family of a model adds to it, numbers of its own for
special tokens as fairseq had them, white space, special tokens around texts, follows the classes of `transformers` 5;
a model of no known family is read by what its own settings say.
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from garden.tokenizers.tokenizer_classes import added_tokens, class_of, content, ends, template, with_defaults

NAMES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "sentencepiece.model")
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_UNIGRAM, _BPE = 1, 2
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX"
)
_MBART += " ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
_MBART50 = "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE"
_MBART50 = f"{_MBART} {_MBART50} ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says."""

    pieces: list[tuple[str, float, int]]  # spelling, score, kind
    model_type: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    unk_piece: str
    bos_piece: str
    eos_piece: str
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def tokens(self, first: int = 0) -> list[tuple[str, float]]:
        """Spellings and scores, from a piece on."""
        return [(piece, score) for piece, score, _ in self.pieces[first:]]

    def of_kind(self, kind: int) -> list[str]:
        """The pieces of a kind."""
        return [piece for piece, _, its in self.pieces if its == kind]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a model file; ValueError if it is none."""
    pieces, trainer, normalizer = [], {}, {}
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
                pieces.append((piece[1].decode("utf-8"), score, piece.get(3, _NORMAL)))
            elif field == 2:
                trainer.update(_fields(value))
            elif field == 3:
                normalizer.update(_fields(value))
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error!r:.80}); is it a pointer of Git LFS?") from None
    if not pieces:
        raise ValueError(f"{path}: not a SentencePiece model: it has no pieces")
    signed = lambda number: number - 2**64 if number >= 2**63 else number
    return SentencePieceModel(
        pieces,
        model_type=trainer.get(3, _UNIGRAM),
        byte_fallback=bool(trainer.get(35, False)),
        unk_id=signed(trainer.get(40, 0)),
        bos_id=signed(trainer.get(41, 1)),
        eos_id=signed(trainer.get(42, 2)),
        unk_piece=trainer.get(45, b"<unk>").decode("utf-8"),
        bos_piece=trainer.get(46, b"<s>").decode("utf-8"),
        eos_piece=trainer.get(47, b"</s>").decode("utf-8"),
        charsmap=normalizer.get(2, b""),
        add_dummy_prefix=bool(normalizer.get(3, True)),
        remove_extra_whitespaces=bool(normalizer.get(4, True)),
        escape_whitespaces=bool(normalizer.get(5, True)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message: number and value, an integer or bytes."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    at = 0
    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of wire type {kind}")
        size = varint() if kind == 2 else 8 if kind == 1 else 4
        if at + size > len(data):
            raise ValueError("the file ends too soon")
        yield key >> 3, data[at : at + size]
        at += size


def sentencepiece_spec(path: Path, config: Mapping[str, Any]) -> tuple[dict, dict]:
    """The contents of tokenizer.json, and tokenizer_config.json with the family's special tokens.

    config: tokenizer_config.json. Raises ValueError for a broken file and for a family that is not supported.
    """
    model = read_sentencepiece(path)
    if model.model_type not in (_UNIGRAM, _BPE):
        kind = {3: "word", 4: "char"}.get(model.model_type, model.model_type)
        raise ValueError(f"{path}: SentencePiece model type {kind} is not supported; supported: unigram, bpe")
    name = class_of(path.parent, config)
    if name is not None and name not in _FAMILIES:
        raise ValueError(
            f"{path.parent}: tokenizer_class {name} is not supported with {path.name}; supported: "
            f"{', '.join(_FAMILIES)}; or save tokenizer.json with transformers"
        )
    if name is not None and (name == "LlamaTokenizer") != (model.model_type == _BPE):
        name = None
    return (_by_own_settings if name is None else _FAMILIES[name])(model, config)


# ---- Families ----------------------------------------------------------------------------------------------------


def _t5(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
    sentinels = [f"<extra_id_{number}>" for number in range(config.get("extra_ids", 100))]
    vocabulary = [*model.tokens(), *((token, 0.0) for token in reversed(sentinels))]
    eos = content(config["eos_token"])
    around = lambda ids: template(f"A {eos}", f"A {eos} B {eos}", ids)
    return _unigram(model, config, vocabulary, 2, around, extra=(*_control(model, config), *sentinels)), config


def _xlm_roberta(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, _ROBERTA)
    vocabulary = [*_fairseq(config), *model.tokens(3), (content(config["mask_token"]), 0.0)]
    return _unigram(model, config, vocabulary, 3, _roberta_template(config)), config


def _camembert(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, {**_ROBERTA, "mask_token": _LEFT_MASK})
    pad, unk, mask = (content(config[f"{role}_token"]) for role in ("pad", "unk", "mask"))
    vocabulary = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
    vocabulary += [*model.tokens(1), (mask, 0.0)]
    unk_id = [token for token, _ in vocabulary].index(unk)
    return _unigram(model, config, vocabulary, unk_id, _roberta_template(config)), config


def _mbart(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, {**_ROBERTA, "mask_token": _LEFT_MASK, "src_lang": "en_XX"})
    vocabulary = [*_fairseq(config), *model.tokens(3), *((code, 0.0) for code in _MBART.split())]
    vocabulary.append((content(config["mask_token"]), 0.0))
    eos, language = content(config["eos_token"]), _language(config, _MBART)
    around = lambda ids: template(f"A {eos} {language}", f"A B {eos} {language}", ids)
    spec = _unigram(model, config, vocabulary, 3, around, extra=_MBART.split())
    return {**spec, "normalizer": None}, config


def _mbart50(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, {**_ROBERTA, "mask_token": _LEFT_MASK, "src_lang": "en_XX"})
    vocabulary = [*_fairseq(config), *model.tokens(3), *((code, 0.0) for code in _MBART50.split())]
    vocabulary.append((content(config["mask_token"]), 0.0))
    eos, language = content(config["eos_token"]), _language(config, _MBART50)
    around = lambda ids: template(f"{language} A {eos}", f"{language} A B {eos}", ids)
    spec = _unigram(model, config, vocabulary, 3, around, extra=_MBART50.split())
    steps = [*_precompiled(model), {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    return {
        **spec,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": _metaspace("always"),
    }, config


def _albert(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    defaults = {f"{role}_token": token for role, token in _ALBERT.items()}
    config = with_defaults(config, defaults)
    cls, sep = content(config["cls_token"]), content(config["sep_token"])
    around = lambda ids: template(f"{cls} A {sep}", f"{cls} A {sep} B {sep}", ids, types=True)
    spec = _unigram(model, config, model.tokens(), 1, around, extra=_control(model, config))
    steps = [{"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")]
    if not config.get("keep_accents", False):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if config.get("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    return {**spec, "normalizer": {"type": "Sequence", "normalizers": [*steps, *_precompiled(model)]}}, config


def _llama(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    config = with_defaults(config, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    ids = {piece: index for index, (piece, _, _) in enumerate(model.pieces)}
    ranked = [
        (index, cut, piece[:cut], piece[cut:])
        for piece, index in ids.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    prefix = config.get("add_prefix_space", True) is not False
    scheme = "never" if not prefix else "always" if config.get("legacy", False) else "first"
    spec = {
        **_EMPTY,
        "added_tokens": _with_user_defined(model, ids, config),
        "normalizer": None,
        "pre_tokenizer": _metaspace(scheme, split=False),
        "post_processor": ends(config, ids),
        "decoder": _decoder(byte_fallback=True, prefix=prefix),
        "model": _bpe(ids, [(left, right) for _, _, left, right in sorted(ranked)], None, byte_fallback=True),
    }
    return spec, config


def _by_own_settings(model: SentencePieceModel, config: Mapping) -> tuple[dict, dict]:
    """As `SentencePieceProcessor` encodes."""
    named = {"unk": (model.unk_id, model.unk_piece), "bos": (model.bos_id, model.bos_piece)}
    named["eos"] = (model.eos_id, model.eos_piece)
    defaults = {f"{role}_token": piece for role, (token_id, piece) in named.items() if token_id >= 0}
    config = with_defaults(config, defaults)
    user_defined = model.of_kind(_USER_DEFINED)
    legacy = config.get("legacy", True)
    ids = {piece: index for index, (piece, _, _) in enumerate(model.pieces)}
    if model.model_type == _BPE:
        normal = {piece: (-score, ids[piece]) for piece, score, kind in model.pieces if kind == _NORMAL}
        ranked = [
            (*rank, piece[:cut], piece[cut:])
            for piece, rank in normal.items()
            for cut in range(1, len(piece))
            if piece[:cut] in normal and piece[cut:] in normal
        ]
        merges = [(left, right) for *_, left, right in sorted(ranked)]
        body = _bpe(ids, merges, model.unk_piece, model.byte_fallback, ignore_merges=bool(user_defined))
    else:
        # The reference reads this one back from a file: see UnigramModel.from_spec.
        body = {"type": "Unigram", "unk_id": model.unk_id, "vocab": [list(entry) for entry in model.tokens()]}
        body["byte_fallback"] = model.byte_fallback
    replace = lambda pattern, by: {"type": "Replace", "pattern": pattern, "content": by}
    steps = _precompiled(model)
    if model.remove_extra_whitespaces:
        steps += [replace({"Regex": r"\A +| +\z"}, ""), replace({"Regex": " {2,}"}, " ")]
    if model.escape_whitespaces:
        steps.append(replace({"String": " "}, _SPACE))
    if model.add_dummy_prefix and legacy:
        steps.append(replace({"Regex": rf"\A{_SPACE}"}, _SPACE * 2))
    splits = [_metaspace("always" if legacy else "first", split=False)] if model.add_dummy_prefix else []
    if user_defined:
        pattern = "|".join(re.escape(piece) for piece in sorted(user_defined, key=len, reverse=True))
        splits.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    spec = {
        **_EMPTY,
        "added_tokens": added_tokens([piece for piece, _ in model.tokens()], config, extra=_control(model, config)),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits} if splits else None,
        "post_processor": ends(config, ids),
        "decoder": _decoder(model.byte_fallback, model.add_dummy_prefix),
        "model": body,
    }
    if model.add_dummy_prefix:  # each text between added tokens has a space of its own
        spec["added_tokens"] = [{**token, "normalized": False} for token in spec["added_tokens"]]
    return spec, config


_FAMILIES: dict[str, Callable[[SentencePieceModel, Mapping], tuple[dict, dict]]] = {
    "T5Tokenizer": _t5,
    "XLMRobertaTokenizer": _xlm_roberta,
    "CamembertTokenizer": _camembert,
    "MBartTokenizer": _mbart,
    "MBart50Tokenizer": _mbart50,
    "AlbertTokenizer": _albert,
    "LlamaTokenizer": _llama,
}

# ---- Parts of tokenizer.json -------------------------------------------------------------------------------------

_EMPTY = {"version": "1.0", "truncation": None, "padding": None}
_ROBERTA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
_ROBERTA |= {"cls_token": "<s>", "mask_token": "<mask>"}
_ALBERT = {
    "bos": "[CLS]",
    "eos": "[SEP]",
    "unk": "<unk>",
    "sep": "[SEP]",
    "pad": "<pad>",
    "cls": "[CLS]",
    "mask": "[MASK]",
}
_LEFT_MASK = {"content": "<mask>", "lstrip": True, "special": True}


def _unigram(model, config, vocabulary, unk_id, around, extra=()) -> dict:
    """The file of a family with words set apart by white space."""
    ids = {token: index for index, (token, _) in enumerate(vocabulary)}
    scheme = "always" if config.get("add_prefix_space", True) is not False else "never"
    precompiled = _precompiled(model)
    return {
        **_EMPTY,
        "added_tokens": added_tokens([token for token, _ in vocabulary], config, extra),
        "normalizer": precompiled[0] if precompiled else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, _metaspace(scheme)],
        },
        "post_processor": around(ids),
        "decoder": _metaspace(scheme),
        "model": {"type": "Unigram", "unk_id": unk_id, "vocab": vocabulary, "byte_fallback": False},
    }


def _bpe(ids, merges, unk_token, byte_fallback, ignore_merges=False) -> dict:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": ids,
        "merges": [list(merge) for merge in merges],
    }


def _names_more(config: Mapping) -> bool:
    """Whether the configuration lists further tokens, which then stand for those that the model's maker defined."""
    return bool(config.get("additional_special_tokens") or config.get("extra_special_tokens"))


def _control(model: SentencePieceModel, config: Mapping) -> list[str]:
    return [] if _names_more(config) else model.of_kind(_CONTROL)


def _with_user_defined(model: SentencePieceModel, ids: Mapping[str, int], config: Mapping) -> list[dict]:
    """Added tokens: control pieces, which are special, and what the model's maker defined, which is not."""
    special = added_tokens(ids, config, extra=_control(model, config))
    known = {token["content"] for token in special}
    if _names_more(config):
        return special
    defined = [{"content": piece, "special": False} for piece in model.of_kind(_USER_DEFINED) if piece not in known]
    listed = {ids[token["content"]]: token for token in defined}
    return sorted([*special, *added_tokens(ids, {"added_tokens_decoder": listed})], key=lambda token: token["id"])


def _precompiled(model: SentencePieceModel) -> list[dict]:
    encoded = base64.b64encode(model.charsmap).decode("ascii")
    return [{"type": "Precompiled", "precompiled_charsmap": encoded}] if encoded else []


def _metaspace(scheme: str, split: bool = True) -> dict:
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": split}


def _decoder(byte_fallback: bool, prefix: bool) -> dict:
    steps = [{"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}] if byte_fallback else []
    steps += [{"type": "Fuse"}] if byte_fallback or prefix else []
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {"type": "Sequence", "decoders": steps}


def _fairseq(config: Mapping) -> list[tuple[str, float]]:
    """The first tokens of the families that fairseq numbered."""
    return [(content(config[f"{role}_token"]), 0.0) for role in ("bos", "pad", "eos", "unk")]


def _roberta_template(config: Mapping) -> Callable[[Mapping[str, int]], dict]:
    bos, eos = content(config["bos_token"]), content(config["eos_token"])
    return lambda ids: template(f"{bos} A {eos}", f"{bos} A {eos} {eos} B {eos}", ids)


def _language(config: Mapping, known: str) -> str:
    language = config["src_lang"]
    if language not in known.split():
        raise ValueError(f'tokenizer_config.json: src_lang: expected one of {known}, got "{language}"')
    return language
