"""Pairs of parts of a text: what stands where after the split, which parts are other texts', and how often."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from objective_rows import PLANS, SEEDS, laid_out, segments_of, texts_of, unmasked

from training.objectives import objective

NAMES = ("next-sentence", "sentence-order")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of):
    return tokenizer_of("bert")


@pytest.fixture(scope="module")
def runs(tokenizer):
    return {name: tf.function(objective(name, tokenizer)) for name in NAMES}


def parts_of(tokenizer, segment: list[int], types: list[int]) -> tuple[list[int], list[int]]:
    """The two parts between the special tokens, which have to stand where BERT has them."""
    begin = types.index(1)
    first, second = segment[1 : begin - 1], segment[begin:-1]
    assert segment[0] == tokenizer.cls_id
    assert segment[begin - 1] == segment[-1] == tokenizer.sep_id
    assert types == [0] * begin + [1] * (len(types) - begin)
    return first, second


def each_segment(tokenizer, rows, made):
    """(first part, second part, label, text, sentence numbers, (row, number)) of each segment that counts."""
    x, (mask_ids, labels), (_, weights) = made
    ids = unmasked(x, mask_ids)
    np.testing.assert_array_equal(x["segment_ids"], rows["segment_ids"])
    for row in range(len(ids)):
        texts = texts_of(tokenizer, rows, row)
        numbers = segments_of(rows["sentence_ids"], rows["segment_ids"], row)
        segments = segments_of(ids, rows["segment_ids"], row)
        types = segments_of(x["type_ids"], rows["segment_ids"], row)
        assert weights[row].numpy().sum() == sum(len(text) > 1 for text in texts)
        begins = np.flatnonzero((rows["positions"][row] == 0) & (rows["segment_ids"][row] > 0))
        np.testing.assert_array_equal(x["text_positions"][row].numpy()[: len(begins)], begins)
        for index, text in enumerate(texts):
            if len(text) < 2:
                assert int(weights[row, index]) == int(labels[row, index]) == 0
                assert segments[index] == segments_of(rows["token_ids"], rows["segment_ids"], row)[index]
                continue
            assert int(weights[row, index]) == 1
            first, second = parts_of(tokenizer, segments[index], types[index])
            sentences = [number for number in numbers[index] if number]
            yield first, second, int(labels[row, index]), text, sentences, (row, index)


def check_split(tokenizer, cut: int, text: list[int], sentences: list[int]) -> None:
    """The cut is between sentences; where there is one alone, at a word in the middle half where one begins there."""
    if len(set(sentences)) > 1:
        assert sentences[cut] != sentences[cut - 1]
        return
    words = [
        place
        for place in range(1, len(text))
        if len(text) <= 4 * place <= 3 * len(text) and not tokenizer.vocabulary[text[place]].startswith("##")
    ]
    assert not words or cut in words


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_sentence_order_swaps_the_parts_or_not(tokenizer, runs, plan, seed):
    rows = laid_out(tokenizer, "pair", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    made = runs["sentence-order"](rows, tf.constant([seed, 1]))
    for first, second, label, text, sentences, _ in each_segment(tokenizer, rows, made):
        assert (second + first if label else first + second) == text
        check_split(tokenizer, len(second) if label else len(first), text, sentences)


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_next_sentences_are_the_text_or_another_segments(tokenizer, runs, plan, seed):
    rows = laid_out(tokenizer, "pair", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    made = runs["next-sentence"](rows, tf.constant([seed, 1]))
    for first, second, label, text, sentences, own in each_segment(tokenizer, rows, made):
        assert first == text[: len(first)]
        assert len(first) + len(second) == len(text)
        check_split(tokenizer, len(first), text, sentences)
        if not label:
            assert second == text[len(first) :]
            continue
        # It begins in another segment at a sentence's start, or within one where its own text was split so.
        between = len(set(sentences)) > 1
        begins = []
        for row in range(4):
            numbers = segments_of(rows["sentence_ids"], rows["segment_ids"], row)
            for index, other in enumerate(texts_of(tokenizer, rows, row)):
                of_other = [number for number in numbers[index] if number]
                begins += [
                    place
                    for place in range(1, len(other) - len(second) + 1)
                    if (row, index) != own
                    and other[place : place + len(second)] == second
                    and (of_other[place] != of_other[place - 1]) == between
                ]
        assert begins


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_segments_are_changed(runs, rows_of, name):
    rows = rows_of("bert", "pair")
    labels, cuts = [], set()
    for seed in range(20):
        x, (_, label), (_, weights) = runs[name](rows, tf.constant([seed, 1]))
        labels.append(label.numpy()[weights.numpy() > 0])
        cuts.add(int(np.argmax(x["type_ids"][0])))
    share = np.concatenate(labels).mean()
    # A second part that is longer than all others of the batch has to stay.
    assert 0.45 < share < 0.53 if name == "next-sentence" else abs(share - 0.5) < 0.03
    assert len(cuts) > 2, "anew each time"


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_as_without_pairs(tokenizer, rows_of, name):
    rows = rows_of("bert", "pair")
    for options in ({}, {"unit": "word"}, {"unit": "span", "mask_rate": 0.3}):
        made = objective(name, tokenizer, **options)
        x, (mask_ids, _), (weights, _) = made(rows, [1, 2])
        assert not np.isin(mask_ids.numpy()[weights.numpy() > 0], tokenizer.special_ids).any()
        possible = (~np.isin(unmasked(x, mask_ids), tokenizer.special_ids) & (rows["segment_ids"] > 0)).sum(axis=1)
        wanted = np.array([round(made.mask_rate * count) for count in possible])
        given_up = wanted - weights.numpy().sum(axis=1)
        assert (given_up >= 0).all()
        assert not given_up.any() or options.get("unit") == "word"


def test_a_batch_of_one_segment_keeps_it(tokenizer):
    rows = laid_out(tokenizer, "pair", [[[4, 5]]], 16, 0)
    for seed in range(5):
        _, (_, labels), (_, weights) = objective("next-sentence", tokenizer)(rows, [seed, 1])
        assert labels.numpy().tolist() == [[0]]
        assert weights.numpy().tolist() == [[1.0]]


def test_other_parts_mostly_end_where_their_text_ends(tokenizer, runs, rows_of):
    """A part that breaks off would give itself away: of a batch's many parts one of the right length is found."""
    rows = rows_of("bert", "pair", 128)
    whole, count = 0, 0
    endings = {tuple(text[-6:]) for row in range(32) for text in texts_of(tokenizer, rows, row)}
    for seed in range(5):
        made = runs["next-sentence"](rows, tf.constant([seed, 1]))
        for _, second, label, *_ in each_segment(tokenizer, rows, made):
            if label and len(second) >= 6:
                count += 1
                whole += tuple(second[-6:]) in endings
    assert count > 50
    assert whole / count > 0.4


def test_types_are_those_of_the_tokenizers_pairs(tokenizer_of, rows_of):
    x, *_ = objective("sentence-order", tokenizer_of("roberta"))(rows_of("roberta", "pair"), [1, 2])
    assert not x["type_ids"].numpy().any(), "RoBERTa has one type"


def test_a_number_of_segments_may_be_given_and_is_checked(tokenizer, rows_of):
    rows = rows_of("bert", "pair")
    for name in (*NAMES, "contrastive"):
        run = tf.function(objective(name, tokenizer, most_segments=12))
        concrete = run.get_concrete_function(rows, tf.constant([1, 2])).structured_outputs
        assert concrete[0]["text_positions"].shape[1] == 12
        short = tf.function(objective(name, tokenizer, most_segments=1))
        with pytest.raises(tf.errors.InvalidArgumentError, match="most_segments: a row of this batch has more texts"):
            short(rows, tf.constant([1, 2]))


def test_contrast_has_each_text_and_its_twin(tokenizer, rows_of):
    rows = rows_of("bert", "single")
    x, groups, weights = objective("contrastive", tokenizer)(rows, [1, 2])
    segments, ids = rows["segment_ids"], rows["token_ids"]
    np.testing.assert_array_equal(x["token_ids"], np.repeat(ids, 2, axis=0))
    groups, index, weights = groups.numpy(), x["text_index"].numpy(), weights.numpy()
    assert sorted(groups[groups >= 0]) == sorted([*range(segments.max(1).sum())] * 2)
    assert sorted(index[groups >= 0]) == [*range(2 * segments.max(1).sum())]
    assert ((index < 0) == (groups < 0)).all()
    np.testing.assert_array_equal(groups[::2], groups[1::2])
    np.testing.assert_array_equal(weights[::2], groups[::2] >= 0)
    assert not weights[1::2].any()
    for row in range(64):
        for number, begin, end in zip(range(1, 99), x["text_positions"][row], x["text_ends"][row], strict=False):
            if index[row, number - 1] >= 0:
                assert np.flatnonzero(segments[row // 2] == number)[[0, -1]].tolist() == [begin, end]
