"""BertNormalizer and BertPreTokenizer as tables over code points, for one choice of flags and one vocabulary.

Every code point maps to an entry, an int32 of bit fields: a code (the character that it becomes, numbered within the
vocabulary's alphabet; 0 = the vocabulary has no such character) and what it does to the words around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from garden.tokenizers.characters import SCALARS, CharacterData, CodePointTable, Flag

CODE = (1 << 20) - 1  # bits of the code
WORD_BIT = 1 << 20  # \w to added tokens
JOINS_BIT = 1 << 21  # does not begin a run of combining marks: it is one itself, or is removed before normalisation
BEGINS_BIT = 1 << 22  # an added token begins with this character
CLASS_SHIFT = 23
# Classes: part of a word; between words; a word of its own; nothing; several characters (the code is then an index).
IN_WORD, SEPARATOR, ISOLATED, REMOVED, EXPANDED = (index << CLASS_SHIFT for index in range(5))

# Private code points, above Unicode's: one that vanishes, then one for each added token.
VANISHING = SCALARS
FIRST_TOKEN = SCALARS + 1


@dataclass(frozen=True)
class CharacterTables:
    """The tables of one tokenizer."""

    entries: CodePointTable
    expansion_starts: np.ndarray  # [expanding characters + 1] int32, ranges of:
    expansion_entries: np.ndarray  # int32
    mark_ranks: np.ndarray  # [codes] int32: rank of the combining class, 0 for other characters


def normalize(text: str, data: CharacterData, *, clean: bool, chinese: bool, strip: bool, lowercase: bool) -> str:
    """BertNormalizer for one short string such as an added token's content, by the same data as the graph."""
    points = [ord(c) for c in text]
    if clean:
        flags = data.flags
        points = [32 if flags[p] & Flag.BLANKED else p for p in points if not flags[p] & Flag.CLEANED]
    if chinese:
        points = [q for p in points for q in ((32, p, 32) if data.flags[p] & Flag.CHINESE else (p,))]
    if strip:
        mapping = _mapping(data.strip, set(points))
        runs: list[list[int]] = []
        for p in points:
            if not runs or not data.combining[p]:
                runs.append([])
            runs[-1].extend(mapping.get(p, (p,)))
        points = [p for run in runs for p in sorted(run, key=lambda point: int(data.combining[point]))]
    if lowercase:
        mapping = _mapping(data.lower, set(points))
        points = [q for p in points for q in mapping.get(p, (p,))]
    return "".join(map(chr, points))


def _mapping(sparse, wanted: set[int]) -> dict[int, tuple[int, ...]]:
    keys, lengths, values = sparse
    ends = np.cumsum(lengths)
    rows = np.flatnonzero(np.isin(keys, list(wanted)))
    return {int(keys[row]): tuple(values[ends[row] - lengths[row] : ends[row]].tolist()) for row in rows}


def character_tables(
    data: CharacterData,
    alphabet: np.ndarray,
    added_tokens: int,
    begins: np.ndarray,
    spell_spaces: bool,
    *,
    clean: bool,
    chinese: bool,
    strip: bool,
    lowercase: bool,
) -> CharacterTables:
    """Compile the flags and the alphabet.

    alphabet: the code points that have codes 1, 2, ...; the added tokens' codes follow. begins: code points that begin
    an added token. spell_spaces: ideographs come with the spaces that set them apart, because an added token that is
    matched after normalisation may take them in; otherwise they are words of their own.
    """
    flags = data.flags
    code_of = np.zeros(SCALARS, np.int32)
    code_of[alphabet] = np.arange(1, len(alphabet) + 1)
    separator, punctuation = (flags & Flag.SEPARATOR) > 0, (flags & Flag.PUNCTUATION) > 0
    # An entry for each character as an outcome of normalisation.
    outcome = code_of + np.where(separator, SEPARATOR, np.where(punctuation, ISOLATED, IN_WORD))
    outcome += WORD_BIT * ((flags & Flag.WORD) > 0)

    becomes = np.arange(SCALARS, dtype=np.int32)  # where that is one character
    expansions: dict[int, np.ndarray] = {}
    removed = np.zeros(SCALARS, bool)
    for sparse in [data.strip] * strip + [data.lower] * lowercase:
        keys, lengths, values = sparse
        ends = np.cumsum(lengths)
        one = lengths == 1
        change = np.arange(SCALARS, dtype=np.int32)
        change[keys[one]] = values[ends[one] - 1]
        several = {int(keys[row]): values[ends[row] - lengths[row] : ends[row]] for row in np.flatnonzero(lengths > 1)}
        becomes = change[becomes]
        expansions = {key: change[string] for key, string in expansions.items()}
        if several:
            for key in np.flatnonzero(np.isin(becomes, list(several))).tolist():
                expansions.setdefault(key, several[int(becomes[key])])
        removed[keys[lengths == 0]] = True

    ideographs = np.flatnonzero(flags & Flag.CHINESE) if chinese else []
    if spell_spaces:
        expansions.update((int(point), np.array([32, becomes[point], 32])) for point in ideographs)
    entries = outcome[becomes]
    order = sorted(expansions)
    entries[order] = EXPANDED + np.arange(len(order), dtype=np.int32)
    entries[removed] = REMOVED
    if not spell_spaces:  # no part of a word to added tokens either
        entries[ideographs] = (entries[ideographs] & CODE) + ISOLATED
    joins = data.combining > 0
    if clean:
        cleaned = (flags & Flag.CLEANED) > 0
        entries[(flags & Flag.BLANKED) > 0] = outcome[ord(" ")]
        entries[cleaned] = REMOVED
        joins = (joins & ~((flags & Flag.BLANKED) > 0)) | cleaned
    entries[joins] |= JOINS_BIT
    entries[begins] |= BEGINS_BIT
    tokens = np.arange(added_tokens, dtype=np.int32) + len(alphabet) + 1 + ISOLATED
    entries = np.concatenate([entries, [REMOVED + JOINS_BIT], tokens]).astype(np.int32)

    strings = [expansions[key] for key in order]
    strings.append(np.zeros(1, np.int32))  # so that the tables are never empty
    flat = np.concatenate(strings)
    ranks = np.zeros(len(alphabet) + added_tokens + 1, np.int32)
    if strip:
        ranks[1 : len(alphabet) + 1] = data.combining[alphabet]
    return CharacterTables(
        entries=CodePointTable(entries),
        expansion_starts=np.cumsum([0, *map(len, strings)], dtype=np.int32),
        expansion_entries=outcome[flat].astype(np.int32),
        mark_ranks=ranks,
    )
