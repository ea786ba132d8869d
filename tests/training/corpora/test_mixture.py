"""The order of rows: every row once a pass, sources in their shares, any draw found without those before it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.mixture import BLOCK, RowOrder, shares
from training.corpora.permutation import permuted


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_permutation_takes_every_number_once(size, seed):
    assert sorted(permuted(np.arange(size), size, seed)) == list(range(size))


def test_permutations_look_random():
    places = permuted(np.arange(10_000), 10_000, 1)
    assert not np.array_equal(places, permuted(np.arange(10_000), 10_000, 2))
    assert abs(np.corrcoef(np.arange(10_000), places)[0, 1]) < 0.03
    assert abs(np.mean(np.abs(np.diff(places))) / 10_000 - 1 / 3) < 0.01
    assert permuted(np.array([5]), 10**12, 3)[0] < 10**12


def test_natural_shares_take_every_row_once_a_pass_in_another_order():
    order = RowOrder({"a": 70, "b": 30}, seed=1)
    passes = order.numbers(np.arange(300)).reshape(3, 100)
    assert all(sorted(each) == list(range(100)) for each in passes)
    assert not np.array_equal(passes[0], passes[1])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_weights_give_each_source_its_share(temperature):
    sizes, weights = {"a": 5000, "b": 40_000, "c": 3000}, {"a": 3.0, "b": 1.0, "c": 0.5}
    order = RowOrder(sizes, seed=4, weights=weights, temperature=temperature)
    draws = order.numbers(np.arange(2 * BLOCK))
    expected = shares(sizes, weights, temperature)
    bounds = {"a": (0, 5000), "b": (5000, 45_000), "c": (45_000, 48_000)}
    for name, (first, end) in bounds.items():
        mine = draws[(draws >= first) & (draws < end)]
        assert abs(len(mine) - expected[name] * 2 * BLOCK) <= 2, "to a draw in each block"
        counts = np.bincount(mine - first, minlength=end - first)
        assert counts.max() - counts.min() <= 1, "every row of a source once in each of its passes"


def test_a_tiny_share_is_a_draw_of_each_block():
    sizes = {"a": 100_000, "b": 10_000, "c": 1000}
    order = RowOrder(sizes, seed=1, weights={"a": 1.0, "b": 2.0, "c": 1e-9})
    for block in (0, 5, 10**7):
        numbers = order.numbers(np.arange(block * BLOCK, (block + 1) * BLOCK))
        found = np.histogram(numbers, bins=[0, 100_000, 110_000, 111_000])[0]
        assert found.sum() == BLOCK
        assert found[2] == 1
        assert abs(found[0] - BLOCK / 3) <= 1


def test_any_draw_is_found_by_itself():
    order = RowOrder({"a": 50, "b": 400}, seed=4, weights={"a": 1.0, "b": 1.0})
    whole = order.numbers(np.arange(10_000))
    np.testing.assert_array_equal(order.numbers(np.array([9_999, 17, 4_096])), whole[[9_999, 17, 4_096]])


def test_shares_follow_weight_and_temperature():
    assert shares({"a": 300, "b": 100}, {}) == {"a": 0.75, "b": 0.25}
    flat = shares({"a": 300, "b": 100}, {}, temperature=1000.0)
    assert flat["a"] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError, match='source "b" has none, though "a" has'):
        shares({"a": 1, "b": 1}, {"a": 2.0})


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        RowOrder({"a": 0}, seed=1)
