"""Make tests/golden/tensorflow/: small random BERTs as TensorFlow writes them, and what tf-models-official computes with them.

Run in an environment of its own (requirements-tensorflow.txt), as tf-models-official needs another TensorFlow than PyTorch's
friends. Each case is a folder with a checkpoint and golden.npz, which holds, for one batch padded on the right,

    token_ids, mask, type_ids   [B,T]
    hidden                      [layers, B, T, D], each layer's output
    pooled                      [B,D]
    logits                      of the head: [B,C], or [B,T,V] of the masked LM

The SavedModels of the cases `hub` and `preprocessing` are folders of saved_models.tar.xz. The case `google` is written
with TensorFlow 1's saver under the names of Google's release; its numbers are those of tf-models-official's converter to
TensorFlow 2.
"""

import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_keras
import yaml
from official.legacy.bert import configs
from official.nlp.configs import encoders
from official.nlp.modeling import layers, models, networks
from official.nlp.tools import export_tfhub_lib, tf2_bert_encoder_checkpoint_converter

OUT = Path(__file__).resolve().parent / "tensorflow"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklm", "##a", "##b", "##c", "the", "film", "."]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 8,
    "num_layers": 1,
    "num_attention_heads": 2,
    "max_sequence_length": 10,
    "type_vocab_size": 2,
}
BERT_CONFIG = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "initializer_range": 0.02,
}


def randomise(model: tf_keras.Model, seed: int) -> None:
    """Draw every variable, norms and biases too, wide enough that a swapped or forgotten one shows."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype.is_floating:
            variable.assign(random.normal(0, 0.3, variable.shape) + ("gamma" in variable.name))


def batch() -> dict[str, np.ndarray]:
    """The inputs, called as in golden.npz."""
    random = np.random.default_rng(0)
    mask = (np.arange(7) < np.array([[7], [4], [1]])).astype(np.int32)
    token_ids = random.integers(1, len(VOCABULARY), mask.shape).astype(np.int32) * mask
    return {"token_ids": token_ids, "mask": mask, "type_ids": random.integers(0, 2, mask.shape).astype(np.int32) * mask}


def inputs(**more: np.ndarray) -> dict[str, tf.Tensor]:
    """The same, called as tf-models-official calls them."""
    given = batch()
    named = {"input_word_ids": given["token_ids"], "input_mask": given["mask"], "input_type_ids": given["type_ids"]}
    return {name: tf.constant(array) for name, array in {**named, **more}.items()}


def positions() -> np.ndarray:
    """Every place, for the masked LM."""
    return np.tile(np.arange(7, dtype=np.int32), [3, 1])


def write_golden(directory: Path, outputs: dict, logits: tf.Tensor | None = None) -> None:
    """Write golden.npz of an encoder's outputs and perhaps a head's."""
    arrays = {
        **batch(),
        "hidden": np.stack([layer.numpy() for layer in outputs["encoder_outputs"]]),
        "pooled": outputs["pooled_output"].numpy(),
    }
    if logits is not None:
        arrays["logits"] = logits.numpy()
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(directory / "golden.npz", **arrays)


def write_checkpoint(directory: Path, **roots: tf_keras.Model) -> None:
    """Write NAME.index and NAME.data alone: the file `checkpoint` holds the machine's paths."""
    directory.mkdir(parents=True, exist_ok=True)
    tf.train.Checkpoint(**roots).write(str(directory / "ckpt"))


def write_vocabulary(directory: Path) -> Path:
    """Write vocab.txt and return its path."""
    path = directory / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    return path


def encoder_v2() -> networks.BertEncoderV2:
    """The encoder of today; its activation is the tanh approximation of GELU."""
    encoder = networks.BertEncoderV2(inner_dim=12, **SIZES)
    encoder(encoder.inputs)
    return encoder


def make_encoder(directory: Path) -> None:
    """BertEncoderV2 under `encoder/...`, with what an optimiser keeps."""
    encoder = encoder_v2()
    optimizer = tf_keras.optimizers.SGD(momentum=0.9)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder(inputs())["pooled_output"])
    gradients = tape.gradient(loss, encoder.trainable_variables)
    optimizer.apply_gradients(zip(gradients, encoder.trainable_variables, strict=True))
    randomise(encoder, 1)
    write_checkpoint(directory, encoder=encoder, optimizer=optimizer)
    write_golden(directory, encoder(inputs()))


def make_legacy_encoder(directory: Path) -> None:
    """The functional BertEncoder under `model/...`, as older checkpoints; a params.yaml gives the activation."""
    config = encoders.EncoderConfig(type="bert")
    names = {"num_hidden_layers": "num_layers"}
    fields = {names.get(name, name): value for name, value in BERT_CONFIG.items()}
    fields["num_layers"] = 1
    fields["dropout_rate"] = fields.pop("hidden_dropout_prob")
    fields["attention_dropout_rate"] = fields.pop("attention_probs_dropout_prob")
    config.bert.override({**fields, "hidden_activation": "relu"})
    encoder = networks.BertEncoder(intermediate_size=12, activation="relu", dict_outputs=True, **SIZES)
    randomise(encoder, 2)
    write_checkpoint(directory, model=encoder)
    params = {"task": {"model": {"encoder": config.as_dict()}}}
    (directory / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_golden(directory, encoder(inputs()))


def make_pretrainer(directory: Path) -> None:
    """BertPretrainerV2 with a head for the next sentence, under `encoder/...`, `masked_lm/...` and `model/...`."""
    heads = [layers.ClassificationHead(inner_dim=8, num_classes=2, name="next_sentence")]
    pretrainer = models.BertPretrainerV2(encoder_v2(), mlm_activation="gelu", classification_heads=heads)
    # The layer's default here is exact; a run's config says "gelu", which is the approximation.
    pretrainer.masked_lm.activation = tf_keras.activations.get(lambda x: tf.nn.gelu(x, approximate=True))
    pretrainer(pretrainer.inputs)
    randomise(pretrainer, 3)
    write_checkpoint(directory, model=pretrainer, **pretrainer.checkpoint_items)
    outputs = pretrainer(inputs(masked_lm_positions=positions()))
    write_golden(directory, outputs, outputs["mlm_logits"])


def make_classifier(directory: Path) -> None:
    """BertClassifier whose head has a pooler of its own."""
    encoder = encoder_v2()
    classifier = models.BertClassifier(encoder, num_classes=3, use_encoder_pooler=False)
    randomise(classifier, 4)
    write_checkpoint(directory, model=classifier)
    outputs = encoder(inputs())
    head = classifier.classifier
    outputs["pooled_output"] = head(outputs["sequence_output"], only_project=True)
    write_golden(directory, outputs, classifier(inputs()))


def make_google(directory: Path) -> None:
    """TensorFlow 1's saver under the names of Google's release, with an optimiser's slots and the step."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bert_config.json").write_text(json.dumps({**BERT_CONFIG, "hidden_act": "relu"}, indent=2) + "\n")
    write_vocabulary(directory)
    shapes = {
        "bert/embeddings/word_embeddings": [len(VOCABULARY), 8],
        "bert/embeddings/position_embeddings": [10, 8],
        "bert/embeddings/token_type_embeddings": [2, 8],
        "bert/embeddings/LayerNorm/gamma": [8],
        "bert/embeddings/LayerNorm/beta": [8],
        "bert/pooler/dense/kernel": [8, 8],
        "bert/pooler/dense/bias": [8],
        "cls/predictions/transform/dense/kernel": [8, 8],
        "cls/predictions/transform/dense/bias": [8],
        "cls/predictions/transform/LayerNorm/gamma": [8],
        "cls/predictions/transform/LayerNorm/beta": [8],
        "cls/predictions/output_bias": [len(VOCABULARY)],
        "cls/seq_relationship/output_weights": [2, 8],
        "cls/seq_relationship/output_bias": [2],
        "bert/pooler/dense/kernel/adam_m": [8, 8],
        "bert/pooler/dense/kernel/adam_v": [8, 8],
    }
    for index in range(2):
        layer = f"bert/encoder/layer_{index}"
        for part in ("attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense"):
            shapes |= {f"{layer}/{part}/kernel": [8, 8], f"{layer}/{part}/bias": [8]}
        shapes |= {f"{layer}/intermediate/dense/kernel": [8, 12], f"{layer}/intermediate/dense/bias": [12]}
        shapes |= {f"{layer}/output/dense/kernel": [12, 8], f"{layer}/output/dense/bias": [8]}
        for part in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes |= {f"{layer}/{part}/gamma": [8], f"{layer}/{part}/beta": [8]}
    random = np.random.default_rng(5)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, shape in shapes.items():
            values = random.normal(0, 0.3, shape) + name.endswith("gamma")
            tf.compat.v1.get_variable(name, initializer=values.astype(np.float32))
        tf.compat.v1.train.create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(directory / "bert_model.ckpt"), write_meta_graph=False, write_state=False)

    config = configs.BertConfig.from_json_file(str(directory / "bert_config.json"))
    with tempfile.TemporaryDirectory() as scratch:
        tf2_bert_encoder_checkpoint_converter.convert_checkpoint(
            config, f"{scratch}/converted", str(directory / "bert_model.ckpt"), converted_model="pretrainer"
        )
        pretrainer = tf2_bert_encoder_checkpoint_converter._create_bert_pretrainer_model(config)
        latest = tf.train.latest_checkpoint(scratch)
        checkpoint = tf.train.Checkpoint(**pretrainer.checkpoint_items, model=pretrainer)
        checkpoint.restore(latest).assert_existing_objects_matched()
    given = inputs(masked_lm_positions=positions())
    outputs = pretrainer([given[tensor.name] for tensor in pretrainer.inputs])
    # This encoder gives its last layer and pooled output only.
    outputs["encoder_outputs"] = [outputs["sequence_output"]]
    write_golden(directory, outputs, outputs["mlm_logits"])


def make_hub(directory: Path, archive: tarfile.TarFile) -> None:
    """What export_tfhub writes of an encoder with its masked LM."""
    fields = {**BERT_CONFIG, "num_hidden_layers": 1, "hidden_act": "gelu"}
    config = configs.BertConfig(**fields)
    with tempfile.TemporaryDirectory() as scratch:
        _, pretrainer = export_tfhub_lib._create_model(bert_config=config, with_mlm=True)
        randomise(pretrainer, 6)
        checkpoint = tf.train.Checkpoint(**pretrainer.checkpoint_items).save(f"{scratch}/ckpt")
        vocabulary = write_vocabulary(Path(scratch))
        export_tfhub_lib.export_model(
            f"{scratch}/model",
            bert_config=config,
            model_checkpoint_path=checkpoint,
            with_mlm=True,
            vocab_file=str(vocabulary),
            do_lower_case=False,
        )
        pack(Path(scratch) / "model", directory.name, archive)
        loaded = tf.saved_model.load(f"{scratch}/model")
        outputs = loaded(inputs())
        write_golden(directory, outputs, loaded.mlm(inputs(masked_lm_positions=positions()))["mlm_logits"])


def make_preprocessing(directory: Path, archive: tarfile.TarFile) -> None:
    """What export_tfhub writes of the preprocessing beside it, for lower-cased text; golden.json has its ids."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = write_vocabulary(Path(scratch))
        export_tfhub_lib.export_preprocessing(
            f"{scratch}/model",
            vocab_file=str(vocabulary),
            do_lower_case=True,
            default_seq_length=10,
            tokenize_with_offsets=False,
        )
        pack(Path(scratch) / "model", directory.name, archive)
        texts = ["The FILM.", "abc x a", ""]
        packed = tf.saved_model.load(f"{scratch}/model")(tf.constant(texts))
    golden = {"texts": texts, **{name: tensor.numpy().tolist() for name, tensor in packed.items()}}
    (directory / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


def pack(model: Path, name: str, archive: tarfile.TarFile) -> None:
    """Add a SavedModel to the archive, the same bytes for the same files."""
    for path in sorted(model.rglob("*")):
        if path.is_file() and path.name not in ("keras_metadata.pb", "fingerprint.pb"):
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(model)}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


CHECKPOINTS = {
    "encoder": make_encoder,
    "legacy_encoder": make_legacy_encoder,
    "pretrainer": make_pretrainer,
    "classifier": make_classifier,
    "google": make_google,
}

if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for case, make in CHECKPOINTS.items():
        make(OUT / case)
    with tarfile.open(OUT / "saved_models.tar.xz", "w:xz", preset=9) as archive:
        make_hub(OUT / "hub", archive)
        make_preprocessing(OUT / "preprocessing", archive)
