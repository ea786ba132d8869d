"""The double-array trie against a naive search."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from garden.tokenizers.trie import Trie

word = st.lists(st.integers(1, 4), max_size=6)


def naive(strings, text, place):
    """Index + 1 of the longest of the strings at a place; of equal ones the last."""
    found = [(len(s), i + 1) for i, s in enumerate(strings) if s and text[place : place + len(s)] == s]
    return max(found, default=(0, 0))[1]


@settings(max_examples=60, deadline=None)
@given(strings=st.lists(word, max_size=30), text=st.lists(st.integers(1, 5), max_size=30))
def test_longest(strings, text):
    trie = Trie([np.array(s, np.int32) for s in strings], 6)
    places = np.arange(len(text), dtype=np.int32)
    found = trie.longest(np.array([*text, 0], np.int32), places).numpy().tolist()
    assert found == [naive(strings, text, place) for place in places]


def test_many_strings_with_many_symbols():
    random = np.random.default_rng(0)
    strings = [random.integers(1, 3000, random.integers(1, 5)).tolist() for _ in range(20_000)]
    strings += [[7, symbol] for symbol in range(1, 3000)]
    trie = Trie([np.array(s, np.int32) for s in strings], 3000)
    last = {tuple(s): i + 1 for i, s in enumerate(strings)}
    for index in range(0, len(strings), 997):
        found = trie.longest(np.array([*strings[index], 0], np.int32), np.zeros(1, np.int32))
        assert found.numpy()[0] == last[tuple(strings[index])]
