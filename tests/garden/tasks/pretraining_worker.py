"""Trains the tasks whose losses have several parts, or candidates on other replicas, on one device and on two.

    python pretraining_worker.py CHECKPOINT OUTPUT.npz

Run by test_pretraining_on_replicas.py: a process of its own, since logical devices must be there before TensorFlow starts.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

NOUNS = ("actors", "end", "film", "story")
WORDS = (*NOUNS, "a", "the", "an", "and", "is", "it", "was", "good", "great", "fine", "bad", "dull", "poor")
RANDOM = np.random.default_rng(0)
TEXTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(2, 9))) for _ in range(19)]
PAIRS = list(zip(TEXTS, TEXTS[3:] + TEXTS[:3], strict=True))


def pairs(checkpoint: str):
    from garden import MaskedLMWithPairs

    return MaskedLMWithPairs.from_pretrained(checkpoint, batching="padded")


def detector(checkpoint: str):
    """Its generator draws what it thinks likeliest: by chance, replicas would draw differently."""
    from garden import ReplacedTokenDetector, Tokenizer
    from garden.models.electra import ElectraBackbone, ElectraConfig

    tokenizer = Tokenizer.from_pretrained(checkpoint)
    keras.utils.set_random_seed(0)
    config = ElectraConfig(
        vocab_size=tokenizer.vocabulary_size,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return ReplacedTokenDetector.build_on(
        ElectraBackbone(config), tokenizer, generator_size=0.5, temperature=1e-4, batching="padded"
    )


def embedder(checkpoint: str):
    from garden import TextEmbedder

    return TextEmbedder.from_pretrained(checkpoint, temperature=0.5)


def data(name: str, model) -> list | tf.data.Dataset:
    """What it is trained on: prepared batches, where masks are drawn, since each replica would draw its own; else texts."""
    if name == "embedder":
        # Batches of 8, of 8, and of 3, which replicas lay out in different numbers of rows.
        return PAIRS
    labels = [index % 2 for index in range(len(TEXTS))] if name == "pairs" else None
    raw = model.raw_dataset(PAIRS if name == "pairs" else TEXTS, labels, batch_size=len(TEXTS))
    ((x, y, weights),) = model.prepared_dataset(raw, training=True)
    if name == "pairs":
        # Most pairs of one replica do not count.
        weights = (weights[0], weights[1] * np.float32(np.arange(len(TEXTS)) > 7)[:, None])
    return tf.data.Dataset.from_tensors((x, y, weights))


def trained(name: str, strategy: tf.distribute.Strategy, checkpoint: str) -> dict[str, np.ndarray]:
    from garden.tasks.optimization import AdamW

    given = data(name, MODELS[name](checkpoint))
    with strategy.scope():
        model = MODELS[name](checkpoint)
        model.compile(AdamW(1e-2, epsilon=1e-3, global_clipnorm=0.3))
    history = model.fit(given, batch_size=8, shuffle=False, epochs=2, validation_data=given, verbose=0).history
    results = {key: values for key, values in history.items() if "per_second" not in key}
    return results | {f"weights/{index}": values for index, values in enumerate(model.get_weights())}


MODELS = {"pairs": pairs, "detector": detector, "embedder": embedder}


def main(checkpoint: str, output: str) -> None:
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
    results = {}
    for name in MODELS:
        for count, strategy in strategies.items():
            values = trained(name, strategy, checkpoint)
            results |= {f"{count}/{name}/{key}": value for key, value in values.items()}
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
