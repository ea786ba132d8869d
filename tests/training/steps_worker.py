"""Trains on one device and on two replicas with everything on, and prints how far they are apart: run by test_replicas.py.

    python steps_worker.py OPTIMIZER CHECKPOINT DATA

A process of its own, since logical devices must be there before TensorFlow starts.
"""

import json
import sys

import numpy as np
import tensorflow as tf


def trained(strategy, name: str, checkpoint: str, data: str, **steps):
    from garden import TextClassifier, read_examples
    from training.optimizers import optimizer

    # Batches of 8, of 8, and of 1, which leaves a replica without a text and parts without a row.
    examples = read_examples(data)[:17]
    # Large, since keys' biases have no gradient but rounding's; Adafactor adds its own to squares.
    options = {"epsilon": 1e-6 if name == "adafactor" else 1e-3}
    with strategy.scope():
        model = TextClassifier.from_pretrained(checkpoint, labels=["negative", "positive"])
        model.compile(optimizer(name, 1e-2, global_clipnorm=0.3, **options), **steps)
    model.fit(examples, batch_size=8, shuffle=False, verbose=0, validation_data=examples[:4])
    averages = [variable.numpy() for variable in model.averages.variables] if model.averages else []
    with model.averaged():
        averaged = model.evaluate(examples, batch_size=8, verbose=0)[0]
    return [*model.get_weights(), *averages, averaged]


def main(name: str, checkpoint: str, data: str) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    everything = {"accumulate": 3, "recompute": True, "ema": 0.8}
    plain = trained(tf.distribute.get_strategy(), name, checkpoint, data, ema=0.8)
    mirrored = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), name, checkpoint, data, **everything)
    print(json.dumps(max(float(np.max(np.abs(a - b))) for a, b in zip(plain, mirrored, strict=True))))


if __name__ == "__main__":
    main(*sys.argv[1:])
