"""Trains, evaluates and predicts under one strategy, and writes what came out: run by test_distribution.py.

    python worker.py STRATEGY CHECKPOINT DATA OUTPUT.npz

A process of its own, since logical devices and TF_CONFIG must be there before TensorFlow starts.
"""

import sys

import numpy as np
import tensorflow as tf


def dropout_mask(step: int) -> tf.Tensor:
    from garden.layers import Dropout, step_seed

    with step_seed(1, tf.constant(step)):
        return Dropout(0.5)(tf.ones([100]), training=True)


def main(strategy: str, checkpoint: str, data: str, output: str) -> None:
    from garden import TextClassifier, read_examples
    from garden.tasks.optimization import AdamW

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = {
        "one": lambda: tf.distribute.get_strategy(),
        "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "multi_worker": lambda: tf.distribute.MultiWorkerMirroredStrategy(),
    }[strategy]()
    assert strategy.num_replicas_in_sync in (1, 2)
    # Three batches: of 8, of 8, and of 1, which leaves a replica without a text.
    examples = read_examples(data)[:17]
    with strategy.scope():
        model = TextClassifier.from_pretrained(checkpoint, labels=["negative", "positive"])
        # Clipping has to see the sum of all gradients: this norm is passed at every step.
        model.compile(AdamW(1e-2, epsilon=1e-3, global_clipnorm=0.3))
    history = model.fit(
        examples.texts,
        examples.labels,
        sample_weight=np.linspace(0.5, 2.0, len(examples)),
        batch_size=8,
        epochs=2,
        shuffle=False,
        validation_data=examples[:9],
        verbose=0,
    ).history
    results = {name: values for name, values in history.items() if "per_second" not in name}
    results["steps"] = model.optimizer.iterations.numpy()
    results |= {f"weights/{index}": values for index, values in enumerate(model.get_weights())}
    results["evaluate"] = model.evaluate(examples, batch_size=8, verbose=0)[:2]
    masks = strategy.experimental_local_results(strategy.run(lambda: dropout_mask(0)))
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks), "each replica drops other elements"
    results["predict"] = model.predict(examples.texts, batch_size=8, verbose=0)
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
