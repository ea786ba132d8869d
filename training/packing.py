"""Documents into rows of T tokens, nearly without padding: several short ones a row, long ones in pieces.

Streaming: a bounded number of rows is open at a time. What comes out is a function of the documents and their order alone.
Attention and positions are kept apart by segment numbers, so that a packed text gives what it gives alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

OPEN_ROWS = 256
LEAST_PIECE = 12
"""Tokens that a piece has at least, where a document is split to fill a row: shorter ones teach nothing."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What stands round texts in rows.

    `single`: `prefix` and `suffix` round each segment, as the tokenizer's template says. `pair`: the same with the last special
    token twice. `causal`: `prefix` and `suffix` round each document; where it is cut, the next segment begins with the last
    token of the one before (`carry`), so that each token is predicted once.
    """

    name: str
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @property
    def carry(self) -> bool:
        """Whether segments of one document overlap by a token, and only its ends have special tokens."""
        return self.name == "causal"

    @property
    def overhead(self) -> int:
        """Special tokens of each segment."""
        return 0 if self.carry else len(self.prefix) + len(self.suffix)

    @property
    def shortest_row(self) -> int:
        """Places that a row needs for anything to fit."""
        return len(self.prefix) + len(self.suffix) + 2


@dataclass
class Counts:
    """What packing did: nothing is lost silently."""

    documents: int = 0
    tokens: int = 0  # of documents, without special tokens
    empty: int = 0  # documents without a token, left out
    cut: int = 0  # cuts of documents longer than a row
    filling: int = 0  # cuts of pieces to fill a row
    rows: int = 0
    places: int = 0
    real: int = 0  # places that are no padding

    @property
    def fill(self) -> float:
        """Share of all places that hold a token."""
        return self.real / self.places if self.places else 0.0

    def add(self, other: Counts) -> None:
        """Adds another part's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(slots=True, eq=False)
class _Document:
    """What is put into rows, whole or in pieces: a text, with the layout's special tokens round it where that is causal."""

    ids: np.ndarray  # [L] uint32
    starts: np.ndarray | None  # [L] bool: sentences begin here


@dataclass(slots=True, eq=False)
class _OpenRow:
    free: int
    number: int
    pieces: list[tuple[_Document, int, int]] = field(default_factory=list)  # begin and end in the document


@dataclass
class Rows:
    """Rows of T places, ready to be kept: `token_ids` [R,T] uint32; `segment_starts`, `sentence_starts`, `special` [R,T] bool;
    `real` [R] int32, how many places of each row hold a token: they come first."""

    token_ids: np.ndarray
    segment_starts: np.ndarray
    sentence_starts: np.ndarray
    special: np.ndarray
    real: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)


class Packer:
    """Packs documents into rows; `add` and `finish` give rows as they are full.

    A document longer than a row is cut. A piece goes into the open row that it fills, or that it leaves room in for another
    piece; where there is none, and `open_rows` are open, its first part fills a row and the rest looks for another.

    Args:
        length: T.
        layout: what stands round texts.
        open_rows: rows that wait for pieces at a time.
        least_piece: tokens of a part at least, where a piece is split to fill a row.

    Raises ValueError for a T that the layout's special tokens do not leave room in.
    """

    def __init__(self, length: int, layout: Layout, *, open_rows: int = OPEN_ROWS, least_piece: int = LEAST_PIECE):
        if length < layout.shortest_row:
            raise ValueError(
                f"sequence_length: {length} places have no room for the {layout.name} layout's "
                f"{len(layout.prefix) + len(layout.suffix)} special tokens and a text; give at least {layout.shortest_row}"
            )
        self.length, self.layout = length, layout
        # In short rows a tenth of the row is as much as may stay empty.
        self.open_rows, self.least_piece = open_rows, max(min(least_piece, length // 10), 1)
        self.counts = Counts()
        self._open: list[tuple[int, int, _OpenRow]] = []  # free places, number, row: the fullest first
        self._made = 0
        # What the layout says, as plain attributes: each document asks many times.
        self._carry, self._overhead, self._overlap = layout.carry, layout.overhead, int(layout.carry)
        self._least_room = self._overhead + self.least_piece + self._overlap
        """Free places that are worth keeping a row open for."""
        self._around = tuple(np.asarray(ids, np.uint32) for ids in (layout.prefix, layout.suffix))

    def add(self, ids: np.ndarray, sentence_starts: np.ndarray | None = None) -> Iterator[_OpenRow]:
        """Takes one document: ids [L] without special tokens, and which of them begin a sentence [L]; yields full rows."""
        counts, count = self.counts, len(ids)
        counts.documents += 1
        counts.tokens += count
        if not count:
            counts.empty += 1
            return
        if self._carry:
            prefix, suffix = self._around
            if sentence_starts is not None:
                sentence_starts = np.pad(np.asarray(sentence_starts, bool), (len(prefix), len(suffix)))
            whole = np.concatenate([prefix, ids, suffix], dtype=np.uint32, casting="unsafe")
            document = _Document(whole, sentence_starts)
        else:  # copies: what the ids are a part of is not to wait in open rows
            starts = None if sentence_starts is None else np.array(sentence_starts, bool)
            document = _Document(np.array(ids, np.uint32), starts)
        room = self.length - self._overhead
        begin, end = 0, len(document.ids)
        while end - begin > room:
            counts.cut += 1
            row = self._new_row()
            self._put(row, document, begin, begin + room)
            yield self._closed(row)
            begin += room - self._overlap
        yield from self._placed(document, begin, end)

    def finish(self) -> Iterator[_OpenRow]:
        """Yields the rows that are still open, after what the emptiest of them hold has filled the others."""
        while self._open:
            *_, row = self._open.pop()
            held = sum(end - begin for _, begin, end in row.pieces)
            # Where the others have room for all of it, and for the special tokens of more pieces, they take it.
            if sum(max(free - self._least_room, 0) for free, *_ in self._open) < 2 * held:
                yield self._closed(row)
                continue
            made = self._made
            for piece in row.pieces:
                yield from self._placed(*piece, most=0)
            # A piece that fitted nowhere has a row of its own: it would be taken apart again without end.
            for new in [each for each in self._open if each[1] > made]:
                self._open.remove(new)
                yield self._closed(new[-1])

    def _placed(self, document: _Document, begin: int, end: int, most: int | None = None) -> Iterator[_OpenRow]:
        """Puts a piece into rows: whole where a row is then full or still has room for others, else in parts."""
        opened, overhead, overlap, least, least_room = (
            self._open,
            self._overhead,
            self._overlap,
            self.least_piece,
            self._least_room,
        )
        most = self.open_rows if most is None else most
        while True:
            left = end - begin
            need = left + overhead
            # Places in the list of the fullest rows that have so much room left.
            exact = bisect_left(opened, (need,))
            roomy = bisect_left(opened, (need + least_room,))
            if exact < len(opened) and opened[exact][0] == need:
                *_, row = opened.pop(exact)
            elif roomy < len(opened):
                *_, row = opened.pop(roomy)
            elif len(opened) < most and (need == self.length or need <= self.length - least_room):
                row = self._new_row()
            elif (fitting := bisect_left(opened, (left - least + overlap + overhead + 1,)) - 1) >= 0:
                # The largest room that a first part of this piece fills, with a rest that is a piece too.
                *_, row = opened.pop(fitting)
                part = row.free - overhead
                self.counts.filling += 1
                self._put(row, document, begin, begin + part)
                begin += part - overlap
                yield self._closed(row)
                continue
            else:
                row = opened.pop(exact)[-1] if exact < len(opened) else self._new_row()
            self._put(row, document, begin, end)
            if row.free < least_room:
                yield self._closed(row)
            else:
                insort(opened, (row.free, row.number, row))
            return

    def _new_row(self) -> _OpenRow:
        self._made += 1
        return _OpenRow(self.length, self._made)

    def _put(self, row: _OpenRow, document: _Document, begin: int, end: int) -> None:
        row.free -= end - begin + self._overhead
        row.pieces.append((document, begin, end))

    def _closed(self, row: _OpenRow) -> _OpenRow:
        self.counts.rows += 1
        self.counts.places += self.length
        self.counts.real += self.length - row.free
        return row

    def laid_out(self, rows: Iterable[_OpenRow]) -> Rows:
        """Returns full rows as arrays."""
        rows = list(rows)
        real = np.array([self.length - row.free for row in rows], np.int32)
        shape = (len(rows), self.length)
        made = Rows(np.zeros(shape, np.uint32), *(np.zeros(shape, bool) for _ in range(3)), real)
        if not rows:
            return made
        pieces = [piece for row in rows for piece in row.pieces]
        lengths = np.array([end - begin for _, begin, end in pieces]) + self._overhead
        before, after = map(len, self._around)
        if self._carry:
            front = np.array([max(before - begin, 0) for _, begin, _ in pieces])
            back = np.array([max(end - len(document.ids) + after, 0) for document, _, end in pieces])
            front, back = np.minimum(front, lengths), np.minimum(back, lengths)  # a cut may fall among special tokens
        else:
            front, back = np.full(len(pieces), before), np.full(len(pieces), after)
        texts = lengths - front - back
        special = np.repeat(np.tile([True, False, True], len(pieces)), np.stack([front, texts, back], axis=1).ravel())
        filled = np.arange(self.length) < real[:, None]
        made.special[filled] = special

        begins = np.cumsum(lengths) - lengths
        # Where the documents' own ids stand: everywhere, or round which the layout puts its own.
        own = np.full(len(special), True) if self._carry else ~special
        ids, segment_starts, sentence_starts = (np.zeros(len(special), kind) for kind in (np.uint32, bool, bool))
        ids[own] = np.concatenate([document.ids[begin:end] for document, begin, end in pieces])
        if not self._carry:
            ids[special] = np.tile(np.concatenate(self._around), len(pieces))
        segment_starts[begins] = True
        if any(document.starts is not None for document, _, _ in pieces):
            sentence_starts[own] = np.concatenate(
                [
                    np.zeros(end - begin, bool) if document.starts is None else document.starts[begin:end]
                    for document, begin, end in pieces
                ]
            )
        # A piece's first token begins a sentence, or what is left of one.
        sentence_starts[(begins + front)[texts > 0]] = True
        made.token_ids[filled] = ids
        made.segment_starts[filled] = segment_starts
        made.sentence_starts[filled] = sentence_starts
        return made


def pack(
    documents: Iterable[tuple[np.ndarray, np.ndarray | None]],
    length: int,
    layout: Layout,
    *,
    at_once: int = 1024,
    **options: int,
) -> Iterator[Rows]:
    """Packs a stream of documents (ids [L], sentence starts [L] or None) and yields `at_once` rows at a time; see `Packer`."""
    packer = Packer(length, layout, **options)
    full: list[_OpenRow] = []
    for ids, starts in documents:
        full.extend(packer.add(ids, starts))
        if len(full) >= at_once:
            yield packer.laid_out(full)
            full = []
    full.extend(packer.finish())
    if full:
        yield packer.laid_out(full)


def batch_of(rows: Rows, pad_id: int) -> dict[str, np.ndarray]:
    """Returns rows as the batch that objectives take: `token_ids`, `segment_ids`, `positions`, `sentence_ids`, int32 [R,T]."""
    places = np.arange(rows.token_ids.shape[1], dtype=np.int32)
    real = places < rows.real[:, None]
    begins = np.maximum.accumulate(np.where(rows.segment_starts, places, 0), axis=1)
    sentences = np.cumsum(rows.sentence_starts, axis=1, dtype=np.int32)
    before = np.take_along_axis(sentences - rows.sentence_starts, begins, axis=1)
    return {
        "token_ids": np.where(real, rows.token_ids, pad_id).astype(np.int32),
        "segment_ids": np.where(real, np.cumsum(rows.segment_starts, axis=1), 0).astype(np.int32),
        "positions": np.where(real, places - begins, 0).astype(np.int32),
        "sentence_ids": np.where(real & ~rows.special, sentences - before, 0).astype(np.int32),
    }
