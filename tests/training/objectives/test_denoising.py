"""BART's noise: each kind alone against what it may do, infilling against a plain twin, and the default together."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from objective_rows import PLANS, SEEDS, laid_out, segments_of, texts_of

from training.objectives import objective
from training.objectives.base import split_seed

NONE = {"infilling_rate": 0.0, "shuffled_share": 0.0}


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of):
    return tokenizer_of("roberta")


@pytest.fixture(scope="module")
def run_of(tokenizer):
    """A function: options -> the objective as a graph."""
    made = {}

    def run(**options):
        key = tuple(options.items())
        if key not in made:
            made[key] = tf.function(objective("denoising", tokenizer, **options))
        return made[key]

    return run


def each_segment(tokenizer, rows, made):
    """(source's text, original text) of each segment, after a look at what stands round them, and at the target."""
    x, y, _ = made
    for row in range(len(rows["token_ids"])):
        originals = segments_of(rows["token_ids"], rows["segment_ids"], row)
        sources = segments_of(x["token_ids"], x["segment_ids"], row)
        assert segments_of(y, x["target_segment_ids"], row) == originals
        assert len(sources) == len(originals)
        for source, original, text in zip(sources, originals, texts_of(tokenizer, rows, row), strict=True):
            assert (source[0], source[-1]) == (original[0], original[-1]), "special tokens stay"
            yield source[1:-1], text


def wide(tokenizer, count=300, sentences=(5, 3, 7, 4, 6)):
    """Rows of one text; tokens may occur several times."""
    return laid_out(tokenizer, "single", [[list(sentences)]] * count, sum(sentences) + 2, 0)


def is_subsequence(part, whole) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_infilling_is_as_by_a_plain_twin(tokenizer, run_of, plan, seed):
    rows = laid_out(tokenizer, "single", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    made = run_of(infilling_rate=0.3, shuffled_share=0.0)(rows, tf.constant([seed, 1]))
    for_lengths, for_places = split_seed(split_seed(tf.constant([seed, 1]), 4)[2], 2)
    drawn = tf.random.stateless_poisson([4, 40], for_lengths, 3.0, tf.int32).numpy()
    expected, kinds = [], []
    for row in range(4):
        place = 0
        for text in texts_of(tokenizer, rows, row):
            place += 1
            left, lengths = math.ceil(0.3 * len(text) - 1e-6), []
            for index in range(len(text)):
                if left > 0:
                    last = index == len(text) - 1
                    lengths.append(left if last else min(drawn[row, place + index], left))
                    left -= lengths[-1]
            kinds.append((row, text, lengths))
            place += len(text) + 1
    width = max(
        sum(2 + len(text) - sum(lengths) + len(lengths) for other, text, lengths in kinds if other == row)
        for row in range(4)
    )
    draws = tf.random.stateless_uniform([4, width], for_places).numpy() if width else None
    begins = [0] * 4
    for row, text, lengths in kinds:
        count = len(text) - sum(lengths) + len(lengths)
        begin = begins[row] + 1
        begins[row] += count + 2
        spans = sorted(np.argsort(draws[row, begin : begin + count], kind="stable")[: len(lengths)])
        source, place = [], 0
        for item in range(count):
            if item in spans:
                source.append(tokenizer.mask_id)
                place += lengths[spans.index(item)]
            else:
                source.append(text[place])
                place += 1
        expected.append(source)
    assert [source for source, _ in each_segment(tokenizer, rows, made)] == expected


def test_spans_are_as_long_as_published(tokenizer, run_of):
    rows = wide(tokenizer, 500, [200])
    made = run_of(infilling_rate=0.3, shuffled_share=0.0)(rows, tf.constant([1, 2]))
    masks, kept = [], []
    for source, text in each_segment(tokenizer, rows, made):
        masks.append(source.count(tokenizer.mask_id))
        kept.append(len(source) - masks[-1])
        assert kept[-1] == len(text) - 60
        assert is_subsequence([token for token in source if token != tokenizer.mask_id], text)
    # Lengths of mean 3 until 60 are hidden: 20 spans, and half a span more, since the last is cut.
    assert abs(np.mean(masks) - 20.6) < 0.5


def test_sentences_are_shuffled_whole(tokenizer, run_of):
    rows = wide(tokenizer, 600)
    bounds = np.cumsum([0, 5, 3, 7, 4, 6])
    firsts, orders = np.zeros(5), set()
    made = run_of(infilling_rate=0.0, shuffled_share=1.0)(rows, tf.constant([1, 2]))
    for source, text in each_segment(tokenizer, rows, made):
        sentences = [tuple(text[begin:end]) for begin, end in itertools.pairwise(bounds)]
        order, place = [], 0
        while place < len(source):
            number = next(i for i, each in enumerate(sentences) if tuple(source[place : place + len(each)]) == each)
            order.append(number)
            place += len(sentences[number])
        assert sorted(order) == [0, 1, 2, 3, 4]
        firsts[order[0]] += 1
        orders.add(tuple(order))
    np.testing.assert_allclose(firsts / 600, 1 / 5, atol=0.07)
    assert len(orders) > 100, "of 120"


def test_rotation_begins_anywhere(tokenizer, run_of):
    rows = wide(tokenizer, 600, [10])
    made = run_of(**NONE, rotated_share=0.5)(rows, tf.constant([1, 2]))
    begins = np.zeros(10)
    for source, text in each_segment(tokenizer, rows, made):
        turns = [text[begin:] + text[:begin] for begin in range(10)]
        begins[turns.index(source)] += 1
    np.testing.assert_allclose(begins / 600, [0.55, *[0.05] * 9], atol=0.06)


def test_deletion_and_masks_take_their_shares(tokenizer, run_of):
    rows = wide(tokenizer)
    for source, text in each_segment(tokenizer, rows, run_of(**NONE, deletion_rate=0.2)(rows, tf.constant([1, 2]))):
        assert len(source) == 20
        assert is_subsequence(source, text)
    for source, text in each_segment(tokenizer, rows, run_of(**NONE, mask_rate=0.2)(rows, tf.constant([1, 2]))):
        masks = np.array(source) == tokenizer.mask_id
        assert masks.sum() == 5
        np.testing.assert_array_equal(np.array(source)[~masks], np.array(text)[~masks])


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_nothing_comes_from_another_segment(tokenizer, run_of, plan, seed):
    rows = laid_out(tokenizer, "single", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    for options in ({}, {"rotated_share": 0.5, "deletion_rate": 0.4, "mask_rate": 0.2}):
        made = run_of(**options)(rows, tf.constant([seed, 3]))
        for source, text in each_segment(tokenizer, rows, made):
            left = list(text)
            for token in source:
                if token != tokenizer.mask_id:
                    left.remove(token)


def test_without_noise_the_source_is_the_text(tokenizer, rows_of):
    rows = rows_of("roberta", "single")
    x, y, weights = objective("denoising", tokenizer, **NONE, source_length=64)(rows, [1, 2])
    np.testing.assert_array_equal(x["token_ids"], rows["token_ids"])
    np.testing.assert_array_equal(y, rows["token_ids"])
    assert weights.numpy().sum() == (rows["segment_ids"] > 0).sum()
    assert (x["target_ids"].numpy()[:, 0] == tokenizer.eos_id).all(), "as BART's decoder begins"


def test_targets_get_an_end_where_segments_have_none(tokenizer):
    bare = tokenizer.with_template(type(tokenizer.template)())
    rows = laid_out(bare, "single", [[[3], [4]], [[9]]], 10, 0)
    x, y, _ = objective("denoising", bare)(rows, [1, 2])
    for row in range(2):
        originals = segments_of(rows["token_ids"], rows["segment_ids"], row)
        ended = [[*segment, tokenizer.eos_id] for segment in originals]
        assert segments_of(y, x["target_segment_ids"], row) == ended
