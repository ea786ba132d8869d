"""Masked tokens, words and spans: how many, which, and what becomes of them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from objective_rows import PLANS, SEEDS, laid_out, unmasked

from garden.tasks.masking import begins_word
from training.objectives import objective
from training.objectives.base import split_seed
from training.objectives.masked_lm import barriers, span_starts


def ordinary(tokenizer, rows) -> np.ndarray:
    return (rows["segment_ids"] > 0) & ~np.isin(rows["token_ids"], tokenizer.special_ids)


def words(tokenizer, rows) -> list[list[list[int]]]:
    """For each row, the places of each word."""
    begins, found = begins_word(tokenizer), []
    for row, inside in enumerate(ordinary(tokenizer, rows)):
        found.append([])
        for place in np.flatnonzero(inside):
            new = begins[rows["token_ids"][row, place]] or rows["positions"][row, place] == 0
            if new or not inside[place - 1] or not found[-1]:
                found[-1].append([])
            found[-1][-1].append(int(place))
    return found


def chosen(x, weights) -> list[set[int]]:
    return [
        set(places[weight > 0]) for places, weight in zip(x["mask_positions"].numpy(), weights.numpy(), strict=True)
    ]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("unit", ["token", "span"])
@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_each_row_hides_its_share_exactly(tokenizer_of, rows_of, kind, unit, rate):
    tokenizer, rows = tokenizer_of(kind), rows_of(kind, "single")
    x, y, weights = objective("masked-lm", tokenizer, unit=unit, mask_rate=rate)(rows, [1, 2])
    possible = ordinary(tokenizer, rows)
    for row, places in enumerate(chosen(x, weights)):
        assert len(places) == weights[row].numpy().sum() == round(rate * possible[row].sum())
        assert possible[row][list(places)].all()
    np.testing.assert_array_equal(unmasked(x, y), rows["token_ids"])
    assert weights.numpy().mean() > 0.9, "few of the places are in vain"


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_words_are_chosen_as_by_a_plain_twin(tokenizer_of, run_of, plan, seed):
    tokenizer = tokenizer_of("bert")
    rows = laid_out(tokenizer, "single", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    x, y, weights = run_of(rows, tf.constant([seed, 5]))
    draws = tf.random.stateless_uniform([4, 40], split_seed(tf.constant([seed, 5]), 3)[1]).numpy()
    possible = ordinary(tokenizer, rows)
    starts = np.ones([4, 40], bool)
    for row, of_row in enumerate(words(tokenizer, rows)):
        for word in of_row:
            starts[row, word[1:]] = False
    groups = starts.cumsum(axis=1) - 1
    for row, of_row in enumerate(words(tokenizer, rows)):
        left = min(max(round(0.3 * possible[row].sum()), 1), possible[row].sum())
        expected = set()
        for word in sorted(of_row, key=lambda word: -draws[row, groups[row, word[0]]]):
            if len(word) <= left:
                expected |= set(word)
                left -= len(word)
        assert chosen(x, weights)[row] == expected
    np.testing.assert_array_equal(unmasked(x, y), rows["token_ids"])


@pytest.fixture(scope="module")
def run_of(tokenizer_of):
    return tf.function(objective("masked-lm", tokenizer_of("bert"), unit="word", mask_rate=0.3))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_words_are_hidden_whole(tokenizer_of, rows_of, kind):
    tokenizer, rows = tokenizer_of(kind), rows_of(kind, "single")
    x, _, weights = objective("masked-lm", tokenizer, unit="word")(rows, [1, 2])
    counts = []
    for row, (places, of_row) in enumerate(zip(chosen(x, weights), words(tokenizer, rows), strict=True)):
        assert all(len(places & set(word)) in (0, len(word)) for word in of_row)
        wanted = round(0.15 * ordinary(tokenizer, rows)[row].sum())
        counts.append(wanted - len(places))
    assert min(counts) >= 0
    assert np.mean(counts) < 0.3, "hardly a token less than asked for"
    several = [len(word) for of_row in words(tokenizer, rows) for word in of_row]
    assert max(several) > 1


def test_spans_have_the_lengths_of_spanbert():
    """Lengths between starts of words each of one token, but for the last of each row, which its end may have cut."""
    stops = np.zeros([200, 300], bool)
    stops[:, 0] = True
    starts = span_starts(tf.constant(stops), tf.ones([200, 300], tf.bool), tf.constant([1, 2])).numpy()
    lengths = np.concatenate([np.diff(np.flatnonzero(row)) for row in starts])
    expected = 0.2 * 0.8 ** np.arange(10)
    expected /= expected.sum()
    shares = np.bincount(lengths, minlength=11)[1:] / len(lengths)
    assert len(shares) == 10
    np.testing.assert_allclose(shares, expected, atol=0.01)
    assert abs(lengths.mean() - 3.8) < 0.05


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_spans_start_at_words_and_stay_in_their_segment(tokenizer_of, rows_of, kind):
    tokenizer, rows = tokenizer_of(kind), rows_of(kind, "single")
    inside = tf.constant(ordinary(tokenizer, rows))
    stops = barriers(rows, inside)
    made = objective("masked-lm", tokenizer, unit="span")
    groups = made._groups(rows, inside, tf.constant([1, 2])).numpy()
    lengths = []
    for row, of_row in enumerate(words(tokenizer, rows)):
        for word in of_row:
            assert len(set(groups[row, word])) == 1, "words are whole"
        for group in set(groups[row][inside[row]]):
            places = np.flatnonzero((groups[row] == group) & inside[row])
            assert (np.diff(places) == 1).all()
            assert not stops.numpy()[row, places[1:]].any()
            lengths.append(sum(word[0] in places for word in of_row))
    assert max(lengths) <= 10
    assert 2.5 < np.mean(lengths) < 3.8, "segments' ends cut some"


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_places_are_equally_likely_whatever_is_hidden_together(tokenizer_of, unit):
    tokenizer = tokenizer_of("bert")
    rows = laid_out(tokenizer, "single", [[[60]]] * 1500, 62, 0)
    x, _, weights = objective("masked-lm", tokenizer, unit=unit, mask_rate=0.4)(rows, [1, 2])
    counts = np.bincount(x["mask_positions"].numpy()[weights > 0], minlength=62)
    assert counts[0] == counts[-1] == 0
    # The text's ends cut words and spans, and short ones fit when long ones no longer do.
    np.testing.assert_allclose(counts[1:-1] / counts.sum(), 1 / 60, atol=0.003)
    np.testing.assert_allclose(counts[3:-3] / counts.sum(), 1 / 60, atol=0.002)


@pytest.mark.parametrize(
    ("options", "masks", "others"), [({}, 0.8, 0.1), ({"mask_share": 0.5, "random_share": 0.3}, 0.5, 0.3)]
)
@pytest.mark.parametrize("unit", ["token", "span"])
def test_masks_random_tokens_and_kept_ones_have_their_shares(tokenizer_of, options, masks, others, unit):
    tokenizer = tokenizer_of("bert")
    rows = laid_out(tokenizer, "single", [[[120]]] * 300, 128, 1)
    x, y, weights = objective("masked-lm", tokenizer, unit=unit, mask_rate=0.3, **options)(rows, [1, 2])
    counted = weights.numpy() > 0
    now = np.take_along_axis(x["token_ids"].numpy(), x["mask_positions"].numpy(), axis=1)[counted]
    before = y.numpy()[counted]
    slack = 0.02 if unit == "token" else 0.04
    assert abs((now == tokenizer.mask_id).mean() - masks) < slack
    assert abs(((now != tokenizer.mask_id) & (now != before)).mean() - others) < slack
    if unit == "span":
        # A span shares its fate: a mask next to a chosen place that kept its token is rare.
        places = x["mask_positions"].numpy()
        is_mask = np.take_along_axis(x["token_ids"].numpy(), places, axis=1) == tokenizer.mask_id
        together = counted[:, 1:] & counted[:, :-1] & (np.diff(places, axis=1) == 1)
        assert (is_mask[:, 1:] == is_mask[:, :-1])[together].mean() > 0.95


def test_electra_masks_or_keeps(tokenizer_of):
    tokenizer = tokenizer_of("bert")
    rows = laid_out(tokenizer, "single", [[[126]]] * 200, 128, 1)
    x, y, weights = objective("replaced-token-detection", tokenizer)(rows, [1, 2])
    now = np.take_along_axis(x["token_ids"].numpy(), x["mask_positions"].numpy(), axis=1)
    masks = now == tokenizer.mask_id
    assert weights.numpy().all()
    assert abs(masks.mean() - 0.85) < 0.02
    np.testing.assert_array_equal(now[~masks], y.numpy()[~masks])


def test_next_tokens_stay_in_their_segment(tokenizer_of, rows_of):
    rows = rows_of("bert", "causal")
    x, y, weights = objective("causal-lm", tokenizer_of("bert"))(rows, [1, 2])
    ids, segments = rows["token_ids"], rows["segment_ids"]
    np.testing.assert_array_equal(x["token_ids"], ids)
    expected = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    np.testing.assert_array_equal(weights[:, :-1] > 0, expected)
    np.testing.assert_array_equal(y.numpy()[:, :-1][expected], ids[:, 1:][expected])
    assert not weights[:, -1].numpy().any()
