"""What several tests need: a checkpoint small enough to train in a second, and examples that it can learn."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells begin what is in the background so, and commands that tests begin would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOOD = ("good", "great", "fine", "lovely", "moving")
BAD = ("bad", "dull", "poor", "awful", "tiresome")
OTHERS = ("a", "the", "film", "story", "with", "an", "end", "and", "actors", "is", "it", "was")


def pytest_configure(config):
    """Leaves TensorFlow's rewriting of graphs out of the quick suite, where it takes a fifth of the time.

    Commands, servers and workers are processes of their own, with rewriting, as are all tests outside of `make test`.
    """
    if config.option.markexpr == "not slow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A directory in the Hugging Face layout: a BERT of 1 layer x 16 with random weights, without a head."""
    return _write_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def still_bert(tmp_path_factory) -> Path:
    """As `tiny_bert`, for comparisons: without dropout, and with weights that are large enough to tell texts apart."""
    return _write_bert(
        tmp_path_factory.mktemp("checkpoints") / "still",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )


def _write_bert(directory: Path, **options) -> Path:
    import keras

    from garden.models.bert import BertBackbone, BertConfig

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHERS]
    keras.utils.set_random_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **options,
    )
    BertBackbone(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> dict[str, Path]:
    """Files of 96 and 40 short reviews, whose adjective says whether they are positive: `train`, `test`."""
    directory = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    files = {}
    for name, count in (("train", 96), ("test", 40)):
        rows = []
        for index in range(count):
            label, words = (("negative", BAD), ("positive", GOOD))[index % 2]
            text = " ".join([*draw.choices(OTHERS, k=draw.randint(1, 8)), draw.choice(words)])
            rows.append(json.dumps({"text": text, "label": label}))
        files[name] = directory / f"{name}.jsonl"
        files[name].write_text("\n".join(rows) + "\n", encoding="utf-8")
    return files
