"""Masked tokens and pairs at once: both losses are the reference's, packed rows are texts alone, and parts open elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.checkpoints.safetensors import SafetensorsFile
from garden.tasks.batching import pad, tokens_of, unpack

GOLDEN = Path(__file__).parents[2] / "golden"
PAIRS = [
    ("a good film", "the story was moving"),
    ("an awful end", "it was dull and tiresome"),
    ("bad", "fine"),
    ("a", "an"),
]


@pytest.fixture(scope="module")
def model(still_bert):
    model = garden.MaskedLMWithPairs.from_pretrained(still_bert, row_length=32)
    model.compile(run_eagerly=True)
    return model


def test_both_losses_are_the_references(tmp_path):
    with np.load(GOLDEN / "pretraining.npz") as arrays:
        golden = {name.removeprefix("bert."): arrays[name] for name in arrays if name.startswith("bert.")}
    checkpoint = tmp_path / "bert"
    shutil.copytree(GOLDEN / "bert" / "pretraining_old", checkpoint)
    (checkpoint / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) + "\n")
    model = garden.MaskedLMWithPairs.from_pretrained(checkpoint)
    model.compile(run_eagerly=True)
    x = {name: golden[name] for name in ("token_ids", "type_ids", "mask_positions")}
    x |= {"segment_ids": golden["mask"], "text_positions": np.zeros([3, 1], np.int32)}
    y = golden["mask_ids"], golden["pair_labels"][:, None]
    weights = golden["mask_weights"], np.ones([3, 1], np.float32)
    given = model.evaluate(tf.data.Dataset.from_tensors((x, y, weights)), verbose=0, return_dict=True)
    for name in ("masked_loss", "pair_loss"):
        assert given[name] == pytest.approx(golden[name], rel=1e-5)
    assert given["loss"] == pytest.approx(given["masked_loss"] + given["pair_loss"])
    assert given["perplexity"] == pytest.approx(np.exp(golden["masked_loss"]), rel=1e-4)
    assert given["pair_accuracy"] == np.float32((golden["pair_logits"].argmax(axis=1) == golden["pair_labels"]).mean())
    np.testing.assert_allclose(model(x)["pair"][:, 0], golden["pair_logits"], atol=1e-5)


def test_pairs_in_one_row_are_judged_as_alone(model):
    encoded = model.tokenizer.encode(*map(list, zip(*PAIRS, strict=True)))
    packed = model.rows(encoded.token_ids, encoded.type_ids, training=True)
    assert packed["token_ids"].shape[0] < len(PAIRS)
    places = {"mask_positions": packed["text_positions"]}
    together = unpack(model({**packed, **places})["pair"], packed["text_index"], len(PAIRS))
    alone = tokens_of(pad(encoded.token_ids, encoded.type_ids, pad_id=0))
    first = np.zeros([len(PAIRS), 1], np.int32)
    np.testing.assert_allclose(
        together, model({**alone, "mask_positions": first, "text_positions": first})["pair"][:, 0], atol=1e-5
    )


def test_it_learns_and_its_parts_open_elsewhere(model, tmp_path, caplog):
    model.compile(learning_rate=1e-2)
    # One batch with the same masks again and again: its losses fall for certain.
    batch = next(iter(model.prepared_dataset(model.raw_dataset(PAIRS * 4, [0, 1, 0, 1] * 4))))
    history = model.fit(tf.data.Dataset.from_tensors(batch), epochs=12, verbose=0).history
    for name in ("masked_loss", "pair_loss"):
        assert history[name][-1] < history[name][0]
    model.save_pretrained(tmp_path / "saved")
    assert "cls.seq_relationship.weight" in SafetensorsFile(tmp_path / "saved" / "model.safetensors").tensors
    again = garden.MaskedLMWithPairs.from_pretrained(tmp_path / "saved")
    assert again.predict_text("a [MASK] film") == model.predict_text("a [MASK] film")
    # TensorFlow warns of retracing once a process has traced much, which other tests decide.
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("garden")]
    masked = garden.MaskedLM.from_pretrained(tmp_path / "saved")
    assert masked.predict_text("a [MASK] film") == model.predict_text("a [MASK] film")
    classifier = garden.TextClassifier.from_pretrained(tmp_path / "saved", labels=["a", "b"])
    np.testing.assert_array_equal(classifier.backbone.pooler.kernel, model.backbone.pooler.kernel)


def test_without_labels_only_masks_are_learnt(model):
    given = model.evaluate([text for text, _ in PAIRS], verbose=0, return_dict=True)
    assert given["pair_loss"] == 0
    assert given["loss"] == given["masked_loss"] > 0


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(ValueError, match="label of text 1: expected 0, the second text belongs to the first, or 1"):
        model.fit(PAIRS, [0, 2, 1, 1])
    with pytest.raises(
        ValueError, match="loss: masked-lm-with-pairs adds up masked_loss and pair_loss of its own; leave"
    ):
        model.compile(loss="mse")
    x, y, weights = next(iter(model.prepared_dataset(model.raw_dataset(PAIRS, [0, 1, 0, 1]))))
    x = {name: values for name, values in x.items() if name != "text_positions"}
    with pytest.raises(ValueError, match="inputs: expected text_positions beside mask_positions"):
        model.test_step((x, y, weights))
