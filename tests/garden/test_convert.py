"""Checkpoints from elsewhere give, once converted, the numbers of those who wrote them; or nothing is written at all."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import garden
from garden.checkpoints.safetensors import SafetensorsFile
from garden.checkpoints.tf_hub import open_tf_hub
from garden.cli import run_command
from garden.convert import Options, convert, detected

GOLDEN = Path(__file__).parents[1] / "golden"
TENSORFLOW = GOLDEN / "tensorflow"
KINDS = {
    "encoder": "models-official",
    "legacy_encoder": "models-official",
    "pretrainer": "models-official",
    "classifier": "models-official",
    "google": "google-bert",
    "hub": "tf-hub",
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved_models")
    with tarfile.open(TENSORFLOW / "saved_models.tar.xz") as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def converted(saved_models, tmp_path_factory) -> dict[str, Path]:
    """Each case in the Hugging Face layout, converted without a hint of what it is."""
    directory = tmp_path_factory.mktemp("converted")
    for case, kind in KINDS.items():
        source = saved_models / "hub" if case == "hub" else TENSORFLOW / case
        report = convert(str(source), directory / case)
        assert (report["from"], report["model"]) == (kind, str(directory / case))
    return {case: directory / case for case in KINDS}


def golden(case: str) -> dict[str, np.ndarray]:
    return dict(np.load(TENSORFLOW / case / "golden.npz"))


def close(given, expected, mask=None) -> None:
    mask = np.ones(()) if mask is None else mask
    difference = np.abs(np.asarray(given) - expected) * mask
    assert difference.max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("case", KINDS)
def test_every_layer_gives_the_same_numbers(case, converted):
    expected = golden(case)
    mask = expected["mask"]
    backbone = garden.Backbone.from_pretrained(converted[case])
    inputs = {"token_ids": expected["token_ids"], "segment_ids": mask, "type_ids": expected["type_ids"]}
    outputs = backbone(inputs, hidden_states=True)
    layers = outputs["hidden_states"][-len(expected["hidden"]) :]
    for given, wanted in zip(layers, expected["hidden"], strict=True):
        close(given, wanted, mask[:, :, None])
    close(outputs["pooled"], expected["pooled"])

    # The same rows, packed into one.
    kept = mask.astype(bool)
    numbers = mask * np.arange(1, len(mask) + 1)[:, None]
    packed = {"token_ids": expected["token_ids"], "segment_ids": numbers, "type_ids": expected["type_ids"]}
    packed = {name: array[kept][None] for name, array in packed.items()}
    close(backbone(packed)["sequence"][0], expected["hidden"][-1][kept])


@pytest.mark.parametrize("case", ["pretrainer", "google", "hub"])
def test_masked_lm_heads_give_the_same_logits(case, converted):
    expected = golden(case)
    model = garden.MaskedLM.from_pretrained(converted[case]) if case != "pretrainer" else masked_lm(converted[case])
    inputs = {"token_ids": expected["token_ids"], "segment_ids": expected["mask"], "type_ids": expected["type_ids"]}
    close(model(inputs), expected["logits"], expected["mask"][:, :, None])


def masked_lm(directory: Path) -> garden.MaskedLM:
    """With a tokenizer, which Model Garden's checkpoints are without."""
    (directory / "vocab.txt").write_bytes((TENSORFLOW / "google" / "vocab.txt").read_bytes())
    return garden.MaskedLM.from_pretrained(directory)


def test_sentence_classifiers_give_the_same_logits(tmp_path):
    vocabulary = str(TENSORFLOW / "google" / "vocab.txt")
    report = convert(str(TENSORFLOW / "classifier"), tmp_path / "new", options=Options(vocabulary=vocabulary))
    assert report["architecture"] == "BertForSequenceClassification"
    assert all("pooler_transform" in name for name in report["left_out"])  # the head has a pooler of its own
    assert len(report["left_out"]) == 2
    expected = golden("classifier")
    model = garden.TextClassifier.from_pretrained(tmp_path / "new")
    inputs = {"token_ids": expected["token_ids"], "segment_ids": expected["mask"], "type_ids": expected["type_ids"]}
    close(model(inputs), expected["logits"])
    assert {answer["label"] for answer in model.predict_text(["the film.", "a b c"])} <= {
        f"LABEL_{n}" for n in range(3)
    }


def test_configs_say_what_the_sources_said(converted):
    configs = {case: json.loads((path / "config.json").read_text()) for case, path in converted.items()}
    sizes = {
        "vocab_size": 24,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "type_vocab_size": 2,
    }
    for config in configs.values():
        assert sizes.items() <= config.items()
        assert config["max_position_embeddings"] == 10
    assert {case: config["num_hidden_layers"] for case, config in configs.items() if case != "google"} == dict.fromkeys(
        set(KINDS) - {"google"}, configs["encoder"]["num_hidden_layers"]
    )
    assert configs["google"]["num_hidden_layers"] == 2
    activations = {case: config["hidden_act"] for case, config in configs.items()}
    tanh = dict.fromkeys(("encoder", "pretrainer", "classifier"), "gelu_new")
    assert activations == {**tanh, "legacy_encoder": "relu", "google": "relu", "hub": activations["hub"]}
    assert configs["legacy_encoder"]["attention_probs_dropout_prob"] == 0.2  # of params.yaml
    assert configs["google"]["attention_probs_dropout_prob"] == 0.2
    assert [configs[case]["architectures"] for case in ("encoder", "pretrainer", "google", "hub")] == [
        ["BertModel"],
        ["BertForMaskedLM"],
        ["BertForPreTraining"],
        ["BertForMaskedLM"],
    ]


def test_what_is_written_trains_and_saves_back(converted, tmp_path):
    model = garden.MaskedLM.from_pretrained(converted["google"])
    model.compile()
    model.fit(["the film.", "a b c d"] * 4, epochs=1, verbose=0)
    model.save_pretrained(tmp_path / "again")
    again = SafetensorsFile(tmp_path / "again" / "model.safetensors").tensors
    assert "bert.encoder.layer.1.output.dense.weight" in again


def test_tokenizers_are_written_whole(converted, saved_models, tmp_path):
    for case, lower_case in (("google", True), ("hub", False)):
        tokenizer = garden.Tokenizer.from_pretrained(converted[case])
        assert tokenizer(["The film."]).to_list()[0][1] == (21 if lower_case else 1)
        assert tokenizer.model_max_length == 10
        assert {"vocab.txt", "tokenizer.json", "tokenizer_config.json"} <= {p.name for p in converted[case].iterdir()}
    assert not (converted["encoder"] / "tokenizer.json").exists()

    def lower_case(name, **options):
        convert(str(TENSORFLOW / "encoder"), tmp_path / name, options=Options(**options))
        return json.loads((tmp_path / name / "tokenizer_config.json").read_text())["do_lower_case"]

    words = (TENSORFLOW / "google" / "vocab.txt").read_text()
    for name, text in (
        ("uncased_L-1", words),
        ("multi_cased_L-1", words),
        ("mine", words),
        ("theirs", words.replace("the", "The")),
    ):
        (tmp_path / "vocabularies" / name).mkdir(parents=True)
        (tmp_path / "vocabularies" / name / "vocab.txt").write_text(text)
    files = {path.name: str(path / "vocab.txt") for path in (tmp_path / "vocabularies").iterdir()}
    assert lower_case("1", vocabulary=files["uncased_L-1"])
    assert not lower_case("2", vocabulary=files["multi_cased_L-1"])
    assert lower_case("3", vocabulary=files["mine"])  # has no capitals
    assert not lower_case("4", vocabulary=files["theirs"])
    assert not lower_case("5", vocabulary=files["mine"], lower_case=False)
    assert lower_case("6", vocabulary=str(saved_models / "preprocessing"))


def test_options_fill_in_what_a_checkpoint_does_not_say(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (TENSORFLOW / "google").glob("bert_model.ckpt.*"):
        shutil.copy(path, bare)
    source = str(bare / "bert_model.ckpt")
    assert detected(source) == "google-bert"
    with pytest.raises(FileNotFoundError, match=r"bert_config.json: no such file; give it with --config"):
        convert(source, tmp_path / "new")
    config = TENSORFLOW / "google" / "bert_config.json"
    convert(source, tmp_path / "new", options=Options(config=config))
    assert json.loads((tmp_path / "new" / "config.json").read_text())["hidden_act"] == "relu"
    convert(source, tmp_path / "other", options=Options(config=config, activation="gelu_new"))
    assert json.loads((tmp_path / "other" / "config.json").read_text())["hidden_act"] == "gelu_new"
    # "gelu" is Google's exact one, as in the published conversions, but Model Garden's approximation.
    named = tmp_path / "bert_config.json"
    named.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": "gelu"}))
    convert(source, tmp_path / "exact", options=Options(config=named))
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["hidden_act"] == "gelu"
    named.write_text(json.dumps({"hidden_act": "gelu", "hidden_dropout_prob": 0.3}))
    convert(str(TENSORFLOW / "encoder"), tmp_path / "official", options=Options(config=named))
    official = json.loads((tmp_path / "official" / "config.json").read_text())
    assert (official["hidden_act"], official["hidden_dropout_prob"]) == ("gelu_new", 0.3)


def test_old_names_and_pytorch_files_become_safetensors(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "bert" / "pretraining_old", source)
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    report = convert(str(source), tmp_path / "new")
    assert report["from"] == "huggingface"
    assert (tmp_path / "new" / "vocab.txt").read_text() == (source / "vocab.txt").read_text()
    old, new = (SafetensorsFile(path / "model.safetensors").tensors for path in (source, tmp_path / "new"))
    modern = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias") for name in old
    }
    assert set(new) == modern != set(old)
    np.testing.assert_array_equal(
        new["bert.embeddings.LayerNorm.weight"].read(), old["bert.embeddings.LayerNorm.gamma"].read()
    )


def test_the_command_reports_what_it_made(capfd, caplog, tmp_path):
    arguments = ["convert", "--from", "google-bert", "--to", str(tmp_path / "a"), str(TENSORFLOW / "google"), "--json"]
    assert run_command(arguments) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert report["architecture"] == "BertForPreTraining"
    assert report["files"] == sorted(path.name for path in (tmp_path / "a").iterdir())
    assert report["tokenizer"]
    assert report["left_out"] == []
    assert "Traceback" not in err
    assert run_command(["convert", "--to", str(tmp_path / "b"), str(TENSORFLOW / "encoder")]) == 0
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'b'}\n"
    assert "BertModel" in err
    assert "no tokenizer is written" in caplog.text
    assert "does not say its activation: gelu_new is taken" in caplog.text
    assert run_command([*arguments[:-2], str(tmp_path)]) == 2  # the target exists
    assert "exists already" in capfd.readouterr()[1]


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("google", "models-official", "was written by TensorFlow 1; convert it with --from google-bert"),
        ("encoder", "google-bert", "(bert_config.json: no such file|written by TensorFlow 2)"),
        ("encoder", "tf-hub", "no saved_model.pb"),
        ("encoder", "huggingface", "config.json: no such file"),
        ("encoder", "keras-hub", '"keras-hub" cannot be converted; known: huggingface, google-bert'),
        ("nowhere", None, "nowhere: no such directory or checkpoint"),
    ],
)
def test_the_wrong_kind_is_said_and_nothing_is_written(tmp_path, case, kind, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(str(TENSORFLOW / case), tmp_path / "new", kind=kind)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_contradict_themselves_write_nothing(tmp_path, saved_models):
    config = tmp_path / "bert_config.json"
    target = tmp_path / "made" / "new"

    def refused(source, message, **options):
        with pytest.raises(ValueError, match=message):
            convert(str(source), target, options=Options(**options))
        assert not target.exists()
        assert not target.parent.exists() or list(target.parent.iterdir()) == []

    good = json.loads((TENSORFLOW / "google" / "bert_config.json").read_text())
    config.write_text(json.dumps({**good, "hidden_size": 24}))
    refused(TENSORFLOW / "google", "hidden_size is 8 in the checkpoint, 24 in its configuration", config=config)
    config.write_text(json.dumps({**good, "num_attention_heads": 5}))
    refused(TENSORFLOW / "google", "num_attention_heads: 5 heads do not divide hidden_size 8", config=config)
    config.write_text(json.dumps({**good, "hidden_act": "snake"}))
    refused(TENSORFLOW / "google", "snake", config=config)
    config.write_text("{")
    refused(TENSORFLOW / "google", r"bert_config.json: not valid JSON", config=config)
    refused(TENSORFLOW / "google", 'activation "snake" is not known', activation="snake")
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(94))]) + "\n"
    )
    refused(
        TENSORFLOW / "google",
        "the vocabulary has 99 tokens, the network only 24",
        vocabulary=str(tmp_path / "vocab.txt"),
    )
    refused(GOLDEN / "bert" / "base", "--activation: is not for checkpoints in the Hugging Face", activation="relu")
    refused(saved_models / "preprocessing", "not a checkpoint of (Model Garden's )?BERT")
    params = tmp_path / "params.yaml"
    params.write_text("task: {model: {encoder: {type: mobilebert, mobilebert: {}}}}")
    refused(TENSORFLOW / "encoder", 'encoder type "mobilebert" is not supported; supported: bert', config=params)
    params.write_text("task: {model: {encoder: {type: bert, bert: {norm_first: true}}}}")
    refused(TENSORFLOW / "encoder", "norm_first: only false is supported", config=params)
    params.write_text("task: !!python/object/apply:os.system ['true']")
    refused(TENSORFLOW / "encoder", "not valid YAML", config=params)


def test_parts_that_are_missing_are_named(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("some/kernel", initializer=np.zeros([2, 2], np.float32))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), write_state=False)
    config = Options(config=TENSORFLOW / "google" / "bert_config.json")
    with pytest.raises(ValueError, match=r"not a checkpoint of BERT, it lacks bert.embeddings.word_embeddings.weight"):
        convert(str(tmp_path / "model.ckpt"), tmp_path / "new", options=config)
    assert not (tmp_path / "new").exists()


def test_hub_encoders_say_their_activation(saved_models):
    assert open_tf_hub(saved_models / "hub").config["hidden_act"] in ("gelu", "gelu_new")
