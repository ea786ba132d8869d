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
3. Safe merges. In a word as it is after any of the reference's merges (made in whatever order), take the symbols
   a b c d. Until the reference merges (b, c), only a symbol y that ends with a can take b away, and only a symbol z that
   begins with d can take c; a is the last symbol of some merge in y's making, or y itself. With
       least_left(a, b) = the least low(y, b) over those y;  least_right(c, d) = the least high(c, z) over those z
   (b, c) is safe, the reference will merge it, if least_left(a, b) > high(b, c) and least_right(c, d) >= low(b, c). All
   safe pairs of a word can be merged at once. Where a begins a word, y can only be a; where d ends one, z is d.
4. Something is always safe: see `bpe.py`, which does the merging.

Letters: T tokens, R merges, S spine entries, L slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEVER = np.int32(2**31 - 1)  # the key of a pair that is no merge
_INFINITE = 2**32 - 1  # a rank above all


class Merges(NamedTuple):
    """Merges as arrays of tokens 1 to T-1; 0 stands for no token."""

    left: np.ndarray  # [R] int64
    right: np.ndarray  # [R] int64
    made: np.ndarray  # [R] int64: the token that a merge makes
    ranks: np.ndarray  # [R] int64, ascending
    lengths: np.ndarray  # [T] int64: the symbols in a token, 0 if no merges lead to it


class PairTables(NamedTuple):
    """What is known of pairs of neighbours: those that are merged, and those that may be after either has grown."""

    left: np.ndarray  # [P] int64
    right: np.ndarray  # [P] int64
    low: np.ndarray  # [P] int32, keys in the order of item 2, NEVER if the pair is no merge
    high: np.ndarray  # [P] int32
    least_left: np.ndarray  # [P] int32
    least_right: np.ndarray  # [P] int32
    epoch: np.ndarray  # [P] int32
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
    # For (y, b): low(y, b) counts for every symbol that ends y; for (c, z): high(c, z), for every symbol that begins z.
    end_S, from_S = _spines(left, right_R, merge_T)
    begin_S, of_S = _spines(right, left_R, merge_T)
    pairs = np.concatenate([left * tokens + right, end_S * tokens + right[from_S], left[of_S] * tokens + begin_S])
    distinct, which = np.unique(pairs, return_inverse=True)
    values = np.unique(np.concatenate([low_R[made_by], high_R[made_by]]))
    low, high = (np.searchsorted(values, key[made_by]).astype(np.int32) for key in (low_R, high_R))
    count = len(made_by)
    merged, ending, beginning = which[:count], which[count : count + len(end_S)], which[count + len(end_S) :]
    columns = np.full((5, len(distinct)), NEVER)
    columns[0, merged], columns[1, merged] = low, high
    np.minimum.at(columns[2], ending, low[from_S])
    np.minimum.at(columns[3], beginning, high[of_S])
    epoch = low_R[made_by] >> 32
    columns[4, merged] = epoch
    _, inverse, counts = np.unique(epoch, return_inverse=True, return_counts=True)
    alone = np.zeros(len(distinct), bool)
    alone[merged] = counts[inverse] == 1
    made = np.zeros(len(distinct), np.int32)
    made[merged] = made_R[made_by]
    return PairTables(distinct // tokens, distinct % tokens, *columns, alone, made, whole)


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
    """Every token that once begins (or ends) each of the given ones, itself included: tokens [S], and whose [S]."""
    found, whose = [tokens_R], [np.arange(len(tokens_R))]
    while len(found[-1]):
        merge = merge_T[found[-1]]
        more = merge >= 0
        found.append(side_R[merge[more]])
        whose.append(whose[-1][more])
    return np.concatenate(found), np.concatenate(whose)
