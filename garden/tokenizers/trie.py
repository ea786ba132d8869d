"""Longest match from many places of a text at once, by a trie in double-array form, with gathers alone.

A node's children are reached by one addition: the child of node n by symbol s sits in slot base[n] + s, and is n's own
if check[slot] == n (J. Aoe, "An efficient digital search algorithm by using a double-array structure", 1989). The
tables are plain tensors, so a SavedModel needs neither lookup tables nor initialisers.

Letters: V strings, E trie edges, L slots, N symbols of text, P places to match from, R places still matching.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_UNROLLED = 4  # steps between two looks at which readers go on
_FILL = 1.35  # slots per edge: below 1.2 the last places are slow to find


class Trie:
    """Finds which of the given strings of symbols is the longest one that starts at each place of a text.

    strings: V sequences of symbols, all >= 1 (0 ends a text and matches nothing). Empty strings never match. Of equal
        strings, the last one counts.
    symbol_count: symbols are below this number.
    """

    def __init__(self, strings: Sequence[np.ndarray], symbol_count: int):
        parents_E, symbols_E, matches_E = _edges(strings)
        slots_E, base_of_node = place(parents_E, symbols_E, symbol_count)
        slot_of_node = np.concatenate([[0], slots_E])  # node e + 1 is the end of edge e; node 0, the root, is in slot 0
        slots = int(max(slot_of_node.max(), base_of_node.max()) + symbol_count + 1)
        base_L, match_L, ends_L = (np.zeros(slots, np.int32) for _ in range(3))
        check_L = np.full(slots, -1, np.int32)
        base_L[slot_of_node] = base_of_node
        check_L[slots_E] = slot_of_node[parents_E]
        match_L[slots_E] = matches_E
        inherited_E = np.concatenate([[0], matches_E])[parents_E]
        ends_L[slots_E] = np.where(matches_E != inherited_E, matches_E, 0)
        with tf.init_scope(), tf.device("CPU:0"):
            self._base_L, self._check_L, self._match_L = tf.constant(base_L), tf.constant(check_L), tf.constant(match_L)
            self._ends_L = tf.constant(ends_L)

    def longest(self, symbols_N: tf.Tensor, places_P: tf.Tensor) -> tf.Tensor:
        """Index + 1 of the longest string that starts at each place, 0 where none does.

        symbols_N: int32, the last one 0. places_P: int32, different from each other. Returns [P] int32.
        """

        last = tf.size(symbols_N) - 1

        def advance(node_R, at_R, which_R, node_P):
            for _ in range(_UNROLLED):
                node_R, at_R, on_R = self._step(symbols_N, last, node_R, at_R)
            node_P = tf.tensor_scatter_nd_update(node_P, which_R[:, None], node_R)
            on = tf.where(on_R)[:, 0]
            return *(tf.gather(values, on) for values in (node_R, at_R, which_R)), node_P

        zeros_P = tf.zeros_like(places_P)
        any_length = tf.TensorShape([None])
        *_, node_P = tf.while_loop(
            lambda node_R, *_: tf.size(node_R) > 0,
            advance,
            (zeros_P, places_P, tf.range(tf.size(places_P)), zeros_P),
            shape_invariants=(any_length,) * 4,
        )
        # A node's match is that of its nearest ancestor that ends a string.
        return tf.gather(self._match_L, node_P)

    def _step(self, symbols_N, last, node_R, at_R):
        """One symbol more. Readers that cannot go on stay where they are, at the 0 that ends the symbols."""
        slot_R = tf.gather(self._base_L, node_R) + tf.gather(symbols_N, at_R)
        on_R = tf.equal(tf.gather(self._check_L, slot_R), node_R)
        return tf.where(on_R, slot_R, node_R), tf.where(on_R, at_R + 1, last), on_R

    def every(self, symbols_N: tf.Tensor, places_P: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """All strings that start at each place, shorter ones first: index into the places, and index + 1 of the string.

        Arguments as for `longest`. Returns [M] int32 twice.
        """
        last = tf.size(symbols_N) - 1
        passed = tf.TensorArray(tf.int32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])

        def advance(node_R, at_R, which_R, turn, which, nodes):
            steps = []
            for _ in range(_UNROLLED):
                node_R, at_R, on_R = self._step(symbols_N, last, node_R, at_R)
                steps.append(tf.where(on_R, node_R, 0))
            which = which.write(turn, tf.tile(which_R, [_UNROLLED]))
            nodes = nodes.write(turn, tf.concat(steps, axis=0))
            on = tf.where(on_R)[:, 0]
            return *(tf.gather(values, on) for values in (node_R, at_R, which_R)), turn + 1, which, nodes

        any_length = tf.TensorShape([None])
        *_, which, nodes = tf.while_loop(
            lambda node_R, *_: tf.size(node_R) > 0,
            advance,
            (tf.zeros_like(places_P), places_P, tf.range(tf.size(places_P)), tf.constant(0), passed, passed),
            shape_invariants=(any_length, any_length, any_length, tf.TensorShape([]), None, None),
        )
        none = tf.zeros([0], tf.int32)
        which, nodes = tf.cond(tf.size(places_P) > 0, lambda: (which.concat(), nodes.concat()), lambda: (none, none))
        ends_M = tf.gather(self._ends_L, nodes)
        found = tf.where(ends_M > 0)[:, 0]
        return tf.gather(which, found), tf.gather(ends_M, found)


def _edges(strings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each edge's parent node, symbol, and match; edge e leads to node e + 1; edges of a parent stand together.

    An edge's match is the index + 1 of the longest string that ends at its node or above, or 0.
    """
    lengths_V = np.array([len(string) for string in strings], np.int64)
    starts_V = np.cumsum(lengths_V) - lengths_V
    flat = np.concatenate([*strings, [0]]).astype(np.int64)
    span = int(flat.max()) + 1
    node_V = np.zeros(len(strings), np.int64)
    parents, symbols, match_of_node = [], [], [np.zeros(1, np.int64)]
    count = 1
    for depth in range(int(lengths_V.max(initial=0))):  # a level of the trie at a time, all strings at once
        live = np.flatnonzero(lengths_V > depth)
        keys, inverse = np.unique(node_V[live] * span + flat[starts_V[live] + depth], return_inverse=True)
        node_V[live] = count + inverse
        parents.append(keys // span)
        symbols.append(keys % span)
        matches = np.concatenate(match_of_node)[parents[-1]]
        ending = live[lengths_V[live] == depth + 1]
        matches[node_V[ending] - count] = ending + 1
        match_of_node.append(matches)
        count += len(keys)
    none = [np.zeros(0, np.int64)]
    return np.concatenate(parents or none), np.concatenate(symbols or none), np.concatenate(match_of_node)[1:]


def place(parents_E: np.ndarray, symbols_E: np.ndarray, symbol_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose every node's base so that all edges land in slots of their own: the edges' slots and the nodes' bases.

    parents_E: ascending; the symbols of one parent differ. Slot 0 stays empty.

    Families (the edges of one parent) are placed largest first, many at a time: each tries a random base, and keeps it
    if its slots are free and no earlier family of the same round took them. The seed is fixed: same strings, same table.
    """
    random = np.random.default_rng(0)
    slots_E = np.zeros(len(parents_E), np.int64)
    base_of_node = np.zeros(max(len(parents_E), int(parents_E.max(initial=0))) + 1, np.int64)
    family_parents, family_starts, family_sizes = np.unique(parents_E, return_index=True, return_counts=True)
    room = int(_FILL * len(parents_E)) + 1
    taken = np.zeros(room + symbol_count + 1, bool)
    taken[0] = True  # the root's own slot
    for size in np.unique(family_sizes)[::-1]:
        waiting = np.flatnonzero(family_sizes == size)
        if size == 1:  # any free slot will do; slots below symbol_count would need a negative base
            free = np.flatnonzero(~taken[symbol_count:]) + symbol_count
            if len(free) < len(waiting):
                free = np.concatenate([free, len(taken) + np.arange(len(waiting))])
            edges = family_starts[waiting]
            slots_E[edges] = free[: len(waiting)]
            base_of_node[family_parents[waiting]] = slots_E[edges] - symbols_E[edges]
            continue
        attempts = 0
        while len(waiting):
            attempts += 1
            if attempts % 100 == 0:  # crowded: make room
                room += room // 8 + symbol_count
                taken = np.concatenate([taken, np.zeros(room + symbol_count + 1 - len(taken), bool)])
            base = random.integers(0, room, len(waiting))
            edges = family_starts[waiting][:, None] + np.arange(size)
            slots = base[:, None] + symbols_E[edges]
            fits = np.flatnonzero(~taken[slots].any(axis=1))
            first = np.zeros(len(fits) * size, bool)
            first[np.unique(slots[fits], return_index=True)[1]] = True
            fits = fits[first.reshape(-1, size).all(axis=1)]
            taken[slots[fits]] = True
            slots_E[edges[fits]] = slots[fits]
            base_of_node[family_parents[waiting[fits]]] = base[fits]
            waiting = np.delete(waiting, fits)
    return slots_E, base_of_node
