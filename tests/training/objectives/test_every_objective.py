"""What all objectives owe: names, options and errors, seeds, shapes, rows of padding, and positions that begin anew."""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from objective_rows import NAMES, PLANS, SEEDS, laid_out

from garden.layers.positions import segment_positions
from garden.tokenizers import WordPieceTokenizer
from training import configuration
from training.objectives import OBJECTIVES, objective, options_of

KINDS = {"denoising": "roberta", "span-corruption": "t5"}
CASES = [(name, {}) for name in OBJECTIVES]
CASES += [("masked-lm", {"unit": "word"}), ("masked-lm", {"unit": "span"})]
CASES += [("denoising", {"rotated_share": 0.5, "deletion_rate": 0.1, "mask_rate": 0.1, "shuffled_share": 0.5})]
IDS = ["-".join([name, *(str(value) for value in options.values())]) for name, options in CASES]
UNSEEDED = {"causal-lm", "contrastive"}


@pytest.fixture(params=CASES, ids=IDS)
def case(request, tokenizer_of, rows_of):
    """(name, objective, rows)."""
    name, options = request.param
    kind = KINDS.get(name, "bert")
    made = objective(name, tokenizer_of(kind), **options)
    return name, made, rows_of(kind, made.layout)


def flat(made) -> list[np.ndarray]:
    return [value.numpy() for value in tf.nest.flatten(made)]


def same(first, second) -> bool:
    pairs = zip(flat(first), flat(second), strict=True)
    return all(one.shape == other.shape and (one == other).all() for one, other in pairs)


def test_names_are_listed_without_tensorflow():
    code = "import sys; from training.objectives import OBJECTIVES; list(OBJECTIVES); sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert len(OBJECTIVES) == 8
    assert "masked-lm" in OBJECTIVES
    assert "masked" not in OBJECTIVES


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("masked", {}, 'objective: expected one of masked-lm, next-sentence, .*, got "masked"'),
        ("masked-lm", {"rate": 0.2}, r'objective "masked-lm": rate: no such key .* known: mask_rate, mask_share, .*'),
        (
            "masked-lm",
            {"mask_rate": 1.5},
            'objective "masked-lm": mask_rate: expected a number above 0 and below 1, got 1.5',
        ),
        ("masked-lm", {"mask_rate": "high"}, "mask_rate: expected a number .* got high"),
        ("masked-lm", {"unit": "line"}, 'unit: expected one of token, word, span, got "line"'),
        ("masked-lm", {"mask_share": 0.9, "random_share": 0.2}, "at most 1 together, got 0.9 and 0.2"),
        ("causal-lm", {"mask_rate": 0.1}, "mask_rate: no such key"),
        ("span-corruption", {}, "has no sentinels; train one with the special tokens <extra_id_0>"),
    ],
)
def test_errors_say_what_is_possible(tokenizer_of, name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        objective(name, tokenizer_of("bert"), **options)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_masks_is_an_error(tokenizer_of):
    for name in ("masked-lm", "next-sentence", "denoising", "replaced-token-detection"):
        with pytest.raises(ValueError, match=f'objective "{name}": the tokenizer has no mask token'):
            objective(name, tokenizer_of("t5"))


def test_options_have_meanings_and_defaults():
    for name in OBJECTIVES:
        for line, meaning in configuration.key_table(options_of(name)):
            assert ": " in line
            assert meaning
    assert ("mask_rate: 0.15", "share of a row's tokens that are predicted") in configuration.key_table(
        options_of("masked-lm")
    )


def test_another_task_is_an_error(tokenizer_of):
    class Other:
        name_in_configs = "text-classification"

    with pytest.raises(ValueError, match='learnt by "masked-lm", got a "text-classification"'):
        objective("masked-lm", tokenizer_of("bert")).for_task(Other())


def test_a_seed_decides(case):
    name, made, rows = case
    first, again, other = made(rows, [1, 2]), made(rows, [1, 2]), made(rows, [1, 3])
    assert same(first, again)
    assert same(first, other) == (name in UNSEEDED)


def test_works_in_a_dataset_and_with_lengths_that_are_unknown(case):
    _, made, rows = case
    data = tf.data.Dataset.from_tensor_slices(rows).batch(8, drop_remainder=True).enumerate()
    data = data.map(lambda step, batch: made(batch, tf.stack([3, tf.cast(step, tf.int32)])))
    unknown = {field: tf.TensorSpec([None, None], tf.int32) for field in NAMES}
    free = tf.function(made, input_signature=[unknown, tf.TensorSpec([2], tf.int32)])
    batches = list(data)
    assert len(batches) == 4
    for number, batch in enumerate(batches):
        of_batch = {name: values[8 * number : 8 * number + 8] for name, values in rows.items()}
        assert same(batch, free(of_batch, tf.constant([3, number])))
    short = {field: values[:1, :9] for field, values in rows.items()}
    assert flat(free(short, tf.constant([1, 1])))
    assert free.experimental_get_tracing_count() == 1, "one graph serves all batches"
    x, y, weights = data.element_spec
    assert all(spec.shape.rank == 2 for spec in tf.nest.flatten((y, weights)))
    if "mask_positions" in x:
        assert x["mask_positions"].shape == [8, round(0.15 * (64 - made.overhead))], "no place more than a row needs"


def test_rows_of_padding_count_for_nothing(case):
    _, made, rows = case
    for count in (1, 3):
        empty = {name: np.zeros([count, 64], np.int32) for name in NAMES}
        empty["token_ids"] += made.tokenizer.pad_id or 0
        x, _, weights = made(empty, [1, 2])
        assert all((weight == 0).all() for weight in flat(weights))
        for name in ("segment_ids", "target_segment_ids"):
            assert not np.any(x.get(name, 0))
    # Beside others they change nothing of what those are: counts and weights.
    mixed = {name: np.concatenate([values[:4], empty[name][:1]]) for name, values in rows.items()}
    for weights, alone in zip(flat(made(mixed, [1, 2])[2]), flat(made(rows, [1, 2])[2]), strict=True):
        if len(weights) == 5:
            assert not weights[4].any()
            assert alone[:4].any()


def test_inputs_are_rows_in_gardens_words(case):
    name, made, rows = case
    x, y, weights = made(rows, [1, 2])
    assert {value.dtype for value in x.values()} == {tf.int32}
    assert {value.dtype for value in tf.nest.flatten(y)} == {tf.int32}
    assert {value.dtype for value in tf.nest.flatten(weights)} == {tf.float32}
    for prefix in ("", "target_"):
        if prefix + "segment_ids" in x:
            segment_ids, positions = x[prefix + "segment_ids"], x[prefix + "positions"]
            np.testing.assert_array_equal(positions, np.where(segment_ids > 0, segment_positions(segment_ids), 0))
    if name == "denoising":
        np.testing.assert_array_equal(y, rows["token_ids"])
    assert (x["token_ids"].numpy() < made.tokenizer.vocabulary_size).all()


@given(plan=PLANS, seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_masks_of_any_layout_of_rows(tokenizer_of, run_of, plan, seed):
    rows = laid_out(tokenizer_of("bert"), "single", [*plan, *[[]] * (4 - len(plan))], 40, seed)
    for unit in ("token", "span"):
        x, mask_ids, weights = run_of(unit)(rows, tf.constant([seed, 1]))
        np.testing.assert_array_equal(x["segment_ids"], rows["segment_ids"])
        for row, chosen in enumerate(x["mask_positions"].numpy()):
            counted = weights[row].numpy() > 0
            possible = np.flatnonzero(rows["sentence_ids"][row])
            assert len(set(chosen[counted])) == counted.sum() == min(max(round(0.15 * len(possible)), 1), len(possible))
            assert set(chosen[counted]) <= set(possible)
            np.testing.assert_array_equal(mask_ids[row], rows["token_ids"][row, chosen])


@pytest.fixture(scope="module")
def run_of(tokenizer_of):
    return functools.cache(lambda unit: tf.function(objective("masked-lm", tokenizer_of("bert"), unit=unit)))


def test_a_vocabulary_without_marks_has_words_of_one_token():
    from garden.tasks.masking import begins_word

    plain = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    assert begins_word(plain).all()
