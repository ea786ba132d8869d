"""Labels of words, or of spans of characters, as segments of a text.

A text's segments [S,3] int32 follow one another: where each ends, in characters; the class of its first token; and the class of
the first tokens of its later words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from garden.tasks.entities import OUTSIDE, Scheme
from garden.tasks.labels import class_of, quoted

IGNORED = -1
"""The class of tokens that are in no loss and no metric."""

Segment = tuple[int, int, int]


def segments_of(
    given: Any, text: str, labels: Any, classes: Sequence[str], scheme: Scheme, where: str
) -> list[Segment]:
    """Returns the segments of a text, whose labels are one a word, or spans.

    Args:
        given: the text as a user gave it: a string, or a list of words. text: the same as one string (`text_of`).
        labels: names or ids, a list or with spaces between; or `{"start", "end", "label"}` each.
        classes: the classes' names. scheme: which entities they are of.
        where: what errors call the text.

    Raises ValueError, naming the text and the value, for labels that do not fit.
    """
    labels = labels.split() if isinstance(labels, str) else _plain_list(labels, where)
    if any(isinstance(label, Mapping) for label in labels) or (not labels and isinstance(given, str)):
        if not isinstance(given, str):
            raise ValueError(f"{where}: spans count characters of a string; give words one label each")
        return _of_spans(text, labels, classes, scheme, where)
    words = text.split() if isinstance(given, (str, bytes)) else [decoded(word) for word in given]
    if len(words) != len(labels):
        raise ValueError(f"{where}: expected one label for each of {len(words)} words, got {len(labels)}")
    segments, end = [], -1
    for number, (word, label) in enumerate(zip(words, labels, strict=True)):
        end = len(word) + (text.index(word, max(end, 0)) if isinstance(given, (str, bytes)) else end + 1)
        ignored = isinstance(label, (int, np.integer)) and label == -100
        first = IGNORED if ignored else class_of(label, classes, f"{where}, word {number}")
        segments.append((end, first, IGNORED))
    return segments


def _of_spans(text: str, spans: list, classes: Sequence[str], scheme: Scheme, where: str) -> list[Segment]:
    if not scheme.has_outside:
        raise ValueError(f'labels: spans need a class "{OUTSIDE}" for words outside of them; got {quoted(classes)}')
    outside = list(classes).index(OUTSIDE)
    segments, last = [], 0
    for start, end, label in sorted(_span(span, len(text), where) for span in spans):
        of_span = scheme.classes_of(label)
        if of_span is None:
            raise ValueError(f'{where}: "{label}" is none of the entities ({quoted(scheme.types)})')
        if start < last:
            raise ValueError(f"{where}: the span from {start} to {end} overlaps another; a word has one label")
        # A token may begin with the space before it.
        while start > last and text[start - 1].isspace():
            start -= 1
        if start > last:
            segments.append((start, outside, outside))
        segments.append((end, *of_span))
        last = end
    return [*segments, (2**30, outside, outside)]


def _span(span: Any, length: int, where: str) -> tuple[int, int, str]:
    try:
        start, end, label = span["start"], span["end"], span["label"]
    except (KeyError, TypeError):
        raise ValueError(f'{where}: expected spans {{"start", "end", "label"}}, got {span!r:.60}') from None
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length):
        raise ValueError(f"{where}: expected a span within its {length} characters, got {start!r} to {end!r}")
    return start, end, str(label)


def _plain_list(labels: Any, where: str) -> list:
    if isinstance(labels, (Mapping, bytes)) or not hasattr(labels, "__iter__"):
        raise ValueError(f"{where}: expected a list of labels, one a word, or of spans, got {labels!r:.60}")
    return labels.tolist() if isinstance(labels, np.ndarray) else list(labels)


def text_of(text: Any, index: int) -> str:
    """Returns a text, words joined with spaces; TypeError for anything else."""
    words = [text] if isinstance(text, (str, bytes)) else list(text) if hasattr(text, "__iter__") else [text]
    for word in words:
        if not isinstance(word, (str, bytes)):
            raise TypeError(f"text {index}: expected a string or a list of words, got {text!r:.60}")
    return " ".join(decoded(word) for word in words)


def decoded(word: Any) -> str:
    """Returns a word as a string."""
    return word.decode(errors="replace") if isinstance(word, bytes) else word
