"""TensorFlow's checkpoints: which one a path means, what its variables are called, and what is wrong with broken ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from garden.checkpoints.google_bert import open_google_bert
from garden.checkpoints.models_official import open_models_official
from garden.checkpoints.tensorflow_checkpoints import find_checkpoint, open_checkpoint, renamed, renaming

GOLDEN = Path(__file__).parents[2] / "golden" / "tensorflow"
DATA = "data-00000-of-00001"


def copied(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        for end in ("index", DATA):
            shutil.copy(GOLDEN / "google" / f"bert_model.ckpt.{end}", directory / f"{name}.{end}")
    return directory


def test_a_path_means_one_checkpoint(tmp_path):
    one = copied(tmp_path / "one", "bert_model.ckpt")
    prefix = one / "bert_model.ckpt"
    for path in (one, prefix, f"{prefix}.index", f"{prefix}.{DATA}"):
        assert find_checkpoint(path) == prefix
    several = copied(tmp_path / "several", "ckpt-1", "ckpt-20", "a[b]*")
    with pytest.raises(ValueError, match=r"several checkpoints \(a\[b\]\*, ckpt-1, ckpt-20\); name one"):
        find_checkpoint(several)
    assert find_checkpoint(several / "a[b]*").name == "a[b]*"
    # As training wrote it on another machine: the latest one, wherever it was.
    (several / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/ckpt-20"\n')
    assert find_checkpoint(several) == several / "ckpt-20"
    (several / "checkpoint").write_text('model_checkpoint_path: "../../ckpt-300"\n')
    with pytest.raises(ValueError, match="several checkpoints"):
        find_checkpoint(several)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint \(ckpt.index is missing\)"):
        find_checkpoint(tmp_path / "ckpt")
    with pytest.raises(FileNotFoundError, match="no TensorFlow checkpoint"):
        find_checkpoint(tmp_path)
    (copied(tmp_path, "ckpt") / f"ckpt.{DATA}").unlink()
    with pytest.raises(FileNotFoundError, match="files of its data are missing"):
        find_checkpoint(tmp_path)
    (tmp_path / "ckpt.data-00000-of-00002").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="files of its data are missing"):
        find_checkpoint(tmp_path)


def test_corrupt_files_are_one_clear_error(tmp_path):
    copied(tmp_path, "ckpt")
    index, data = tmp_path / "ckpt.index", tmp_path / f"ckpt.{DATA}"
    whole = index.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], bytes(len(whole)), whole[:100] + b"\xff" + whole[101:]):
        index.write_bytes(broken)
        with pytest.raises(ValueError, match=r"ckpt.index: cannot be read \(.*\); copy or download it again"):
            open_checkpoint(tmp_path / "ckpt")
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:100])
    variables = open_checkpoint(tmp_path / "ckpt").variables
    with pytest.raises(ValueError, match='ckpt: "bert/pooler/dense/kernel" cannot be read'):
        variables["bert/pooler/dense/kernel"].read()


def test_variables_are_called_as_programs_called_them():
    google = open_checkpoint(GOLDEN / "google" / "bert_model.ckpt")
    assert not google.object_based
    assert google.variables["bert/pooler/dense/kernel"].shape == (8, 8)
    encoder = open_checkpoint(GOLDEN / "encoder" / "ckpt")
    assert encoder.object_based
    query = [name for name in encoder.variables if name.endswith("layer_0/self_attention/query/kernel")]
    assert len(query) == 1  # and not the optimiser's of the same name
    assert encoder.variables[query[0]].shape == (8, 2, 4)
    assert encoder.variables[query[0]].read().shape == (8, 2, 4)


def test_renamed_variables_are_as_pytorch_stores_them(tmp_path):
    first, second = (np.arange(24, dtype=np.float32).reshape(shape) for shape in ([2, 3, 4], [6, 4]))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, values in (("a/kernel", first), ("b/kernel", second), ("b/bias", first[0]), ("other", second)):
            tf.compat.v1.get_variable(name, initializer=values)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "ckpt"), write_state=False)
    checkpoint = open_checkpoint(tmp_path / "ckpt")
    rules = [
        renaming("a/kernel", "a.weight", inputs=2),
        renaming("(b)/kernel", r"\1.weight", inputs=1),
        renaming("b/bias", "b.bias", inputs=0),
    ]
    weights, left = renamed(checkpoint, rules)
    assert left == ["other"]
    assert {name: weights.shape(name) for name in weights} == {"a.weight": (4, 6), "b.weight": (4, 6), "b.bias": (12,)}
    np.testing.assert_array_equal(weights["a.weight"], first.reshape(6, 4).T)
    np.testing.assert_array_equal(weights["b.weight"], second.T)
    np.testing.assert_array_equal(weights["b.bias"], first[0].reshape(-1))
    with pytest.raises(ValueError, match='two tensors are called "x"'):
        renamed(checkpoint, [renaming("[ab]/kernel", "x")])


def test_fine_tuned_checkpoints_of_google_keep_their_heads(tmp_path):
    checkpoint = open_checkpoint(GOLDEN / "google" / "bert_model.ckpt")
    kept = {name: t.read() for name, t in checkpoint.variables.items() if name.startswith("bert/")}
    given = {"num_attention_heads": 2, "hidden_act": "relu"}
    heads = {
        ("output_weights", "output_bias", 3): ("BertForSequenceClassification", "classifier"),
        ("cls/squad/output_weights", "cls/squad/output_bias", 2): ("BertForQuestionAnswering", "qa_outputs"),
    }
    for (kernel, bias, size), (architecture, head) in heads.items():
        weights = {kernel: np.ones([size, 8], np.float32), bias: np.zeros([size], np.float32)}
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, values in {**kept, **weights}.items():
                tf.compat.v1.get_variable(name, initializer=values)
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(tmp_path / head), write_state=False)
        source = open_google_bert(tmp_path / head, given)
        assert source.config["architectures"] == [architecture]
        assert source.weights.shape(f"{head}.weight") == (size, 8)
        assert source.left_out == ()
    with pytest.raises(ValueError, match="how many attention heads there are must be given"):
        open_google_bert(GOLDEN / "google", {})


def test_two_encoders_in_one_checkpoint_are_refused(tmp_path):
    class Encoder(tf.Module):
        def __init__(self, name):
            super().__init__(name)
            self.query = tf.Variable(tf.ones([4, 2, 2]), name=f"{name}/transformer/layer_0/self_attention/query/kernel")
            self.words = tf.Variable(tf.ones([4, 4]), name=f"{name}/word_embeddings/embeddings")

    tf.train.Checkpoint(left=Encoder("left"), right=Encoder("right")).write(str(tmp_path / "two"))
    with pytest.raises(ValueError, match=r'two tensors are called "bert\.'):
        open_models_official(tmp_path / "two", {})
    encoder = Encoder("left")
    encoder.projection = tf.Variable(tf.ones([4, 4]), name="embedding_projection/kernel")
    tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / "one"))
    with pytest.raises(ValueError, match="has embedding_projection/kernel, which BERT has not"):
        open_models_official(tmp_path / "one", {})
