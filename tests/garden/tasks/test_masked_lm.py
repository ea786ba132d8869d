"""Masked language modelling: which tokens are hidden and how, what is counted, and what stands in for a mask."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from garden import MaskedLM
from garden.tasks.masking import mask_tokens

MASK, SIZE = 4, 1_000
TEXTS = ["a good film", "the story was moving and the actors fine", "an awful end it was dull and tiresome", "bad"]


@pytest.fixture(scope="module")
def model(still_bert):
    model = MaskedLM.from_pretrained(still_bert, row_length=32)
    model.compile(run_eagerly=True)
    return model


def masked(shape=(64, 128), rate=0.15, seed=(1, 2), maskable=None):
    token_ids = np.random.default_rng(0).integers(5, SIZE, shape).astype(np.int32)
    maskable = np.ones(shape, bool) if maskable is None else maskable
    given = mask_tokens(
        tf.constant(token_ids), tf.constant(maskable), tf.constant(seed), rate=rate, mask_id=MASK, vocabulary_size=SIZE
    )
    return token_ids, {name: value.numpy() for name, value in given.items()}


def test_eighty_percent_masks_ten_random_ten_kept():
    before, given = masked((200, 100), rate=0.5)
    rows = np.arange(200)[:, None]
    originals, now = before[rows, given["mask_positions"]], given["token_ids"][rows, given["mask_positions"]]
    np.testing.assert_array_equal(given["mask_ids"], originals)
    assert (given["mask_weights"] == 1).all()
    masks, kept = (now == MASK).mean(), (now == originals).mean()
    slack = 5 * np.sqrt(0.25 / now.size)
    assert abs(masks - 0.8) < slack
    assert abs(kept - 0.1) < slack
    others = now[(now != MASK) & (now != originals)]
    assert abs(others.size / now.size - 0.1) < slack
    assert abs(others.mean() / SIZE - 0.5) < 0.05, "random tokens come from the whole vocabulary"
    # Nothing else changed.
    untouched = np.ones_like(before, bool)
    untouched[rows, given["mask_positions"]] = False
    np.testing.assert_array_equal(given["token_ids"][untouched], before[untouched])


@pytest.mark.parametrize("rate", [0.01, 0.15, 0.4, 0.99])
def test_each_row_hides_its_share(rate):
    maskable = np.arange(40)[None] < np.array([[40], [20], [7], [1], [0]])
    before, given = masked((5, 40), rate, maskable=maskable)
    assert given["mask_positions"].shape == (5, max(round(rate * 40), 1)), "no place more than a full row needs"
    for row, possible in enumerate([40, 20, 7, 1, 0]):
        chosen = given["mask_positions"][row][given["mask_weights"][row] > 0]
        assert len(chosen) == len(set(chosen)) == min(max(round(rate * possible), 1), possible)
        assert (chosen < possible).all()
        np.testing.assert_array_equal(np.delete(given["token_ids"][row], chosen), np.delete(before[row], chosen))


def test_all_places_are_as_likely():
    counts = np.zeros(20)
    for seed in range(40):
        _, given = masked((100, 20), 0.1, (seed, 0))
        counts += np.bincount(given["mask_positions"].ravel(), minlength=20)
    assert abs(counts / counts.sum() - 0.05).max() < 0.01


def test_a_seed_decides():
    _, first = masked()
    _, again = masked()
    _, other = masked(seed=(1, 3))
    np.testing.assert_array_equal(first["token_ids"], again["token_ids"])
    assert np.any(first["mask_positions"] != other["mask_positions"])


@pytest.mark.parametrize("training", [True, False])
def test_special_tokens_and_padding_are_never_predicted(model, training):
    raw = model.raw_dataset([*TEXTS * 4, "[SEP] [MASK] good", ""], batch_size=9)
    for x, y, weights in model.prepared_dataset(raw, training=training):
        assert not set(y.numpy()[weights > 0]) & set(model.tokenizer.special_ids)
        segments = tf.gather(x["segment_ids"], x["mask_positions"], batch_dims=1)
        assert (segments.numpy()[weights > 0] > 0).all()
        assert weights.numpy().any()


def test_rows_hold_several_texts_while_training(model):
    ((x, _, _),) = model.prepared_dataset(model.raw_dataset(TEXTS * 4), training=True)
    assert x["token_ids"].shape == (4, 32)
    assert x["segment_ids"].numpy().max() > 2


def test_masked_positions_are_read_from_the_whole(model):
    ids = model.tokenizer(["a [MASK] film with [MASK] actors"]).to_tensor()
    whole = model({"token_ids": ids})
    assert whole.shape == (1, 8, model.backbone.config.vocab_size)
    positions = np.array([[2, 5, 0]], np.int32)
    np.testing.assert_allclose(
        model({"token_ids": ids, "mask_positions": positions}), whole.numpy()[:, positions[0]], atol=1e-5
    )


def test_loss_is_the_mean_over_what_counts(model):
    ((x, y, weights),) = model.prepared_dataset(model.raw_dataset(TEXTS))
    logits = model(x).numpy().astype(np.float64)
    log_chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = [(row, place) for row, place in np.argwhere(weights.numpy() > 0)]
    losses = [-log_chances[row, place, y[row, place]] for row, place in counted]
    right = [logits[row, place].argmax() == y[row, place] for row, place in counted]
    given = model.evaluate(TEXTS, verbose=0, return_dict=True)
    assert given["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert given["masked_accuracy"] == pytest.approx(np.mean(right))
    assert model.evaluate(TEXTS, verbose=0, return_dict=True)["loss"] == given["loss"], "each time the same masks"


def test_fit_and_evaluate_take_texts_without_labels(still_bert, tiny_data):
    model = MaskedLM.from_pretrained(still_bert, mask_rate=0.3)
    model.compile(learning_rate=1e-2, run_eagerly=True)
    before = model.evaluate(tiny_data["test"], verbose=0)[0]
    model.fit(tiny_data["train"], batch_size=24, epochs=3, verbose=0)
    assert model.evaluate(tiny_data["test"], verbose=0)[0] < before - 0.3
    with pytest.raises(ValueError, match="labels: masked language modelling makes its own; give texts only"):
        model.fit(TEXTS, [0] * 4)
    with pytest.raises(ValueError, match="weights: masked language modelling has none"):
        model.fit(TEXTS, sample_weight=[1.0] * 4)


def test_masks_differ_between_epochs_and_go_on_after_a_pause(still_bert):
    model = MaskedLM.from_pretrained(still_bert)
    model.compile()
    # One dataset for ever: the epochs of a `fit`, and a long run that is resumed.
    forever = model.prepared_dataset(model.raw_dataset(TEXTS).repeat(), training=True)
    four = [x["token_ids"].numpy() for x, _, _ in forever.take(4)]
    assert len({ids.tobytes() for ids in four}) == 4
    model.optimizer.iterations.assign(3)
    resumed = model.prepared_dataset(model.raw_dataset(TEXTS).repeat(), training=True)
    np.testing.assert_array_equal(next(iter(resumed))[0]["token_ids"], four[3])
    model.optimizer.iterations.assign(0)
    again = model.prepared_dataset(model.raw_dataset(TEXTS), training=True)
    assert len({next(iter(again))[0]["token_ids"].numpy().tobytes() for _ in range(3)}) == 3


def test_predict_text_names_candidates(model):
    candidates = model.predict_text("a [MASK] film", candidates=3)
    assert len(candidates) == 3
    assert [answer["score"] for answer in candidates] == sorted(
        [answer["score"] for answer in candidates], reverse=True
    )
    logits = model({"token_ids": model.tokenizer(["a [MASK] film"]).to_tensor()})[0, 2]
    chances = tf.nn.softmax(logits).numpy()
    best = chances.argmax()
    assert candidates[0]["token"] == model.tokenizer.vocabulary[best]
    assert candidates[0]["score"] == pytest.approx(chances[best], abs=1e-5)
    plain = next(answer for answer in candidates if not answer["token"].startswith("["))
    assert plain["text"] == f"a {plain['token']} film"


def test_predict_text_of_several_texts_and_masks(model):
    one, two = model.predict_text(["[MASK]", "the [MASK] was [MASK] and it was a film with an end"])
    assert [len(candidates) for candidates in two] == [5, 5]
    assert one[0].keys() == two[0][0].keys() == {"token", "score", "text"}
    alone = model.predict_text("[MASK]")
    assert [answer["score"] for answer in one] == pytest.approx([answer["score"] for answer in alone], abs=1e-5)


def test_predict_text_wants_a_mask(model):
    with pytest.raises(ValueError, match=r"no \[MASK\] in the text 'a film'; write \[MASK\] where a word is wanted"):
        model.predict_text(["a [MASK]", "a film"])


def test_answers_are_for_the_first_mask(model):
    texts = ["a [MASK] film", "no mask", "the [MASK] was [MASK]"]
    given = model.answer(tf.constant(texts))
    assert given["tokens"].shape == given["scores"].shape == (3, 5)
    assert given["tokens"].numpy()[1].tolist() == [b""] * 5
    assert not given["scores"].numpy()[1].any()
    for index, candidates in ((0, model.predict_text(texts[0])), (2, model.predict_text(texts[2])[0])):
        np.testing.assert_allclose(given["scores"][index], [answer["score"] for answer in candidates], atol=1e-5)
    assert model.answer(tf.constant([], tf.string))["tokens"].shape == (0, 5)


def test_rows_of_the_table_that_are_no_token_are_never_candidates(model):
    # Published tables are often padded to a round number of rows.
    config = dataclasses.replace(model.backbone.config, vocab_size=model.tokenizer.vocabulary_size + 8)
    padded = MaskedLM.build_on(type(model.backbone)(config, pooler=False), model.tokenizer)
    bias = padded.head.vocabulary_bias
    bias.assign(np.arange(config.vocab_size) >= model.tokenizer.vocabulary_size)
    candidates = padded.predict_text("a [MASK] film", candidates=1_000)
    assert len(candidates) == model.tokenizer.vocabulary_size
    assert 0 < sum(candidate["score"] for candidate in candidates) < 1
    tokens = padded.answer(tf.constant(["a [MASK] film"]))["tokens"].numpy()[0]
    assert [token.decode() for token in tokens] == [candidate["token"] for candidate in candidates[:5]]


def test_a_saved_model_opens_as_it_was(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    again = MaskedLM.from_pretrained(tmp_path / "saved")
    ids = model.tokenizer(["a [MASK] film"]).to_tensor()
    np.testing.assert_array_equal(again({"token_ids": ids}), model({"token_ids": ids}))


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_mask_rates_are_shares(still_bert, rate):
    with pytest.raises(ValueError, match=f"mask_rate: expected a share between 0 and 1, got {rate}"):
        MaskedLM.from_pretrained(still_bert, mask_rate=rate)
