"""T5's spans: nothing is lost, as many tokens and spans as published, and every arrangement as likely as any other."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from objective_rows import PLANS, SEEDS, laid_out, segments_of, texts_of

from training.objectives import objective
from training.objectives.segments import random_parts


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of):
    return tokenizer_of("t5")


def restored(source: list[int], target: list[int], sentinels: list[int]) -> list[int]:
    """The source with the target's spans in the places of its sentinels."""
    spans, current = collections.defaultdict(list), None
    for token in target[:-1]:
        current = token if token in sentinels else current
        if token not in sentinels:
            spans[current].append(token)
    return [token for place in source for token in (spans[place] if place in sentinels else [place])]


def noise_mask(length: int, rate: float, mean: float, draw: np.random.Generator) -> np.ndarray:
    """T5's `random_spans_noise_mask`, in numpy."""
    noise = min(max(round(length * rate), 1), length - 1)
    spans = max(round(noise / mean), 1)

    def parts(count: int) -> np.ndarray:
        begins = draw.permutation(np.arange(count - 1) < spans - 1)
        return np.bincount(np.concatenate([[0], begins.cumsum()]), minlength=spans)

    lengths = np.stack([parts(length - noise), parts(noise)], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_spans_in_the_places_of_sentinels_give_back_the_text(tokenizer, runs, plan, seed):
    rows = laid_out(tokenizer, "single", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    for made, run in runs:
        x, y, weights = run(rows, tf.constant([seed, 1]))
        np.testing.assert_array_equal(weights > 0, x["target_segment_ids"] > 0)
        for row in range(4):
            sources = segments_of(x["token_ids"], x["segment_ids"], row)
            targets = segments_of(y, x["target_segment_ids"], row)
            originals = segments_of(rows["token_ids"], rows["segment_ids"], row)
            assert len(sources) == len(targets) == len(originals)
            texts = texts_of(tokenizer, rows, row)
            for source, target, original, text in zip(sources, targets, originals, texts, strict=True):
                assert restored(source, target, made.sentinels) == original
                used = [token for token in source if token in made.sentinels]
                assert used == made.sentinels[: len(used)] == [token for token in target if token in made.sentinels]
                assert target[-1] == tokenizer.eos_id
                lost = min(max(round(made.rate * len(text)), 1), len(text) - 1)
                assert len(target) - 1 - len(used) == lost
                spans = min(max(round(lost / made.mean_span), 1), len(text) - lost)
                assert len(used) == (spans if lost else 0)
                assert source[0] == original[0], "a segment begins with a token that stays"


@pytest.fixture(scope="module")
def runs(tokenizer):
    made = [
        objective("span-corruption", tokenizer, rate=rate, mean_span=mean) for rate, mean in ((0.15, 3), (0.6, 1.5))
    ]
    return [(each, tf.function(each)) for each in made]


def test_the_decoder_reads_its_target_behind_the_padding_token(tokenizer, rows_of):
    x, y, _ = objective("span-corruption", tokenizer)(rows_of("t5", "single"), [1, 2])
    segments = x["target_segment_ids"].numpy()
    begins = np.pad(segments[:, 1:] != segments[:, :-1], [[0, 0], [1, 0]], constant_values=True)
    read = x["target_ids"].numpy()
    assert (read[begins] == tokenizer.pad_id).all()
    np.testing.assert_array_equal(read[:, 1:][~begins[:, 1:]], y.numpy()[:, :-1][~begins[:, 1:]])


def test_every_arrangement_is_as_likely(tokenizer):
    rows = laid_out(tokenizer, "single", [[[8]]] * 6000, 9, 0)
    lost = objective("span-corruption", tokenizer, rate=0.375, mean_span=1.5).lost(
        {name: tf.constant(values) for name, values in rows.items()}, tf.constant([1, 2])
    )
    counts = collections.Counter(map(bytes, lost.numpy()[:, :8]))
    assert len(counts) == 8, "2 ways to part 3 lost tokens, 4 to part 5 others"
    np.testing.assert_allclose(np.array([*counts.values()]) / 6000, 1 / 8, atol=0.02)


@pytest.mark.parametrize("length", [20, 61])
def test_places_are_lost_as_often_as_by_the_reference(tokenizer, length):
    count, draw = 3000, np.random.default_rng(0)
    rows = laid_out(tokenizer, "single", [[[length]]] * count, length + 1, 0)
    lost = objective("span-corruption", tokenizer).lost(
        {name: tf.constant(values) for name, values in rows.items()}, tf.constant([3, 4])
    )
    expected = np.mean([noise_mask(length, 0.15, 3.0, draw) for _ in range(count)], axis=0)
    np.testing.assert_allclose(lost.numpy()[:, :length].mean(axis=0), expected, atol=0.04)


def test_parts_are_random_and_none_is_empty():
    counts, parts = tf.constant([[5, 3, 0, 7]] * 3000), tf.constant([[2, 3, 1, 1]] * 3000)
    sizes = random_parts(counts, parts, 15, tf.constant([1, 2])).numpy()
    assert (sizes[:, 7:] == 0).all()
    np.testing.assert_array_equal(sizes[:, 2:7], [[1, 1, 1, 0, 7]] * 3000)
    assert (sizes[:, :2].sum(axis=1) == 5).all()
    np.testing.assert_allclose(np.bincount(sizes[:, 0])[1:] / 3000, 1 / 4, atol=0.03)


def test_rows_are_tight(tokenizer, rows_of):
    x, _, weights = objective("span-corruption", tokenizer)(rows_of("t5", "single", 128), [1, 2])
    assert (x["segment_ids"].numpy() > 0).mean() > 0.9
    assert weights.numpy().mean() > 0.75
    assert x["token_ids"].shape[1] % 8 == 0


def test_lengths_may_be_given_and_are_checked(tokenizer, rows_of):
    rows = rows_of("t5", "single")
    made = objective("span-corruption", tokenizer, source_length=64, target_length=24)
    run = tf.function(made)
    x, y, _ = run(rows, tf.constant([1, 2]))
    assert x["token_ids"].shape == (32, 64)
    assert y.shape == (32, 24)
    structure = run.get_concrete_function(rows, tf.constant([1, 2])).structured_outputs
    assert structure[0]["target_ids"].shape == [32, 24]
    for option in ("source_length", "target_length"):
        short = objective("span-corruption", tokenizer, **{option: 5})
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{option}: 5 places are too few"):
            tf.function(short)(rows, tf.constant([1, 2]))
