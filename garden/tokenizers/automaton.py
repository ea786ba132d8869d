"""Regular expressions as table-driven automata that find what a backtracking matcher finds, in one pass.

A pattern's tree becomes a program of a backtracking matcher, and the program's threads, in their order of preference, are
the states of the automaton (R. Cox, "Regular Expression Matching: the Virtual Machine Approach", 2009).

Letters: Q states, C classes of characters (the last one is "end of the text").
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from garden.tokenizers.characters import SCALARS
from garden.tokenizers.regex import PatternReader

_MOST_STATES = 2000


@dataclass
class _Program:
    """Instructions of a backtracking matcher: ("set", index, next) ("split", first choice, second choice)
    ("ahead", index, wanted, end, next) ("match",)."""

    steps: list[tuple] = field(default_factory=list)

    def add(self, step: tuple) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def compile(self, node, then: int) -> int:
        """Append a node that goes on with instruction `then`; its first instruction."""
        kind = node[0]
        if kind == "set":
            return self.add(("set", node[1], then))
        if kind == "ahead":
            return self.add((*node, then))
        if kind == "sequence":
            for item in reversed(node[1]):
                then = self.compile(item, then)
            return then
        if kind == "either":
            starts = [self.compile(branch, then) for branch in node[1]]
            entry = starts[-1]
            for start in reversed(starts[:-1]):
                entry = self.add(("split", start, entry))
            return entry
        _, item, least, most, greedy = node
        choose = lambda again, leave: ("split", again, leave) if greedy else ("split", leave, again)
        if most is None:
            loop = self.add(("split", then, then))
            self.steps[loop] = choose(self.compile(item, loop), then)
            entry = loop
        else:
            entry = then
            for _ in range(most - least):
                entry = self.add(choose(self.compile(item, entry), then))
        for _ in range(least):
            entry = self.compile(item, entry)
        return entry


@dataclass(frozen=True)
class Automaton:
    """Tables. State 0 is dead; 1 begins a match where a text begins, and `later` elsewhere."""

    class_of: np.ndarray  # [0x110000] int32: each character's class, below C-1
    following: np.ndarray  # [Q,C] int32: the state after one more character
    matched: np.ndarray  # [Q,C] bool: when the next character is of this class, what was read before it is a match
    later: int = 1  # another state only if the pattern has \\A in it

    @property
    def states(self) -> int:
        """Q."""
        return len(self.following)

    @property
    def classes(self) -> int:
        """C."""
        return self.following.shape[1]

    def find(self, text: str) -> list[tuple[int, int]]:
        """All matches of a text, as a reader of one character after another finds them; empty ones do not count."""
        classes = [*self.class_of[[ord(c) for c in text]].tolist(), self.classes - 1] if text else [self.classes - 1]
        found, start = [], 0
        while start < len(text):
            state, at, stop = (self.later if start else 1), start, start
            while state:
                stop = at if self.matched[state, classes[at]] else stop
                state, at = int(self.following[state, classes[at]]), at + 1
            if stop > start:
                found.append((start, stop))
            start = max(stop, start + 1)
        return found


@functools.lru_cache(maxsize=64)
def compile_pattern(pattern: str, literal: bool = False) -> Automaton:
    """The automaton of a pattern, or of a plain string; ValueError that names what is not supported."""
    if literal or r"\A" not in pattern:
        return _compile(pattern, literal, True)
    first, later = (_compile(pattern, False, begins) for begins in (True, False))
    following = np.where(later.following > 0, later.following + len(first.following) - 1, 0)
    return Automaton(
        first.class_of,
        np.concatenate([first.following, following[1:]]),
        np.concatenate([first.matched, later.matched[1:]]),
        later=len(first.following),
    )


def _compile(pattern: str, literal: bool, begins: bool) -> Automaton:
    reader = PatternReader(pattern, begins)
    tree = reader.literal() if literal else reader.read()
    program = _Program()
    entry = program.compile(tree, program.add(("match",)))
    class_of, members_CS = _classes(reader.sets)
    return _determinize(program.steps, entry, class_of, members_CS, reader)


def _classes(sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Characters that every set treats alike share a class: [0x110000] int32, and membership [classes, sets] bool."""
    class_of = np.zeros(SCALARS, np.int64)
    for members in sets:
        class_of = class_of * 2 + members
        used = np.bincount(class_of) > 0
        class_of = (np.cumsum(used) - 1)[class_of]
    representatives = np.unique(class_of, return_index=True)[1]
    members_CS = np.array([members[representatives] for members in sets]).reshape(len(sets), -1).T
    return class_of.astype(np.int32), members_CS


def _determinize(steps, entry: int, class_of, members_CS, reader) -> Automaton:
    end = len(members_CS)

    def threads(pending: tuple[int, ...], c: int) -> tuple[list[int], bool]:
        """The "set" instructions that may read a character of class c, best first, and whether a match comes before."""
        ready: list[int] = []
        seen: set[int] = set()
        stack = list(reversed(pending))
        while stack:
            index = stack.pop()
            if index in seen:
                continue
            seen.add(index)
            step = steps[index]
            if step[0] == "match":
                return ready, True
            if step[0] == "split":
                stack.extend((step[2], step[1]))
            elif step[0] == "ahead":
                _, number, wanted, at_end, then = step
                if at_end if c == end else members_CS[c, number] == wanted:
                    stack.append(then)
            elif c != end and members_CS[c, step[1]]:
                ready.append(step[2])
        return ready, False

    numbers: dict[tuple[int, ...], int] = {(): 0, (entry,): 1}
    waiting = [(), (entry,)]
    following, matched = [], []
    for state in waiting:
        next_row, match_row = [], []
        for c in range(end + 1):
            ready, match = threads(state, c)
            key = tuple(dict.fromkeys(ready))
            if key not in numbers:
                numbers[key] = len(numbers)
                waiting.append(key)
                if len(numbers) > _MOST_STATES:
                    raise reader.refuse(f"an automaton of more than {_MOST_STATES} states")
            next_row.append(numbers[key])
            match_row.append(match)
        following.append(next_row)
        matched.append(match_row)
    return _smallest(Automaton(class_of, np.array(following, np.int32), np.array(matched, bool)))


def _smallest(automaton: Automaton) -> Automaton:
    """The same with alike states made one (E. F. Moore's refinement); 0 and 1 keep their numbers."""
    following, matched = automaton.following, automaton.matched
    block = np.unique(matched, axis=0, return_inverse=True)[1].reshape(-1)
    while True:
        finer = np.unique(np.concatenate([block[:, None], block[following]], axis=1), axis=0, return_inverse=True)[1]
        finer = finer.reshape(-1)
        if finer.max() == block.max():
            break
        block = finer
    order = list(dict.fromkeys(block.tolist()))  # that of the dead state first
    if len(order) > 1 and block[0] != block[1]:
        order = [block[0], block[1], *(b for b in order if b not in (block[0], block[1]))]
    else:  # nothing ever matches
        return Automaton(automaton.class_of, following[:2] * 0, matched[:2] & False)
    keep = [int(np.flatnonzero(block == b)[0]) for b in order]
    renamed = np.zeros(len(following), np.int32)
    for new, b in enumerate(order):
        renamed[block == b] = new
    return Automaton(automaton.class_of, renamed[following[keep]], matched[keep])
