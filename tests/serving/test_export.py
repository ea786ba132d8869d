"""Exports of every task: what their signatures promise, that a fresh process keeps it, and that failures leave nothing."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import serving
from garden import MaskedLM, TextClassifier

ROOT = Path(__file__).parents[2]
TEXTS = ["a good film", "", "dull " * 300, "the story was moving 🦊"]


def open_signatures(directory):
    return tf.saved_model.load(str(directory)).signatures


def specs(directory):
    """Name -> shape and dtype of each input and output of each signature, and its method, from the file itself."""
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    described = {}
    for name, signature in graph.signature_def.items():
        if name.startswith("__"):
            continue
        sides = []
        for side in (signature.inputs, signature.outputs):
            sides.append(
                {
                    key: ([size.size for size in info.tensor_shape.dim], tf.as_dtype(info.dtype).name)
                    for key, info in side.items()
                }
            )
        described[name] = (signature.method_name.rsplit("/", 1)[-1], *sides)
    return described


def example(**features):
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])) for name, text in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def close(given, expected):
    np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.fixture
def unchecked(monkeypatch):
    """Exports without their own comparison, which takes a process, for tests that compare by themselves."""
    monkeypatch.setattr(sys.modules["serving.export"], "check", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def classifier(still_bert):
    model = TextClassifier.from_pretrained(still_bert, labels=["negative", "positive"])
    model.compile(run_eagerly=True)
    model.fit(TEXTS, [1, 0, 0, 1], verbose=0)  # an optimiser with state, which no export may have
    return model


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    return serving.export(classifier, tmp_path_factory.mktemp("exports") / "base", samples=["it was a film"])


@pytest.fixture(scope="module")
def signatures(exported):
    return open_signatures(exported)


def test_signatures_of_a_classifier(exported):
    text, answer = {"text": ([-1], "string")}, ([-1], "string")
    assert specs(exported) == {
        "serving_default": (
            "predict",
            text,
            {
                "label": answer,
                "score": ([-1], "float32"),
                "scores": ([-1, 2], "float32"),
                "classes": ([-1, 2], "string"),
            },
        ),
        "classify": (
            "classify",
            {"inputs": ([-1], "string")},
            {"classes": ([-1, 2], "string"), "scores": ([-1, 2], "float32")},
        ),
        "embed": ("predict", text, {"embedding": ([-1, 16], "float32")}),
    }


def test_answers_are_the_models(signatures, classifier):
    given = signatures["serving_default"](text=tf.constant(TEXTS))
    answers = classifier.predict_text(TEXTS)
    assert [label.decode() for label in given["label"].numpy()] == [answer["label"] for answer in answers]
    close(given["score"], [answer["score"] for answer in answers])
    close(given["scores"].numpy().sum(-1), np.ones(4))
    assert given["classes"].numpy().tolist() == [[b"negative", b"positive"]] * 4
    close(signatures["embed"](text=tf.constant(TEXTS))["embedding"], classifier.embed(tf.constant(TEXTS))["embedding"])


def test_classify_takes_examples(signatures):
    given = signatures["classify"](inputs=tf.constant([example(text=text, other="x") for text in TEXTS]))
    expected = signatures["serving_default"](text=tf.constant(TEXTS))
    close(given["scores"], expected["scores"])
    np.testing.assert_array_equal(given["classes"], expected["classes"])
    for request in (b"no example", example(other="x")):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["classify"](inputs=tf.constant([request]))


def test_any_batch_has_an_answer(signatures, classifier):
    empty = signatures["serving_default"](text=tf.constant([], tf.string))
    assert {name: values.shape.as_list() for name, values in empty.items()} == {
        "label": [0],
        "score": [0],
        "scores": [0, 2],
        "classes": [0, 2],
    }
    assert signatures["embed"](text=tf.constant([], tf.string))["embedding"].shape == (0, 16)
    assert signatures["classify"](inputs=tf.constant([], tf.string))["scores"].shape == (0, 2)
    odd = [b"\xff\xfe", b"\x00", "a \ufffd".encode(), b"a \xff"]
    scores = signatures["serving_default"](text=tf.constant(odd))["scores"].numpy()
    assert np.isfinite(scores).all()
    close(scores[2], scores[3])
    cut = signatures["serving_default"](text=tf.constant(["dull " * 300, "dull " * 62]))["scores"]
    close(cut[0], cut[1])


def test_an_export_is_the_network_and_nothing_else(exported, classifier):
    names = [name for name, _ in tf.train.list_variables(str(exported / "variables" / "variables"))]
    size = sum(
        np.prod(shape, dtype=int) for _, shape in tf.train.list_variables(str(exported / "variables" / "variables"))
    )
    assert not [name for name in names if "optimizer" in name or "momentum" in name or "velocity" in name]
    own = sum(variable.numpy().size for variable in classifier.weights)
    assert own <= size < own + 100
    assert not list((exported / "assets").iterdir())
    assert (exported / "fingerprint.pb").exists()


def test_a_fresh_process_needs_tensorflow_only(exported, classifier):
    code = (
        "import sys, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "given = model.signatures['serving_default'](text=tf.constant(sys.argv[2:]))\n"
        "assert not {'garden', 'tensorflow_text'} & set(sys.modules)\n"
        "print(*given['score'].numpy().tolist())\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, str(exported), *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=exported, check=True)
    close(
        [float(score) for score in done.stdout.split()], [answer["score"] for answer in classifier.predict_text(TEXTS)]
    )


@pytest.mark.usefixtures("unchecked")
def test_versions_count_up(classifier, tmp_path):
    base = tmp_path / "deep" / "er"
    assert serving.export(classifier, base) == base / "1"
    for name in ("7", "notes", "x9", "007.tmp"):
        (base / name).mkdir()
    (base / "README").write_text("kept")
    assert serving.export(classifier, str(base)) == base / "8"
    assert sorted(path.name for path in base.iterdir()) == ["007.tmp", "1", "7", "8", "README", "notes", "x9"]


def test_a_base_that_is_no_directory(classifier, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    for base in (file, file / "below"):
        with pytest.raises(ValueError, match=f"{base}: .*; give a"):
            serving.export(classifier, base)
    assert file.read_text() == "kept"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("step", ["_name_methods", "check", "_named"])
def test_a_failure_leaves_nothing(classifier, tmp_path, monkeypatch, step):
    def fail(*args, **kwargs):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(sys.modules["serving.export"], step, fail)
    (tmp_path / "1").mkdir()
    with pytest.raises(RuntimeError, match="disk on fire"):
        serving.export(classifier, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_an_export_that_answers_otherwise_is_refused(exported, classifier):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")], autograph=False)
    def other(text):
        return {"embedding": classifier.embed(text)["embedding"] + 1e-3}

    functions = {"embed": other.get_concrete_function()}
    with pytest.raises(RuntimeError, match='answers otherwise than the model: signature "embed", output "embedding"'):
        sys.modules["serving.export"].check(exported, functions, TEXTS[:1], tolerance=1e-4)


def test_operations_that_servers_lack_are_refused(tmp_path):
    export = sys.modules["serving.export"]
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def answer(text):
        return {"text": tf.py_function(lambda text: text, [text], tf.string)}

    module.answer = answer
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": answer})
    with pytest.raises(RuntimeError, match="operations that TF Serving has not got: EagerPyFunc"):
        export.check(tmp_path / "model", {}, [], tolerance=1)


def test_an_export_that_does_not_load_is_refused(tmp_path):
    export = sys.modules["serving.export"]
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(RuntimeError, match="does not load or answer in a fresh process"):
        export.check(tmp_path, {}, [], tolerance=1)


def test_a_process_that_is_killed_leaves_no_version(still_bert, tmp_path):
    """SIGKILL at the latest moment: written and checked, but not yet named."""
    code = (
        "import sys, time, serving.export as export\n"
        "from garden import TextClassifier\n"
        "def check(*args, **kwargs):\n"
        "    open(sys.argv[3], 'w').close()\n"
        "    time.sleep(600)\n"
        "export.check = check\n"
        "export(TextClassifier.from_pretrained(sys.argv[1], labels=['a', 'b']), sys.argv[2])\n"
    )
    base, reached = tmp_path / "base", tmp_path / "reached"
    process = subprocess.Popen([sys.executable, "-c", code, str(still_bert), str(base), str(reached)], cwd=ROOT)
    try:
        end = time.monotonic() + 120
        while not reached.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [path.name for path in base.iterdir()]
    assert len(left) == 1
    assert not left[0].isdigit(), "servers take directories named by a number"
    assert (base / left[0] / "model" / "saved_model.pb").exists()


@pytest.mark.usefixtures("unchecked")
def test_several_labels(still_bert, tmp_path):
    model = TextClassifier.from_pretrained(still_bert, labels=["x", "y", "z"], problem="multi_label")
    given = open_signatures(serving.export(model, tmp_path))["serving_default"](text=tf.constant(TEXTS))
    expected = [list(answer["scores"].values()) for answer in model.predict_text(TEXTS)]
    close(given["scores"], expected)
    close(given["score"], np.max(expected, axis=-1))


@pytest.mark.usefixtures("unchecked")
def test_regression(still_bert, tmp_path):
    model = TextClassifier.from_pretrained(still_bert, problem="regression")
    directory = serving.export(model, tmp_path)
    assert set(specs(directory)) == {"serving_default", "regress", "embed"}
    assert specs(directory)["regress"] == ("regress", {"inputs": ([-1], "string")}, {"outputs": ([-1], "float32")})
    signatures, expected = open_signatures(directory), [answer["score"] for answer in model.predict_text(TEXTS)]
    close(signatures["serving_default"](text=tf.constant(TEXTS))["score"], expected)
    close(signatures["regress"](inputs=tf.constant([example(text=text) for text in TEXTS]))["outputs"], expected)


@pytest.mark.usefixtures("unchecked")
def test_pairs_of_texts(still_bert, tmp_path):
    model = TextClassifier.from_pretrained(still_bert, labels=["no", "yes"], pairs=True)
    directory = serving.export(model, tmp_path)
    both = {"text": ([-1], "string"), "text_pair": ([-1], "string")}
    assert specs(directory)["serving_default"][1] == both
    signatures, second = open_signatures(directory), TEXTS[::-1]
    expected = [answer["score"] for answer in model.predict_text((TEXTS, second))]
    given = signatures["serving_default"](text=tf.constant(TEXTS), text_pair=tf.constant(second))
    close(given["score"], expected)
    requests = [example(text=a, text_pair=b) for a, b in zip(TEXTS, second, strict=True)]
    close(signatures["classify"](inputs=tf.constant(requests))["scores"], given["scores"])


def test_masked_lm(still_bert, tmp_path, caplog):
    model = MaskedLM.from_pretrained(still_bert)
    with caplog.at_level(logging.INFO, "serving"):
        directory = serving.export(model, tmp_path, samples=["a [MASK] film"])
    assert f"exported {directory}" in caplog.text
    outputs = {"tokens": ([-1, 5], "string"), "scores": ([-1, 5], "float32")}
    assert specs(directory) == {"serving_default": ("predict", {"text": ([-1], "string")}, outputs)}
    given = open_signatures(directory)["serving_default"](text=tf.constant(["a [MASK] film", "no mask"]))
    candidates = model.predict_text("a [MASK] film")
    assert given["tokens"].numpy()[0].tolist() == [answer["token"].encode() for answer in candidates]
    close(given["scores"][0], [answer["score"] for answer in candidates])
    assert not given["scores"].numpy()[1].any()


def test_lower_precision_answers_in_float32(still_bert, tmp_path):
    model = TextClassifier.from_pretrained(still_bert, labels=["a", "b"], dtype="mixed_bfloat16")
    directory = serving.export(model, tmp_path)
    kinds = {dtype for _, *sides in specs(directory).values() for side in sides for _, dtype in side.values()}
    assert kinds == {"string", "float32"}
