"""Replaced token detection: the reference's losses, draws that a seed decides, shared embeddings, both networks kept."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.models.electra import ElectraBackbone, ElectraConfig

GOLDEN = Path(__file__).parents[2] / "golden"
TEXTS = ["a good film", "the story was moving and the actors fine", "an awful end it was dull and tiresome", "bad"] * 3


def detector(checkpoint, **options):
    tokenizer = garden.Tokenizer.from_pretrained(checkpoint)
    keras.utils.set_random_seed(0)
    config = ElectraConfig(
        vocab_size=tokenizer.vocabulary_size,
        embedding_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.2,
    )
    return garden.ReplacedTokenDetector.build_on(ElectraBackbone(config), tokenizer, row_length=32, **options)


@pytest.fixture(scope="module")
def model(tiny_bert):
    model = detector(tiny_bert)
    model.compile(run_eagerly=True)
    return model


def test_both_losses_are_the_references(tmp_path):
    with np.load(GOLDEN / "pretraining.npz") as arrays:
        golden = {name.removeprefix("electra."): arrays[name] for name in arrays if name.startswith("electra.")}
    shutil.copytree(GOLDEN / "electra" / "discriminator", tmp_path / "electra")
    shutil.copytree(GOLDEN / "electra" / "generator", tmp_path / "electra" / "generator")
    tokens = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *(f"w{index}" for index in range(19))]
    (tmp_path / "electra" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    # At this temperature it draws the likeliest.
    model = garden.ReplacedTokenDetector.from_pretrained(tmp_path / "electra", temperature=1e-5)
    model.compile(run_eagerly=True)
    x = {"token_ids": golden["token_ids"], "segment_ids": golden["mask"], "mask_positions": golden["mask_positions"]}
    batch = (x, golden["mask_ids"], golden["mask_weights"])
    given = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    for name in ("generator_loss", "discriminator_loss"):
        assert given[name] == pytest.approx(golden[name], rel=1e-5)
    assert given["loss"] == pytest.approx(golden["generator_loss"] + 50 * golden["discriminator_loss"], rel=1e-5)
    seen = model.forward(*map(tf.nest.map_structure, [tf.constant] * 3, batch), training=False)
    original = golden["token_ids"].copy()
    for row, place in np.argwhere(golden["mask_weights"]):
        original[row, golden["mask_positions"][row, place]] = golden["mask_ids"][row, place]
    np.testing.assert_array_equal(seen["is_replaced"], golden["corrupted"] != original)
    np.testing.assert_allclose(
        seen["replaced"] * golden["mask"], golden["discriminator_logits"], atol=1e-4, err_msg="of the corrupted rows"
    )


def batch_of(model):
    ((x, y, weights),) = model.prepared_dataset(model.raw_dataset(TEXTS), training=True)
    return x, y, weights


def test_what_is_drawn_is_put_where_masks_count(model):
    x, y, weights = batch_of(model)
    original = x["token_ids"].numpy()
    for row, place in np.argwhere(weights.numpy()):
        original[row, x["mask_positions"][row, place]] = y[row, place]
    chosen = np.zeros(original.shape, bool)
    for row, place in np.argwhere(weights.numpy()):
        chosen[row, x["mask_positions"][row, place]] = True
    seen = {}
    model.backbone.call, call = (
        lambda inputs, **kwargs: seen.update(inputs) or call(inputs, **kwargs),
        model.backbone.call,
    )
    try:
        outputs = model.forward(x, y, weights, training=False)
    finally:
        model.backbone.call = call
    read = seen["token_ids"].numpy()
    np.testing.assert_array_equal(read[~chosen], original[~chosen])
    np.testing.assert_array_equal(outputs["is_replaced"], read != original)
    assert outputs["is_replaced"].numpy().any()
    assert "mask_positions" not in seen


def test_draws_follow_the_generator_and_the_seed(model):
    from garden.layers import step_seed

    chances = np.array([0.5, 0.25, 0.25] + [0.0] * (model.tokenizer.vocabulary_size - 3))
    logits = tf.tile(tf.cast(tf.math.log(chances), tf.float32)[None, None], [1, 4_000, 1])
    ids = tf.zeros([1, 4], tf.int32)

    def drawn(seed, step):
        with step_seed(seed, tf.constant(step)):
            return model.sampled(logits, ids).numpy()

    first = drawn(0, 0)
    np.testing.assert_allclose(np.bincount(first[0], minlength=3) / 4_000, chances[:3], atol=0.03)
    np.testing.assert_array_equal(drawn(0, 0), first)
    assert (drawn(0, 1) != first).any()
    assert (drawn(1, 0) != first).any()
    np.testing.assert_array_equal(model.sampled(logits, ids), model.sampled(logits, ids))


def test_no_gradient_passes_the_draw(model):
    x, y, weights = batch_of(model)
    generator, discriminator = model.generator.backbone.blocks[0], model.backbone.blocks[0]
    with tf.GradientTape() as tape:
        judged = tf.reduce_sum(model.forward(x, y, weights, training=False)["replaced"])
    given = tape.gradient(
        judged, [generator.feed_forward.inner.kernel.value, discriminator.feed_forward.inner.kernel.value]
    )
    assert given[0] is None
    assert given[1] is not None


def test_embeddings_are_shared_where_they_are_as_wide(model, tiny_bert):
    ours, theirs = model.backbone, model.generator.backbone
    assert theirs.words is ours.words
    assert theirs.norm is ours.norm
    assert theirs.config.hidden_size == ours.config.hidden_size // 4
    assert theirs.config.num_hidden_layers == ours.config.num_hidden_layers
    paths = [id(variable) for variable in model.trainable_variables]
    assert len(paths) == len(set(paths))
    apart = detector(tiny_bert, generator={"embedding_size": 4})
    assert apart.generator.backbone.words.table.shape == (27, 4)


def test_it_learns_is_kept_whole_and_answers(model, tmp_path):
    given = model.evaluate(TEXTS, verbose=0, return_dict=True)
    assert model.evaluate(TEXTS, verbose=0, return_dict=True)["loss"] == given["loss"], "the same draws each time"
    assert {"masked_accuracy", "replaced_accuracy", "replaced_precision", "replaced_recall"} <= set(given)
    model.compile(learning_rate=3e-2)
    history = model.fit(TEXTS * 5, batch_size=12, epochs=2, verbose=0).history
    for name in ("generator_loss", "discriminator_loss"):
        assert history[name][-1] < history[name][0]

    model.save_pretrained(tmp_path / "saved")
    again = garden.ReplacedTokenDetector.from_pretrained(tmp_path / "saved")
    for ours, theirs in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.predict_text(TEXTS[:3]) == model.predict_text(TEXTS[:3])
    generator = garden.MaskedLM.from_pretrained(tmp_path / "saved" / "generator")
    assert generator.predict_text("a [MASK] film") == model.generator.predict_text("a [MASK] film")

    answer = model.predict_text("a good film")
    assert answer["tokens"] == ["a", "good", "film"]
    logits = model({"token_ids": model.tokenizer(["a good film"]).to_tensor()})
    np.testing.assert_allclose(answer["scores"], tf.sigmoid(logits[0, 1:4]), atol=1e-6)
    assert model.predict_text(["", "bad"])[0] == {"tokens": [], "scores": []}


def test_what_does_not_fit_is_refused(tiny_bert, still_bert, tmp_path):
    with pytest.raises(ValueError, match="discriminator_weight: expected a number above 0, got 0"):
        detector(tiny_bert, discriminator_weight=0)
    with pytest.raises(ValueError, match='model_type: expected "electra", got "bert"'):
        detector(tiny_bert, generator=still_bert)
    with pytest.raises(ValueError, match=r"generator\.width: no such key; known: vocab_size, "):
        detector(tiny_bert, generator={"width": 8})
    with pytest.raises(ValueError, match="predict: texts have rows of many lengths; use predict_text"):
        detector(tiny_bert).predict(TEXTS)
    with pytest.raises(ValueError, match='family "bert" has no head for replaced-token-detection'):
        garden.ReplacedTokenDetector.from_pretrained(tiny_bert)
