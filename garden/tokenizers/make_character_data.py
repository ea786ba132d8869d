"""Makes `garden/data/characters.npz`: what Hugging Face `tokenizers` does with each Unicode scalar value.

    python -m garden.tokenizers.make_character_data

The reference carries its own Unicode tables (of several versions, in several Rust crates), so asking it about every
scalar value is the only way to agree with it everywhere, and Python's `unicodedata` is never consulted. The file is
rebuilt when the reference changes its tables, which `tests/garden/tokenizers/test_characters.py` would notice.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from garden.tokenizers.characters import DATA_PATH, SCALARS, Flag

# A combining mark of class 1, the lowest, and one of class 240, the highest: whatever changes place with either has a
# combining class itself. The marks between them, in the order that the reference gives them, rank the others.
LOWEST, HIGHEST = "\u0334", "\u0345"


def _normalizer(**flags: bool) -> normalizers.BertNormalizer:
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **flags})


def _sparse(mapping: dict[int, str], prefix: str) -> dict[str, np.ndarray]:
    """Code point -> string as three arrays: keys, lengths, and all the strings' code points."""
    return {
        f"{prefix}_keys": np.array(list(mapping), np.int32),
        f"{prefix}_lengths": np.array([len(text) for text in mapping.values()], np.uint8),
        f"{prefix}_values": np.array([ord(c) for text in mapping.values() for c in text], np.int32),
    }


def _combining_ranks(characters: list[str], decomposed: dict[str, str]) -> dict[str, int]:
    """Character -> rank of its canonical combining class (1 = lowest), for characters that do not decompose."""
    nfd = normalizers.NFD().normalize_str
    swaps = lambda first, second: nfd("a" + first + second) != "a" + first + second
    marks = [c for c in characters if decomposed[c] == c and (swaps(c, LOWEST) or swaps(HIGHEST, c))]
    marks = list(dict.fromkeys([LOWEST, *marks, HIGHEST]))
    classes: list[str] = []  # one mark of each class, lowest first
    ranks: dict[str, int] = {}
    for mark in marks:
        below = [index for index, other in enumerate(classes) if swaps(mark, other)]  # other has a lower class
        above = [index for index, other in enumerate(classes) if swaps(other, mark)]
        if len(below) + len(above) == len(classes):
            classes.insert(len(below), mark)
    for mark in marks:
        ranks[mark] = 1 + sum(swaps(mark, other) for other in classes)
    return ranks


def _word_and_space(characters: list[str]) -> tuple[set[str], set[str]]:
    """The characters that the reference's added tokens take for a word's (single_word) and for white space (rstrip)."""
    model = models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")
    words, spaces = Tokenizer(model), Tokenizer(model)
    words.add_tokens([AddedToken("\U0010fffe", single_word=True, normalized=False)])
    spaces.add_tokens([AddedToken("\U0010fffe", rstrip=True, normalized=False)])
    word = {c for c in characters if 1 not in words.encode("\U0010fffe" + c).ids}
    space = {c for c in characters if spaces.encode("\U0010fffe" + c).offsets[0] == (0, 2)}
    return word, space


CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn"
SCRIPTS = (
    "Arabic Armenian Bengali Cyrillic Devanagari Greek Han Hangul Hebrew Hiragana Katakana Khmer Lao Latin Tamil Thai"
)


def _sets(characters: list[str]) -> dict[str, np.ndarray]:
    """Named sets of characters, each as the differences between the code points where it begins and ends, in turn."""
    text = "".join(characters)

    def of_regex(regex: str) -> set[str]:
        split = pre_tokenizers.Split(Regex(regex + "+"), "removed", invert=True)
        return {c for run, _ in split.pre_tokenize_str(text) for c in run}

    sets = {f"set_{name}": of_regex(rf"\p{{{name}}}") for name in (*CATEGORIES.split(), *SCRIPTS.split())}
    sets["set_word"] = of_regex(r"\w")
    digits = pre_tokenizers.Digits(individual_digits=False)
    accents = normalizers.StripAccents()
    sets["set_numeric"] = {c for c in characters if len(digits.pre_tokenize_str("a" + c)) == 2}
    sets["set_mark"] = {c for c in characters if accents.normalize_str(c) == ""}
    # A map of every first byte to "X": what comes out tells how the reference divides text into grapheme clusters.
    units = np.zeros(1024, np.uint32)
    units[0] = 256 << 10
    bytes_ = np.arange(1, 256, dtype=np.uint32)
    units[256 ^ bytes_] = bytes_ | (1 << 8) | (512 << 10)
    clusters = normalizers.Precompiled(struct.pack("<I", units.nbytes) + units.tobytes() + b"X\0").normalize_str
    joined = [c for c in characters if c != "\0"]
    sets["set_extend"] = {c for c in joined if clusters("a" + c) == "X"}
    sets["set_prepend"] = {c for c in joined if clusters(c + "a") == "X"}
    sets["set_control"] = {c for c in joined if clusters(c + "\u0300\u0301") == "XX"} | {"\0"}
    edges = {}
    for name, members in sets.items():
        inside = np.zeros(SCALARS + 2, np.int8)
        inside[[ord(c) + 1 for c in members]] = 1
        edges[name] = np.diff(np.flatnonzero(np.diff(inside)), prepend=0).astype(np.int32)
    return edges


def _normal_forms(characters: list[str]) -> dict[str, np.ndarray]:
    """Decompositions but for Hangul's syllables, and the pairs of characters that compose."""
    nfc, nfd, nfkd = (form.normalize_str for form in (normalizers.NFC(), normalizers.NFD(), normalizers.NFKD()))
    canonical = {c: nfd(c) for c in characters if not "\uac00" <= c <= "\ud7a3" and nfd(c) != c}
    compatible = {c: nfkd(c) for c in characters if nfkd(c) != nfd(c)}
    pairs = [(nfc(text[:-1]), text[-1], c) for c, text in canonical.items() if len(text) > 1 and nfc(text) == c]
    assert all(len(first) == 1 for first, _, _ in pairs)
    return {
        **_sparse({ord(c): text for c, text in canonical.items()}, "nfd"),
        **_sparse({ord(c): text for c, text in compatible.items()}, "nfkd"),
        "pairs": np.array([[ord(c) for c in pair] for pair in sorted(pairs)], np.int32),
    }


def main() -> None:
    """Probe the installed reference and replace the packaged table."""
    characters = [chr(point) for point in range(SCALARS) if not 0xD800 <= point < 0xE000]
    clean, strip = _normalizer(clean_text=True).normalize_str, _normalizer(strip_accents=True).normalize_str
    lower, chinese = _normalizer(lowercase=True).normalize_str, _normalizer(handle_chinese_chars=True).normalize_str
    nfd, split = normalizers.NFD().normalize_str, pre_tokenizers.BertPreTokenizer().pre_tokenize_str

    decomposed = {c: nfd(c) for c in characters}
    word, space = _word_and_space(characters)
    flags = np.zeros(SCALARS, np.uint8)
    for c in characters:
        cleaned = clean(c)
        pieces = len(split("a" + c + "b"))  # "acb", "a b" or "a", c, "b"
        flags[ord(c)] = (
            Flag.CLEANED * (cleaned == "")
            + Flag.BLANKED * (cleaned == " ")
            + Flag.CHINESE * (chinese(c) != c)
            + Flag.SEPARATOR * (pieces == 2)
            + Flag.PUNCTUATION * (pieces == 3)
            + Flag.WORD * (c in word)
            + Flag.SPACE * (c in space)
        )
    ranks = _combining_ranks(characters, decomposed)
    combining = {c: ranks.get(decomposed[c][0], 0) for c in characters}
    arrays = {
        "flags": flags,
        "combining_keys": np.array([ord(c) for c, rank in combining.items() if rank], np.int32),
        "combining_ranks": np.array([rank for rank in combining.values() if rank], np.uint8),
        **_sparse({ord(c): strip(c) for c in characters if strip(c) != c}, "strip"),
        **_sparse({ord(c): lower(c) for c in characters if lower(c) != c}, "lower"),
        **_sets(characters),
        **_normal_forms(characters),
    }
    # Nothing below a packaged file may be half written: write aside, then rename.
    aside = Path(DATA_PATH).with_suffix(".partial.npz")
    np.savez_compressed(aside, **arrays)
    os.replace(aside, DATA_PATH)
    logging.getLogger(__name__).info("%s: %d bytes", DATA_PATH, os.path.getsize(DATA_PATH))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
