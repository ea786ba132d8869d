"""Finds a regular expression in all texts at once, by table look-ups.

A match is sought at every character: each is a reader of the automaton, and all readers advance together. Where a state
leads to itself, as inside a word, a reader skips the whole run of such characters, so that few steps do. Which matches
count (those that a reader from the left meets) follows by doubling: who is reached in 1, 2, 4, ... hops.

Letters: N characters, R readers, S segments (matches, and what lies between them), G groups of runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.automaton import Automaton, compile_pattern
from garden.tokenizers.text import Table, Text, begins, bounds


class Segments(NamedTuple):
    """Pieces cut where matches begin and end."""

    begins: tf.Tensor  # [N] bool: the first character of a segment
    matched: tf.Tensor  # [N] bool: whether the character is in a match


class Pattern:
    """A regular expression, or a plain string, compiled; ValueError that names what is not supported."""

    def __init__(self, pattern: str, tokens: int, literal: bool = False):
        """tokens: the number of added tokens; they match nothing."""
        automaton = compile_pattern(pattern, literal)
        # Added tokens are of one more class, at which every match ends.
        self._end = automaton.classes - 1
        self._class_of = Table(automaton.class_of, tokens, self._end)
        groups_SG, self._loops, self._loop_matches = _loops(automaton)
        certain = _certain(automaton)
        self._width, self._later = automaton.classes, automaton.later
        self._automaton = automaton
        with tf.init_scope(), tf.device("CPU:0"):
            self._following = tf.constant(automaton.following.reshape(-1))
            self._matched = tf.constant(automaton.matched.reshape(-1))
            # [states]: which group of runs a state skips in, and which run of that group; -1: none.
            self._group = tf.constant(groups_SG[:, 0], tf.int32)
            self._run = tf.constant(groups_SG[:, 1], tf.int32)
            self._skip_matches = tf.constant(self._loop_matches)
            self._run_of_class = tf.constant(self._loops.reshape(-1), tf.int32)  # [G,C]
            self._certain = tf.constant(certain.reshape(-1)) if certain.any() else None

    def at_space(self) -> tuple[np.ndarray, bool]:
        """After which characters matching goes on over a space, [0x110000] bool, else it ends there as at a text's end
        and begins anew; and whether every space that a match does not reach over begins one."""
        following, matched = self._automaton.following, self._automaton.matched
        space = self._automaton.class_of[ord(" ")]
        over_C = np.ones(self._width, bool)
        for c in range(self._end if self._later == 1 else 0):
            states = np.unique(following[1:, c])
            states = states[states > 0]
            over_C[c] = (following[states, space] > 0).any() or (
                matched[states, space] != matched[states, self._end]
            ).any()
        first = following[1, space]
        return over_C[self._automaton.class_of], bool(first > 0 and matched[first].all())

    def readable(self) -> np.ndarray:
        """The characters that a match may have in it, [0x110000] bool."""
        return (self._automaton.following[1:] > 0).any(axis=0)[self._automaton.class_of]

    def __call__(self, text: Text) -> Segments:
        """Find all matches in every piece."""
        begins_N = begins(text)
        _, stop_W, rank_N = bounds(begins_N)
        stop_N = tf.gather(stop_W, rank_N)
        class_N = self._class_of(text.points)
        end_N = self._ends(class_N, begins_N, stop_N)
        return self._choose(class_N, begins_N, end_N)

    def _ends(self, class_N, begins_N, stop_N):
        """Where the match that begins at each character ends; the character itself where none does. [N] int32"""
        count = tf.size(class_N)
        here_N = tf.range(count)
        padded = tf.concat([class_N, [self._end]], axis=0)
        run_ends = []
        for group in range(len(self._loops)):  # of characters that some state skips together
            run_N = tf.gather(self._run_of_class, class_N + group * self._width)
            changes = tf.concat([tf.not_equal(run_N[1:], run_N[:-1]) | begins_N[1:], [True]], axis=0)[:count]
            last = tf.cast(tf.where(changes)[:, 0], tf.int32)  # of each run
            run_ends.append(tf.gather(last, tf.cumsum(tf.cast(changes, tf.int32), exclusive=True)) + 1)
        run_end = tf.concat([*run_ends, [0]], axis=0)

        def step(state_R, at_R, stop_R, last_R, which_R, end_N):
            class_R = tf.where(at_R < stop_R, tf.gather(padded, at_R), self._end)
            entry_R = state_R * self._width + class_R
            last_R = tf.where(tf.gather(self._matched, entry_R), at_R, last_R)
            state_R = tf.gather(self._following, entry_R)
            done = tf.where(tf.equal(state_R, 0))[:, 0]
            end_N = tf.tensor_scatter_nd_update(end_N, tf.gather(which_R, done)[:, None], tf.gather(last_R, done))
            going = tf.where(state_R > 0)[:, 0]
            state_R, at_R, stop_R, last_R, which_R = (
                tf.gather(values, going) for values in (state_R, at_R + 1, stop_R, last_R, which_R)
            )
            if run_ends:
                at_R, last_R = self._skip(state_R, at_R, stop_R, last_R, padded, run_end, count)
            return state_R, at_R, stop_R, last_R, which_R, end_N

        any_length = tf.TensorShape([None])
        state_N = tf.where(begins_N, 1, self._later) if self._later != 1 else tf.ones_like(here_N)
        start = (state_N, here_N, stop_N, here_N, here_N, here_N)
        *_, end_N = tf.while_loop(
            lambda state_R, *_: tf.size(state_R) > 0, step, start, shape_invariants=(any_length,) * 6
        )
        return end_N

    def _skip(self, state_R, at_R, stop_R, last_R, padded, run_end, count):
        """Pass over the characters that lead from a state to itself."""
        group_R, run_R = tf.gather(self._group, state_R), tf.gather(self._run, state_R)
        class_R = tf.gather(padded, at_R)
        inside = (at_R < stop_R) & tf.equal(tf.gather(self._run_of_class, group_R * self._width + class_R), run_R)
        to_R = tf.gather(run_end, tf.where(inside, group_R * count + at_R, tf.size(run_end) - 1))
        at_R = tf.where(inside, to_R, at_R)
        return at_R, tf.where(inside & tf.gather(self._skip_matches, state_R), at_R - 1, last_R)

    def _choose(self, class_N, begins_N, end_N) -> Segments:
        """The matches that count, read from the left."""
        count = tf.size(class_N)
        here_N = tf.range(count)
        next_N = tf.concat([tf.maximum(end_N, here_N + 1), [count]], axis=0)
        known_N = begins_N
        if self._certain is not None:  # no match reaches from the one class into the other
            pair = class_N[:-1] * self._width + class_N[1:]
            known_N |= tf.concat([[False], tf.gather(self._certain, pair)], axis=0)[:count]
        known_N = tf.concat([known_N, [True]], axis=0)
        next_N = tf.where(tf.gather(known_N, next_N), count, next_N)  # each chain ends where another begins
        reached = tf.cast(tf.where(known_N)[:, 0], tf.int32)[:-1]

        def hop(reached, next_N, _):
            more = tf.gather(next_N, reached)
            more = tf.gather(more, tf.where(more < count)[:, 0])
            return tf.concat([reached, more], axis=0), tf.gather(next_N, next_N), tf.size(more)

        any_length = tf.TensorShape([None])
        reached, *_ = tf.while_loop(
            lambda reached, next_N, more: more > 0,
            hop,
            (reached, next_N, count),
            shape_invariants=(any_length, any_length, tf.TensorShape([])),
        )
        matched_R = tf.gather(end_N, reached) > reached
        starts_N = tf.scatter_nd(reached[:, None], tf.where(matched_R, 2, 1), [count])
        # Characters between matches are each reached; those of one gap are one segment.
        state_N = tf.gather(tf.concat([tf.gather(starts_N, tf.where(starts_N > 0)[:, 0]), [0]], axis=0),
                            tf.cumsum(tf.cast(starts_N > 0, tf.int32)) - 1)  # fmt: skip
        matched_N = tf.equal(state_N, 2)
        gap_before = tf.concat([[True], matched_N[:-1]], axis=0)[:count]
        return Segments(begins_N | tf.equal(starts_N, 2) | (tf.equal(starts_N, 1) & gap_before), matched_N)


def _loops(automaton: Automaton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which runs of characters each state may skip.

    Returns [states, 2]: a group and the number of a run in it (0, -1: none); [G,C]: the run that each class belongs to
    in each group, 0 for none; [states] bool: whether a run's characters leave a match behind them.
    """
    of_state = np.tile(np.array([0, -1], np.int32), (automaton.states, 1))
    leaves = np.zeros(automaton.states, bool)
    groups: list[dict[frozenset[int], int]] = []
    for state in range(1, automaton.states):
        looping = np.flatnonzero(automaton.following[state, :-1] == state)
        kinds = [looping[automaton.matched[state, looping] == match] for match in (False, True)]
        leaves[state] = len(kinds[1]) >= len(kinds[0])
        run = frozenset(kinds[int(leaves[state])].tolist())
        if not run:
            continue
        fits = lambda group, run: run in group or not any(run & other for other in group)
        number = next((n for n, group in enumerate(groups) if fits(group, run)), len(groups))
        if number == len(groups):
            groups.append({})
        of_state[state] = number, groups[number].setdefault(run, len(groups[number]) + 1)
    run_of_class = np.zeros((len(groups), automaton.classes), np.int32)
    for number, group in enumerate(groups):
        for run, name in group.items():
            run_of_class[number, list(run)] = name
    return of_state, run_of_class, leaves


def _certain(automaton: Automaton) -> np.ndarray:
    """[C,C] bool: whether no match has both a character of the first class and, next to it, one of the second."""
    certain = np.ones((automaton.classes, automaton.classes), bool)
    for c in range(automaton.classes - 1):
        states = np.unique(automaton.following[1:, c])
        certain[c] = ~(automaton.following[states] > 0).any(axis=0)
    return certain
