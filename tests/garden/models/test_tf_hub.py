"""TF Hub's BERT encoders become backbones and tokenizers, by a directory or by a handle."""

import json
import shutil
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

import garden
from garden.checkpoints.tf_hub import read_vocabulary
from garden.models.bert import BertBackbone
from garden.models.roberta import RobertaBackbone

GOLDEN = Path(__file__).parents[2] / "golden" / "tensorflow"


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved_models")
    with tarfile.open(GOLDEN / "saved_models.tar.xz") as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "hub" / "golden.npz"))


def numbers(backbone, expected):
    inputs = {"token_ids": expected["token_ids"], "segment_ids": expected["mask"], "type_ids": expected["type_ids"]}
    return backbone(inputs)


def test_a_backbone_gives_the_saved_models_numbers(saved_models, expected):
    backbone = garden.Backbone.from_tf_hub(saved_models / "hub")
    assert isinstance(backbone, BertBackbone)
    outputs, mask = numbers(backbone, expected), expected["mask"][:, :, None]
    difference = np.abs(outputs["sequence"] - expected["hidden"][-1]) * mask
    assert difference.max() <= 1e-5 * np.abs(expected["hidden"]).max()
    np.testing.assert_allclose(outputs["pooled"], expected["pooled"], atol=1e-5)
    config = backbone.config
    assert (config.vocab_size, config.hidden_size, config.num_attention_heads) == (24, 8, 2)
    assert config.hidden_act == "gelu_new"  # read off the graph


def test_options_are_those_of_from_pretrained(saved_models, expected, tmp_path):
    backbone = garden.Backbone.from_tf_hub(str(saved_models / "hub"), dtype="mixed_bfloat16", pooler=False)
    outputs = numbers(backbone, expected)
    assert set(outputs) == {"sequence"}
    assert outputs["sequence"].dtype == "bfloat16"
    backbone.save_pretrained(tmp_path / "saved")
    again = numbers(garden.Backbone.from_pretrained(tmp_path / "saved"), expected)
    np.testing.assert_allclose(
        again["sequence"] * expected["mask"][:, :, None],
        expected["hidden"][-1] * expected["mask"][:, :, None],
        atol=1e-4,
    )
    assert isinstance(BertBackbone.from_tf_hub(saved_models / "hub"), BertBackbone)
    with pytest.raises(ValueError, match="a BertBackbone, not a RobertaBackbone"):
        RobertaBackbone.from_tf_hub(saved_models / "hub")


def test_tokenizers_are_those_of_encoder_and_preprocessing(saved_models):
    golden = json.loads((GOLDEN / "preprocessing" / "golden.json").read_text())
    tokenizer = garden.Tokenizer.from_tf_hub(saved_models / "preprocessing")
    for given, ids, mask in zip(
        tokenizer(golden["texts"]).to_list(), golden["input_word_ids"], golden["input_mask"], strict=True
    ):
        assert given == ids[: sum(mask)]
    assert tokenizer.lowercase
    assert not garden.Tokenizer.from_tf_hub(saved_models / "hub").lowercase  # its do_lower_case
    assert read_vocabulary(saved_models / "hub").path.name == "vocab.txt"


def test_handles_are_resolved_by_tensorflow_hub(saved_models, expected, monkeypatch):
    asked = []

    def resolve(handle):
        asked.append(handle)
        return str(saved_models / "hub")

    handle = "https://tfhub.dev/tensorflow/small_bert/1"
    monkeypatch.setitem(sys.modules, "tensorflow_hub", types.SimpleNamespace(resolve=resolve))
    outputs = numbers(garden.Backbone.from_tf_hub(handle), expected)
    np.testing.assert_allclose(outputs["pooled"], expected["pooled"], atol=1e-5)
    assert asked == [handle]

    def unreachable(handle):
        raise OSError("no route\nto host")

    monkeypatch.setitem(sys.modules, "tensorflow_hub", types.SimpleNamespace(resolve=unreachable))
    with pytest.raises(ValueError, match=r"small_bert/1: cannot be fetched \(no route to host\); download it"):
        garden.Backbone.from_tf_hub(handle)
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'tf-garden\[hub\]'"):
        garden.Backbone.from_tf_hub(handle)


def test_what_is_no_encoder_is_refused(saved_models, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        garden.Backbone.from_tf_hub(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a checkpoint of Model Garden's BERT"):
        garden.Backbone.from_tf_hub(saved_models / "preprocessing")

    broken = tmp_path / "broken"
    shutil.copytree(saved_models / "hub", broken)
    (broken / "assets" / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"vocab.txt: the SavedModel's vocabulary is missing"):
        garden.Tokenizer.from_tf_hub(broken)
    data = broken / "variables" / "variables.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        garden.Backbone.from_tf_hub(broken)
    data.unlink()
    with pytest.raises(FileNotFoundError, match="files of its data are missing"):
        garden.Backbone.from_tf_hub(broken)
    (broken / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match=r"saved_model.pb: not a SavedModel, or cut short"):
        garden.Backbone.from_tf_hub(broken)
