"""An export is a SavedModel like those of TF Hub: tensorflow_hub opens it, and it is a layer of other models."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import serving
from garden import MaskedLM, SavedModelLayer, TextClassifier

TEXTS = ["a good film", "", "the story was dull"]


@pytest.fixture(scope="module")
def classifier(tiny_bert):
    return TextClassifier.from_pretrained(tiny_bert, labels=["negative", "positive"])


@pytest.fixture(scope="module")
def export(classifier, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # these tests compare by themselves
        patch.setattr(importlib.import_module("serving.export"), "check", lambda *arguments, **options: None)
        return serving.export(classifier, tmp_path_factory.mktemp("exports") / "sentiment")


def test_tensorflow_hub_opens_it(classifier, export):
    hub = pytest.importorskip("tensorflow_hub")
    loaded = hub.load(str(export))
    expected = [answer["label"].encode() for answer in classifier.predict_text(TEXTS)]
    answers = loaded(tf.constant(TEXTS))
    assert answers["label"].numpy().tolist() == expected
    by_signature = loaded.signatures["serving_default"](tf.constant(TEXTS))
    np.testing.assert_allclose(answers["scores"], by_signature["scores"], rtol=1e-6)
    assert loaded.signatures["embed"](text=tf.constant(TEXTS))["embedding"].shape == (3, 16)


def test_it_is_a_layer_of_another_model_and_of_its_export(classifier, export, tmp_path):
    text = keras.Input([], dtype="string")
    model = keras.Model(text, keras.layers.Dense(3)(SavedModelLayer(export, output="scores")(text)))
    model.compile("sgd", "mse")
    model.fit(tf.constant(TEXTS), np.zeros([3, 3]), verbose=0)
    expected = model.predict(tf.constant(TEXTS), verbose=0)
    embeddings = SavedModelLayer(export, signature="embed", output="embedding")(TEXTS)
    np.testing.assert_allclose(embeddings, classifier.embed(tf.constant(TEXTS))["embedding"], atol=1e-5)
    model.export(tmp_path / "export", verbose=False)
    again = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(again.serve(tf.constant(TEXTS)), expected, atol=1e-6)


def test_other_tasks_are_callable_too(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("serving.export"), "check", lambda *arguments, **options: None)
    model = MaskedLM.from_pretrained(tiny_bert)
    loaded = tf.saved_model.load(str(serving.export(model, tmp_path / "masked")))
    assert set(loaded(tf.constant(["a [MASK] film"]))) == {"tokens", "scores"}
