"""Regular expressions as the published tokenizers use them, compiled to a table-driven automaton.

A pattern is read into a tree, the tree becomes a program of a backtracking matcher, and the program's threads, in their
order of preference, are the states of the automaton: it finds what a backtracking matcher finds, in one pass (R. Cox,
"Regular Expression Matching: the Virtual Machine Approach", 2009). Patterns mean what they mean to Oniguruma, which
Hugging Face `tokenizers` uses; what an automaton cannot do, or no published tokenizer needs, is refused by name.

Letters: Q states, C classes of characters (the last one is "end of the text").
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

import numpy as np

from garden.tokenizers.characters import SCALARS, Flag, character_data, character_set

_MOST_STATES = 2000
_MOST_REPEATS = 100
_END = -1  # the "character" after the last one

# ---- Tree: tuples, the first element says what -------------------------------------------------------------------
# ("set", index) ("empty",) ("sequence", [nodes]) ("either", [nodes]) ("repeat", node, least, most or None, greedy)
# ("ahead", index, wanted, end): the next character is in the set, or is not; at the end of the text: `end`


def _points(text: str) -> np.ndarray:
    members = np.zeros(SCALARS, bool)
    members[[ord(c) for c in text]] = True
    return members


def _range(first: int, last: int) -> np.ndarray:
    members = np.zeros(SCALARS, bool)
    members[first : last + 1] = True
    return members


@functools.cache
def _named(name: str) -> np.ndarray:
    """The members of \\s, \\d, \\w and \\p{...}."""
    if name == "s":
        return (character_data().flags & Flag.SPACE) > 0
    if name == "d":
        return character_set("Nd")
    if name == "w":
        return character_set("word")
    plain = name.replace("_", "").replace(" ", "").lower()
    if plain in ("any", "assigned"):
        return ~character_set("Cn") if plain == "assigned" else np.ones(SCALARS, bool)
    long = {
        "letter": "L",
        "mark": "M",
        "number": "N",
        "punctuation": "P",
        "symbol": "S",
        "separator": "Z",
        "other": "C",
    }
    long |= {"uppercaseletter": "Lu", "lowercaseletter": "Ll", "titlecaseletter": "Lt", "modifierletter": "Lm"}
    long |= {"otherletter": "Lo", "nonspacingmark": "Mn", "spacingmark": "Mc", "enclosingmark": "Me"}
    long |= {"decimalnumber": "Nd", "letternumber": "Nl", "othernumber": "No"}
    if plain in long:
        return character_set(long[plain])
    name = plain[:1].upper() + plain[1:]
    if name in ("Word", "Mark", "Numeric", "Extend", "Prepend", "Control"):  # not what these are to a regex
        raise ValueError(name)
    return character_set(name)


@functools.lru_cache(maxsize=1)
def _folded() -> np.ndarray:
    """What every code point is when case does not count, where that is one character: [0x110000] int32."""
    folded = np.arange(SCALARS, dtype=np.int32)
    keys, lengths, _ = character_data().lower
    for c in {*map(chr, keys[lengths == 1].tolist()), "\u017f", "\u212a"}:
        if len(c.casefold()) == 1:
            folded[ord(c)] = ord(c.casefold())
    return folded


class _Reader:
    """Reads a pattern into a tree and a list of sets of characters."""

    def __init__(self, pattern: str, begins: bool = True):
        """begins: whether the match is sought where a text begins."""
        self.pattern = pattern
        self.begins = begins
        self.at = 0
        self.sets: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}
        self.ignore_case = False

    def refuse(self, what: str) -> ValueError:
        return ValueError(f"tokenizer.json: regular expression {self.pattern!r}: {what} is not supported")

    def read(self):
        tree = self._either()
        if self.at < len(self.pattern):
            raise self.refuse(f'"{self.pattern[self.at]}" at {self.at}')
        return tree

    def _peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def _take(self, text: str) -> bool:
        found = self._peek(text)
        self.at += len(text) * found
        return found

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise self.refuse("a pattern that ends here")
        self.at += 1
        return self.pattern[self.at - 1]

    def _set(self, members: np.ndarray):
        if self.ignore_case:
            members = self._any_case(members)
        return ("set", self._number(members))

    def _number(self, members: np.ndarray) -> int:
        number = self._numbers.setdefault(np.packbits(members).tobytes(), len(self.sets))
        if number == len(self.sets):
            self.sets.append(members)
        return number

    @staticmethod
    def _any_case(members: np.ndarray) -> np.ndarray:
        found = np.zeros(SCALARS, bool)
        found[_folded()[members]] = True
        return found[_folded()]

    def _either(self):
        ignore_case = self.ignore_case  # (?i) holds to the end of its group
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        self.ignore_case = ignore_case
        return branches[0] if len(branches) == 1 else ("either", branches)

    def _sequence(self):
        items: list = []
        possessive: list[int] = []
        while self.at < len(self.pattern) and not self._peek("|") and not self._peek(")"):
            item = self._atom()
            if item is None:
                continue
            while True:
                repeats = self._repeats()
                if repeats is None:
                    break
                least, most, kind = repeats
                if kind == "+":
                    possessive.append(len(items))
                item = ("repeat", item, least, most, kind != "?")
            items.append(item)
        for index in possessive:  # the same as greedy where what follows cannot begin with what was repeated
            if np.any(self._first(items[index]) & self._first(("sequence", items[index + 1 :]))):
                raise self.refuse("a possessive quantifier before something that may begin alike")
        return items[0] if len(items) == 1 else ("sequence", items)

    def _repeats(self):
        for text, (least, most) in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(text):
                return least, most, "?" if self._take("?") else "+" if self._take("+") else ""
        found = re.compile(r"\{(\d*)(,?)(\d*)\}").match(self.pattern, self.at)
        if found is None or not (found[1] or found[3]):
            return None
        self.at = found.end()
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise self.refuse(f"the repetition {found[0]}")
        lazy = self._take("?")
        if lazy and not found[2]:
            raise self.refuse(f"{found[0]}?")
        return least, most, "?" if lazy else ""

    def _first(self, node) -> np.ndarray:
        """The characters that a node's matches may begin with."""
        kind = node[0]
        if kind == "set":
            return self.sets[node[1]]
        if kind == "either":
            return np.logical_or.reduce([self._first(branch) for branch in node[1]])
        if kind == "repeat":
            return self._first(node[1])
        firsts = np.zeros(SCALARS, bool)
        for item in node[1] if kind == "sequence" else []:
            firsts = firsts | self._first(item)
            if not _may_be_empty(item):
                break
        return firsts

    def _atom(self):
        c = self._next()
        if c == "(":
            return self._group()
        if c == "[":
            return self._set(self._class())
        if c == ".":
            return self._set(~_points("\n"))
        if c == "$":  # before a line's end
            return ("ahead", self._number(_points("\n")), True, True)
        if c == "\\":
            if self._take("A"):  # where nothing has been read, which is the only place that published patterns have it
                return ("sequence", []) if self.begins else ("set", self._number(np.zeros(SCALARS, bool)))
            if self._take("z"):
                return ("ahead", self._number(np.zeros(SCALARS, bool)), True, True)
            return self._set(self._escape())
        if c in "^*+?":
            raise self.refuse(f'"{c}" at {self.at - 1}')
        return self._set(_points(c))

    def _group(self):
        if not self._take("?"):
            return self._close(self._either())
        for text, wanted in (("=", True), ("!", False)):
            if self._take(text):
                start, tree = self.at, self._close(self._either())
                branches = tree[1] if tree[0] == "either" else [tree]
                at_end = [b[0] == "ahead" and b[2] and b[3] and not self.sets[b[1]].any() for b in branches]
                members = np.zeros(SCALARS, bool)
                for branch, end in zip(branches, at_end, strict=True):
                    if not end and branch[0] != "set":
                        raise self.refuse(f'the look-ahead "(?{text}{self.pattern[start : self.at]}"')
                    members = members if end else members | self.sets[branch[1]]
                return ("ahead", self._number(members), wanted, any(at_end) == wanted)
        if self._take(":"):
            return self._close(self._either())
        found = re.compile(r"([a-zA-Z]*)(-[a-zA-Z]+)?([:)])").match(self.pattern, self.at)
        if found is None or found[1] not in ("i", "") or (found[2] or "-i") != "-i":
            raise self.refuse(f'the group "(?{self.pattern[self.at : self.at + 3]}..."')
        self.at = found.end()
        before, self.ignore_case = self.ignore_case, (found[1] == "i" or self.ignore_case) and not found[2]
        if found[3] == ")":
            return None  # to the end of the enclosing group, which puts it back
        tree = self._close(self._either())
        self.ignore_case = before
        return tree

    def _close(self, tree):
        if not self._take(")"):
            raise self.refuse("a group without its end")
        return tree

    def _escape(self, in_class: bool = False) -> np.ndarray:
        c = self._next()
        if c in "sdwSDW":
            members = _named(c.lower())
            if in_class and c in "wW":  # a difference that Oniguruma makes
                members = members & ~_points("\u00b2\u00b3\u00b9\u00bc\u00bd\u00be")
            return members ^ c.isupper()
        if c in "pP":
            found = re.compile(r"\{(\^?)([A-Za-z_ ]+)\}|([A-Z])").match(self.pattern, self.at)
            name = found and (found[2] or found[3])
            try:
                members = _named(name)
            except (ValueError, AttributeError):
                raise self.refuse(f'"\\{c}{self.pattern[self.at : self.at + 8]}"') from None
            self.at = found.end()
            return members ^ (bool(found[1]) ^ (c == "P"))
        if c in "xu":
            digits = "{2}" if c == "x" else "{4}"
            found = re.compile(r"\{([0-9A-Fa-f]+)\}" if self._peek("{") else f"([0-9A-Fa-f]{digits})")
            found = found.match(self.pattern, self.at)
            if found is None:
                raise self.refuse(f'"\\{c}"')
            self.at = found.end()
            return _range(int(found[1], 16), int(found[1], 16))
        simple = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
        if c.isalnum() and c not in simple:
            raise self.refuse(f'"\\{c}"')
        return _points(simple.get(c, c))

    def _class(self) -> np.ndarray:
        negated = self._take("^")
        whole: np.ndarray | None = None  # what stands before &&
        members = np.zeros(SCALARS, bool)
        first = True
        while first or not self._peek("]"):
            if self._take("&&"):
                whole = members if whole is None else whole & members
                members = np.zeros(SCALARS, bool)
                continue
            if self._peek("[:"):
                raise self.refuse("a POSIX bracket")
            first = False
            if self._take("["):
                members = members | self._class()
                continue
            start = self.at
            item = self._escape(True) if self._take("\\") else _points(self._next())
            if self._peek("-") and not self._peek("-]") and item.sum() == 1:
                self.at += 1
                last = self._escape(True) if self._take("\\") else _points(self._next())
                if last.sum() != 1 or last.argmax() < item.argmax():
                    raise self.refuse(f'the range "{self.pattern[start : self.at]}"')
                item = _range(int(item.argmax()), int(last.argmax()))
            members = members | item
        self.at += 1
        members = members if whole is None else whole & members
        if self.ignore_case:
            members = self._any_case(members)
        return members ^ negated


def _may_be_empty(node) -> bool:
    kind = node[0]
    if kind == "either":
        return any(map(_may_be_empty, node[1]))
    if kind == "sequence":
        return all(map(_may_be_empty, node[1]))
    if kind == "repeat":
        return node[2] == 0 or _may_be_empty(node[1])
    return kind == "ahead"


# ---- Program -----------------------------------------------------------------------------------------------------


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
    reader = _Reader(pattern, begins)
    if literal:
        tree = ("sequence", [("set", reader._number(_points(c))) for c in pattern])
    else:
        tree = reader.read()
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
