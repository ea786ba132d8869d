"""Trains, evaluates and predicts under strategies, and writes what came out: run by test_distribution.py.

    python worker.py OPTIONS.json

Options: `strategies`, in turn: "one", "mirrored" over so many `devices`, "multi_worker"; `task`, `checkpoint`, `data`,
`examples`, `epochs`; `output`, a file STRATEGY.npz below which is written for each.

A process of its own, since logical devices and TF_CONFIG must be there before TensorFlow starts.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def dropout_mask(step: int) -> tf.Tensor:
    from garden.layers import Dropout, step_seed

    with step_seed(1, tf.constant(step)):
        return Dropout(0.5)(tf.ones([100]), training=True)


def made(task: str, checkpoint: str):
    from garden import CausalLM, Seq2SeqLM, TextClassifier

    if task == "encoder":
        return TextClassifier.from_pretrained(checkpoint, labels=["negative", "positive"])
    return {"decoder": CausalLM, "encoder-decoder": Seq2SeqLM}[task].from_pretrained(checkpoint)


def results_of(strategy: tf.distribute.Strategy, options: dict) -> dict:
    from garden import read_examples
    from garden.tasks.optimization import AdamW

    task = options["task"]
    # Batches of 8, and a last one that replicas share unevenly: of one example, it leaves a replica without a text.
    read = read_examples(options["data"])[: options["examples"]]
    targets = {"encoder": read.labels, "decoder": None, "encoder-decoder": read.texts[::-1]}[task]
    with strategy.scope():
        model = made(task, options["checkpoint"])
        # Clipping has to see the sum of all gradients: this norm is passed at every step.
        model.compile(AdamW(1e-2 if task == "encoder" else 3e-3, epsilon=1e-3, global_clipnorm=0.3))
    weights = np.linspace(0.5, 2.0, len(read)) if task == "encoder" else None
    given = {"x": read.texts, "y": targets}
    part = {"x": read.texts[:9], "y": targets and targets[:9]}
    history = model.fit(
        **given,
        sample_weight=weights,
        batch_size=8,
        epochs=options["epochs"],
        shuffle=False,
        validation_data=tuple(part.values()) if options["epochs"] > 1 and targets else None,
        verbose=0,
    ).history
    results = {name: values for name, values in history.items() if "per_second" not in name}
    results["steps"] = model.optimizer.iterations.numpy()
    results |= {f"weights/{index}": values for index, values in enumerate(model.get_weights())}
    results["evaluate"] = model.evaluate(**part, batch_size=8, verbose=0)[:2]
    if task == "encoder":  # what others predict comes in rows, whose layout is a replica's own
        masks = strategy.experimental_local_results(strategy.run(lambda: dropout_mask(0)))
        assert len({mask.numpy().tobytes() for mask in masks}) == len(masks), "each replica drops other elements"
        results["predict"] = model.predict(read.texts[:8], batch_size=8, verbose=0)
    return results


def main(options: dict) -> None:
    devices = [tf.config.LogicalDeviceConfiguration()] * options.get("devices", 1)
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    strategies = {
        "one": lambda: tf.distribute.get_strategy(),
        "mirrored": lambda: tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(len(devices))]),
        "multi_worker": lambda: tf.distribute.MultiWorkerMirroredStrategy(),
    }
    for name in options["strategies"]:
        strategy = strategies[name]()
        assert strategy.num_replicas_in_sync == {"one": 1, "mirrored": len(devices)}.get(name, options.get("workers"))
        np.savez(Path(options["output"]) / f"{name}.npz", **results_of(strategy, options))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
