"""The merges of byte-pair encoding as tables by which many merges can be made at once with the reference's result.

The reference merges, over and over, the pair of lowest rank in a word, the leftmost of those. Each merge may open a pair
of lower rank than its own, so ranks alone do not say what comes first. What this file rests on:

1. Local. If the reference ends with a boundary somewhere in a word, then both sides of it are what they would be alone:
   no merge crossed it, and the order of the merges on either side does not depend on the other. So a token t always
   comes about by the same merges, those of the word t, the last of which is (left(t), right(t)). Other pairs that spell
   t are never merged and are left out here; so are tokens that the reference makes something else of. The highest rank
   among the merges of t is its epoch E(t): t exists once the reference has come to that rank, and not before. Of merges
   in separate stretches of a word, the one whose epoch (the highest rank up to it, in its stretch) is lower comes first,
   and of equal ones the left one: a stretch is held up by nothing but a rank that is higher than all of the other's.
2. Rivals. Let (a, b) and (b, c) be two of these pairs side by side, e(a, b) = max(rank(a, b), E(a), E(b)) the epoch of
   the first. By 1, the one of lower epoch is merged. Of equal epochs it is (a, b), because what is on the left comes
   first, with one exception: that epoch is E(b), above E(c), and rank(b, c) < rank(a, b): when b comes about, a and c
   are there, and the lower rank wins. In other words, with
       low(x, y) = (e(x, y), rank(x, y));  high(x, y) = low(x, y) if E(x) = e(x, y) > E(y), else (e(x, y), infinity)
   in the order of the dictionary, (b, c) is merged before (a, b) if and only if high(b, c) < low(a, b).
3. Safe merges. Take a word as it is after any of the reference's merges, made in whatever order, and in it the symbols
   p a b c d q. Until the reference merges (b, c), only a symbol y that ends with a can take b away, and only a symbol z
   that begins with d can take c; a is the last symbol of some merge in y's making, or y itself. (b, c) is safe, the
   reference will merge it, if all those low(y, b) > high(b, c) and all those high(c, z) >= low(b, c). For y = a the pair
   is there to see. Another y comes about only when something that ends with p takes a first. So with
       before(a, b) = the least low(y, b) over all y but a;  after(c, d) = the least high(c, z) over all z but d
   two sequences along the word bound what can come,
       left(a, b) = min(low(a, b), max(before(a, b), next(left(p, a))))
       right(c, d) = min(high(c, d), max(after(c, d), next(right(d, q))))
   where next(k) is the least key that a merge can have which builds on one of key k or more: the beginning of k's epoch,
   or of the one after it if k's is the epoch of one pair only. Beyond the ends of a word both are infinite; unrolled but
   a few steps, with zero for the rest, they are still bounds. All safe pairs of a word can be merged at once.
4. Something is always safe: see `bpe.py`, which does the merging.

Letters: T tokens, R merges, S spine entries, L slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_INFINITE = 2**32 - 1  # a rank above all


class Merges(NamedTuple):
    """Merges as arrays of tokens 1 to T-1; 0 stands for no token."""

    left: np.ndarray  # [R] int64
    right: np.ndarray  # [R] int64
    made: np.ndarray  # [R] int64: the token that a merge makes
    ranks: np.ndarray  # [R] int64, ascending
    lengths: np.ndarray  # [T] int64: the symbols in a token, 0 if no merges lead to it


class PairTables(NamedTuple):
    """What is known of pairs of neighbours: those that are merged, and those that may be after either has grown.

    Keys are integers in the order of item 2; next(key) is (key + half) rounded down to a multiple of 2 * half.
    """

    left: np.ndarray  # [P] int64
    right: np.ndarray  # [P] int64
    keys: np.ndarray  # [P, 4] int32, or int64 if need be: low, high, before, after
    never: int  # the key of a pair that is no merge
    half: int
    epoch: np.ndarray  # [P] int32: ascending with the epochs; 0 if the pair is no merge
    alone: np.ndarray  # [P] bool: no other merge has this epoch
    made: np.ndarray  # [P] int32: the token made, 0 if the pair is no merge
    whole: np.ndarray  # [T] bool: tokens that the reference makes of their own symbols


def pair_tables(merges: Merges, initial: np.ndarray) -> PairTables:
    """Work out the tables. initial: [T] bool, tokens that a word's symbols become before any merge."""
    left_R, right_R, made_R, rank_R, lengths = merges
    tokens = len(lengths)
    keys_R = left_R * tokens + right_R
    by_key = np.argsort(keys_R, kind="stable")
    sorted_keys = keys_R[by_key]

    whole = initial.copy()
    epoch_T = np.full(tokens, -1, np.int64)
    merge_T = np.full(tokens, -1, np.int64)  # the merge that makes a token
    low_R = np.zeros(len(left_R), np.int64)
    high_R = np.zeros(len(left_R), np.int64)
    span_R = lengths[left_R] + lengths[right_R]
    order = np.argsort(span_R, kind="stable")
    order = order[(lengths[left_R[order]] > 0) & (lengths[right_R[order]] > 0)]
    bounds = np.flatnonzero(np.diff(span_R[order])) + 1
    for group in np.split(order, bounds):  # short tokens first: longer ones are made of them
        group = group[whole[left_R[group]] & whole[right_R[group]]]
        left, right = left_R[group], right_R[group]
        epoch = np.maximum(rank_R[group], np.maximum(epoch_T[left], epoch_T[right]))
        low_R[group] = (epoch << 32) | rank_R[group]
        cascade = (epoch_T[left] == epoch) & (epoch_T[right] < epoch)
        high_R[group] = (epoch << 32) | np.where(cascade, rank_R[group], _INFINITE)
        crossed = _crossed(left, right, left_R, right_R, merge_T, low_R, high_R, tokens, by_key, sorted_keys)
        group, epoch = group[~crossed], epoch[~crossed]
        whole[made_R[group]] = True
        merge_T[made_R[group]] = group
        epoch_T[made_R[group]] = epoch

    made_by = merge_T[merge_T >= 0]  # at most one merge a token: item 1
    left, right = left_R[made_by], right_R[made_by]
    low, high, never, half = _as_integers(low_R[made_by], high_R[made_by])
    # low(y, b) counts for every other symbol that ends y, high(c, z) for every one that begins z.
    end_S, from_S = _spines(left, right_R, merge_T)
    begin_S, of_S = _spines(right, left_R, merge_T)
    pairs = np.concatenate([left * tokens + right, end_S * tokens + right[from_S], left[of_S] * tokens + begin_S])
    distinct, which = np.unique(pairs, return_inverse=True)
    count = len(made_by)
    merged, ending, beginning = which[:count], which[count : count + len(end_S)], which[count + len(end_S) :]
    keys = np.full((len(distinct), 4), never)
    keys[merged, 0], keys[merged, 1] = low, high
    np.minimum.at(keys[:, 2], ending, low[from_S])
    np.minimum.at(keys[:, 3], beginning, high[of_S])
    if never + half < 2**31:
        keys = keys.astype(np.int32)
    epoch, alone, made = (
        np.zeros(len(distinct), np.int32),
        np.zeros(len(distinct), bool),
        np.zeros(len(distinct), np.int32),
    )
    epoch[merged], alone[merged], made[merged] = low // (2 * half) + 1, low % (2 * half) >= half, made_R[made_by]
    return PairTables(distinct // tokens, distinct % tokens, keys, never, half, epoch, alone, made, whole)


def _as_integers(low, high):
    """Keys (epoch, rank) as integers in the same order, the key above all, and half an epoch's width.

    Those of an epoch that is one pair's alone lie in the upper half of its width, all others in the lower halves.
    """
    _, epoch, counts = np.unique(low >> 32, return_inverse=True, return_counts=True)
    values, value = np.unique(np.concatenate([low, high]), return_inverse=True)
    epoch_of_value = np.zeros(len(values), np.int64)
    epoch_of_value[value] = np.tile(epoch, 2)
    first = np.searchsorted(epoch_of_value, np.arange(len(counts)), side="left")
    nth = np.arange(len(values)) - first[epoch_of_value]
    half = 1 << int(nth.max(initial=1)).bit_length()
    keys = 2 * half * epoch_of_value + nth + np.where(counts[epoch_of_value] == 1, half, 0)
    return keys[value[: len(low)]], keys[value[len(low) :]], 2 * half * len(counts), half


def _crossed(left, right, left_R, right_R, merge_T, low_R, high_R, tokens, by_key, sorted_keys):
    """For each merge of two tokens, whether the reference, given their symbols, merges across their border earlier."""
    crossed = np.zeros(len(left), bool)
    if not len(sorted_keys):
        return crossed
    rows_a, end, above_a = np.arange(len(left)), left, None  # symbols that once end the left token, largest first
    while len(rows_a):
        rows, begin, above_b = rows_a, right[rows_a], None
        end_b, taken_b = end, above_a
        while len(rows):  # and those that once begin the right one
            if above_a is not None or above_b is not None:
                key = end_b * tokens + begin
                at = np.minimum(np.searchsorted(sorted_keys, key), len(sorted_keys) - 1)
                pair = by_key[at]
                hit = sorted_keys[at] == key
                if taken_b is not None:  # before the merge that takes the left symbol
                    hit &= high_R[pair] < low_R[taken_b]
                if above_b is not None:  # and before the one that takes the right symbol
                    hit &= high_R[above_b] >= low_R[pair]
                crossed[rows[hit]] = True
            above_b = merge_T[begin]
            more = above_b >= 0
            rows, end_b, above_b = rows[more], end_b[more], above_b[more]
            taken_b = taken_b[more] if taken_b is not None else None
            begin = left_R[above_b]
        above_a = merge_T[end]
        more = above_a >= 0
        rows_a, above_a = rows_a[more], above_a[more]
        end = right_R[above_a]
    return crossed


def _spines(tokens_R, side_R, merge_T):
    """Every other token that once begins (or ends) each of the given ones: tokens [S], and whose [S]."""
    found, whose = tokens_R, np.arange(len(tokens_R))
    spines = [(tokens_R[:0], whose[:0])]
    while len(found):
        merge = merge_T[found]
        more = merge >= 0
        found, whose = side_R[merge[more]], whose[more]
        spines.append((found, whose))
    return tuple(np.concatenate(column) for column in zip(*spines, strict=True))
