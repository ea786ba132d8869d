"""Vocabularies, trained by Hugging Face `tokenizers`: WordPiece (BERT), byte-level BPE (GPT-2, RoBERTa), Unigram (T5).

The same texts give the same files. Text waits in a temporary file between the two passes over it (characters, then pieces), so
memory is bounded by the number of distinct words.
"""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from garden.checkpoints.huggingface import whole_directory
from garden.tokenizers.files import write_files
from garden.tokenizers.tokenizer_classes import template as template_section

KINDS = ("wordpiece", "bpe", "unigram")
TEMPLATES = ("bert", "gpt2", "roberta", "t5")
COVERAGE = 0.9999
SENTINELS = 100
_ALPHABET_OF_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_BLOCK = 1 << 20  # characters that are handed to `tokenizers` at once

_Blocks = Callable[[], Iterator[list[str]]]
_Made = tuple[
    dict[str, Any], dict[str, Any], dict[str, str]
]  # tokenizer.json, tokenizer_config.json, other files' texts


@dataclass(frozen=True)
class Trained:
    """A trained vocabulary: its `files` by name, and what it was trained on."""

    files: dict[str, str]
    kind: str
    size: int
    documents: int
    bytes: int
    characters: int  # distinct ones that have pieces of their own
    left_out: int  # occurrences of characters too rare to have one


def train_vocabulary(
    texts: Iterable[str],
    *,
    kind: str,
    size: int,
    template: str | None = None,
    lower_case: bool = False,
    coverage: float = COVERAGE,
) -> Trained:
    """Trains a vocabulary of `size` tokens, special tokens included; of a small corpus it may have fewer.

    Args:
        texts: the documents.
        kind: one of `KINDS`.
        template: special tokens and where they stand. wordpiece: "bert"; bpe: "gpt2" (default) or "roberta"; unigram: "t5".
        lower_case: letters are lower-cased, and for wordpiece accents removed, as in bert-base-uncased.
        coverage: share of all characters that have pieces of their own; the rarest of the others are unknown. bpe knows all.

    Raises ValueError for options that do not go together, for an empty corpus, and for a size without room for the special
    tokens and single characters.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    fitting = {"wordpiece": ("bert",), "bpe": ("gpt2", "roberta"), "unigram": ("t5",)}[kind]
    template = template or fitting[0]
    if template not in fitting:
        raise ValueError(f'template: expected {" or ".join(fitting)} with kind {kind}, got "{template}"')
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage: expected a share above 0 and up to 1, got {coverage}")
    normalize = _normalization(kind, lower_case)
    with _kept(texts, normalize if kind == "unigram" else str) as corpus:
        if not corpus.documents:
            raise ValueError("vocabulary: the corpus is empty; there is no document to learn from")
        alphabet = _ALPHABET_OF_BYTES
        rare, left_out = "", 0
        if kind != "bpe":
            alphabet, rare, left_out = corpus.alphabet(normalize, coverage)
        make = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[kind]
        spec, config, more = make(lambda: corpus.blocks(rare), alphabet, size, template, lower_case)
        spec = {**spec, "truncation": None, "padding": None}
        files = {
            "tokenizer.json": json.dumps(spec, ensure_ascii=False, indent=2) + "\n",
            "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
            **more,
        }
        made = Tokenizer.from_str(files["tokenizer.json"]).get_vocab_size()
        return Trained(files, kind, made, corpus.documents, corpus.bytes, len(alphabet), left_out)


def check_target(directory: str | os.PathLike) -> None:
    """Raises ValueError unless a vocabulary can be written to a directory: there is none yet, or it is empty."""
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory}: is there already, and not an empty directory; give another one to write to")


def write_vocabulary(trained: Trained, directory: str | os.PathLike) -> None:
    """Writes the files; all of them are there, or none. Errors as `check_target`."""
    check_target(directory)
    directory = Path(directory)
    if directory.is_dir():
        directory.rmdir()
    with whole_directory(directory) as aside:
        write_files(aside, trained.files)


def limited(texts: Iterable[str], *, documents: int | None = None, most_bytes: int | None = None) -> Iterator[str]:
    """Yields texts until there were so many documents, or so many bytes of UTF-8."""
    left = most_bytes
    for number, text in enumerate(texts):
        if (documents is not None and number >= documents) or (left is not None and left <= 0):
            return
        yield text
        if left is not None:
            left -= len(text.encode())


# ---- The corpus, kept aside --------------------------------------------------------------------------------------


class _Corpus:
    """Texts in a temporary file, NUL between them."""

    def __init__(self, file: Any):
        self._file = file
        self.documents = self.bytes = 0
        self.counts: Counter[str] = Counter()

    def add(self, text: str, normalize: Callable[[str], str]) -> None:
        text = text.replace("\0", " ").strip()
        if not text:
            return
        kept = normalize(text).encode("utf-8", errors="replace")
        self.documents += 1
        self.bytes += len(text.encode("utf-8", errors="replace"))
        self._file.write(kept + b"\0")

    def texts(self) -> Iterator[str]:
        self._file.seek(0)
        rest = b""
        while block := self._file.read(_BLOCK):
            *whole, rest = (rest + block).split(b"\0")
            yield from (text.decode("utf-8") for text in whole)

    def alphabet(self, normalize: Callable[[str], str], coverage: float) -> tuple[list[str], str, int]:
        """Returns the characters that texts have after normalisation, sorted, without the rarest ones; which of the texts' own
        characters become those; how often these occur."""
        raw: Counter[str] = Counter()
        for text in self.texts():
            raw.update(text)
        becomes = {character: normalize(character).replace(" ", "") for character in raw if not character.isspace()}
        counts: Counter[str] = Counter()
        for character, normal in becomes.items():
            for each in normal:
                counts[each] += raw[character]
        allowed = int(sum(counts.values()) * (1 - coverage) + 1e-6)
        rare: set[str] = set()
        left_out = 0
        for character, count in sorted(counts.items(), key=lambda item: (item[1], -ord(item[0]))):
            left_out += count
            if left_out > allowed:
                left_out -= count
                break
            rare.add(character)
        return sorted(set(counts) - rare), "".join(c for c, normal in becomes.items() if rare & set(normal)), left_out

    def blocks(self, rare: str) -> Iterator[list[str]]:
        """Yields the texts, without rare characters, some at a time."""
        without = str.maketrans("", "", rare)
        some, length = [], 0
        for text in self.texts():
            some.append(text.translate(without) if rare else text)
            length += len(text)
            if length >= _BLOCK:
                yield some
                some, length = [], 0
        if some:
            yield some


@contextmanager
def _kept(texts: Iterable[str], normalize: Callable[[str], str]) -> Iterator[_Corpus]:
    with tempfile.TemporaryFile() as file:
        corpus = _Corpus(file)
        for text in texts:
            corpus.add(text, normalize)
        yield corpus


def _normalization(kind: str, lower_case: bool) -> Callable[[str], str]:
    """Returns what tokenizer.json's normalizer does to a text, or for wordpiece to a character."""
    if kind == "wordpiece":
        return _bert_normalizer(lower_case).normalize_str
    lower = normalizers.Lowercase().normalize_str if lower_case else str
    return lambda text: lower(unicodedata.normalize("NFKC", text))


# ---- Kinds -------------------------------------------------------------------------------------------------------


def _wordpiece(blocks: _Blocks, alphabet: list[str], size: int, template: str, lower_case: bool) -> _Made:
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = list(roles.values())
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _bert_normalizer(lower_case), pre_tokenizers.BertPreTokenizer()
    inner = [each for each in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str("a" + each)) == 1]
    # The trainer numbers inner characters as it meets them in a hash table, and settles ties by number: told all of them
    # beforehand, it gives the same vocabulary each time.
    first = [*special, *alphabet, *(f"##{each}" for each in inner)]
    _enough(
        size,
        len(first),
        f"{len(special)} special tokens and {len(alphabet)} characters, at the start of words and inside",
    )
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(blocks(), trainer)
    vocabulary = tokenizer.get_vocab()
    tokenizer = _rebuilt(tokenizer, models.WordPiece(vocabulary, unk_token="[UNK]"), special)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = _post_processor("[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]", vocabulary, types=True)
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case, **_named(roles)}
    lines = "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get))
    return json.loads(tokenizer.to_str()), config, {"vocab.txt": lines}


def _bpe(blocks: _Blocks, alphabet: list[str], size: int, template: str, lower_case: bool) -> _Made:
    if template == "gpt2":
        roles = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
    else:
        roles = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
        roles |= {"cls": "<s>", "sep": "</s>"}
    special = list(dict.fromkeys(roles.values()))
    _enough(
        size,
        len(special) + len(alphabet),
        f"{len(special)} special token{'s' * (len(special) > 1)} and {len(alphabet)} bytes",
    )
    tokenizer = Tokenizer(models.BPE())
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(blocks(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ids = model["vocab"]
    tokenizer = _rebuilt(tokenizer, tokenizer.model, special)
    tokenizer.decoder = decoders.ByteLevel()
    if template == "gpt2":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        # Reads the space before a masked word too, as RoBERTa's does.
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
        ends = [(token, ids[token]) for token in ("</s>", "<s>")]
        tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, **_named(roles)}
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    more = {"vocab.json": json.dumps(ids, ensure_ascii=False), "merges.txt": f"#version: 0.2\n{merges}"}
    return json.loads(tokenizer.to_str()), config, more


def _unigram(blocks: _Blocks, alphabet: list[str], size: int, template: str, lower_case: bool) -> _Made:
    roles = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(SENTINELS))]
    outside = len(roles) + SENTINELS
    alphabet = sorted({*alphabet, "▁"})
    _enough(size, outside + len(alphabet), f"{outside} special tokens and {len(alphabet)} characters")
    tokenizer = Tokenizer(models.Unigram())
    steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lower_case else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    # As T5's: runs of white space are one space.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=size - outside, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(blocks(), trainer)
    learnt = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "<unk>"]
    pieces = [
        *((token, 0.0) for token in roles.values()),
        *_settled(learnt, size - outside),
        *((token, 0.0) for token in sentinels),
    ]
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    tokenizer = _rebuilt(tokenizer, models.Unigram(pieces, unk_id=ids["<unk>"]), [*roles.values(), *sentinels])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = _post_processor("A </s>", "A </s> B </s>", ids)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_ids": SENTINELS,
        "additional_special_tokens": sentinels[::-1],
        **_named(roles),
    }
    return json.loads(tokenizer.to_str()), config, {}


def _settled(learnt: list[tuple[str, float]], most: int) -> list[tuple[str, float]]:
    """Returns pieces in order of their scores, without what depends on the order of a hash table: the last digits of sums, and
    which of the characters that no text needs as pieces has the lowest score. Characters come before other pieces among the
    `most` that are kept: the trainer gives more than it is asked for where there is room for characters only."""
    floor = min(score for _, score in learnt)
    singles = sum(len(piece) == 1 for piece, _ in learnt)
    above = floor + 1e-4 * (singles + 1)  # the trainer counts up from the floor in steps of 0.0001
    settled = [(piece, round(floor if len(piece) == 1 and score < above else score, 6)) for piece, score in learnt]
    kept = sorted(settled, key=lambda item: (len(item[0]) > 1, -item[1], item[0]))[:most]
    return sorted(kept, key=lambda item: (-item[1], item[0]))


# ---- Parts of tokenizer.json -------------------------------------------------------------------------------------


def _bert_normalizer(lower_case: bool) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(lowercase=lower_case)


def _rebuilt(trained: Tokenizer, model: models.Model, special: list[str]) -> Tokenizer:
    """Returns a tokenizer of a trained model that knows which tokens are special."""
    tokenizer = Tokenizer(model)
    if trained.normalizer is not None:
        tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def _post_processor(single: str, pair: str, ids: dict[str, int], *, types: bool = False) -> processors.PostProcessor:
    section = template_section(single, pair, ids, types)
    return processors.TemplateProcessing(
        single=[_spelled(part) for part in section["single"]],
        pair=[_spelled(part) for part in section["pair"]],
        special_tokens=[(token, ids[token]) for token in section["special_tokens"]],
    )


def _spelled(part: dict[str, dict[str, Any]]) -> str:
    (kind, fields), *_ = part.items()
    return f"{'$' * (kind == 'Sequence')}{fields['id']}:{fields['type_id']}"


def _named(roles: dict[str, str]) -> dict[str, str]:
    return {f"{role}_token": token for role, token in roles.items()}


def _enough(size: int, needed: int, what: str) -> None:
    if size < needed:
        raise ValueError(f"size: {size} tokens are too few for {what}; give at least {needed}")
