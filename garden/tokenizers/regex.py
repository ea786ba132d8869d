"""Regular expressions as the published tokenizers use them, read into trees.

Patterns mean what they mean to Oniguruma, which Hugging Face `tokenizers` uses; what an automaton (see automaton.py)
cannot do, or no published tokenizer needs, is refused by name.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from garden.tokenizers.characters import SCALARS, Flag, character_data, character_set

_MOST_REPEATS = 100

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


class PatternReader:
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
        """The error that names what is not supported."""
        return ValueError(f"tokenizer.json: regular expression {self.pattern!r}: {what} is not supported")

    def read(self):
        """The whole pattern's tree."""
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

    def literal(self):
        """The tree of the pattern as a plain string."""
        return ("sequence", [("set", self._number(_points(c))) for c in self.pattern])

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
