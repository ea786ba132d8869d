"""Where sentences begin: exact places in a text, of which nothing is lost.

A sentence ends behind ". ! ? ..." and closing quotes or brackets, if white space and no lower-case letter follow; behind their
full-width relatives, with or without space; and behind a line. A full stop behind an initial or a usual abbreviation ends none.
That is a rule of thumb: objectives that part texts between sentences need many of them quickly, not every one right.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

# Fixed widths, as look-behind wants; Python tries them only behind a full stop.
_ABBREVIATIONS = (
    ("Mr", "Ms", "Dr", "St", "Jr", "Sr", "No", "vs", "cf", "Nr", "pp", "Lt", "Mt"),
    (
        "Mrs",
        "Col",
        "Gen",
        "Inc",
        "Ltd",
        "Rev",
        "Hon",
        "Sgt",
        "Rep",
        "Sen",
        "Fig",
        "vol",
        "Vol",
        "e.g",
        "i.e",
        "z.B",
        "bzw",
    ),
    ("Prof", "Capt", "Corp", "Dept"),
)
_NO_END = r"(?<!\b[^\W\d_]\.)" + "".join(rf"(?<!\b(?:{'|'.join(map(re.escape, same))})\.)" for same in _ABBREVIATIONS)
_CLOSING = r"[\"'”’»)\]}]*"
# The first place is a set of characters, so that what is between sentences is skipped quickly.
_END = re.compile(
    r"[.!?\n…؟۔।॥。！？｡]"
    rf"(?:(?<=[.!?…؟۔।॥])[.!?…؟۔।॥]*{_NO_END}{_CLOSING}(?=[^\S\n]+(?![a-zß-öø-ÿα-ωа-яё]))"
    r"|(?<=\n)\n*"
    r"|(?<=[。！？｡])[。！？｡]*[」』）”’]*)"
)


def sentence_starts(text: str) -> np.ndarray:
    """Returns the offsets at which a text's sentences begin, in characters, ascending: 0 first.

    A sentence has the white space before it; together they are the text.
    """
    ends = [match.end() for match in _END.finditer(text)]
    if ends and ends[-1] == len(text):
        ends.pop()
    return np.array([0, *ends], np.int64)


def sentences(text: str) -> list[str]:
    """Returns a text's sentences, which joined are the text."""
    starts = [*sentence_starts(text).tolist(), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(starts)]
