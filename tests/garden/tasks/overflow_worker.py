"""Trains on two replicas; at the second step the loss of one is infinite.

    python overflow_worker.py CHECKPOINT PRECISION SKIP

A process of its own, since logical devices must be there before TensorFlow starts. Prints, as JSON, after how many of four
steps the weights were other than before, whether both replicas have the same, and how many steps were counted as skipped.
"""

import json
import sys

import numpy as np
import tensorflow as tf


def main(checkpoint: str, precision: str, skip: str) -> None:
    import garden
    from garden.tasks.optimization import AdamW

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    class Overflowing(garden.TextClassifier):
        """Its loss is infinite on the second replica at the second step."""

        def weighted_losses(self, x, y, y_pred, sample_weight):
            losses, weights = super().weighted_losses(x, y, y_pred, sample_weight)
            second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
            step = self.inner.iterations.value
            return losses * tf.where(second & (step == 1) & tf.equal(self.steps_seen, 1), np.inf, 1.0), weights

    with strategy.scope():
        model = Overflowing.from_pretrained(checkpoint, labels=["negative", "positive"], dtype=precision)
        model.compile(AdamW(1e-2, skip_not_finite=skip == "skip"))
        model.steps_seen = tf.Variable(0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        model.inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    texts, labels = ["a good film", "a bad end", "great actors", "a dull story"], [1, 0, 1, 0]
    changed = []
    for step in range(4):
        model.steps_seen.assign(step)
        before = [weight.numpy() for weight in model.weights]
        model.fit(texts, labels, batch_size=4, epochs=1, shuffle=False, verbose=0)
        changed.append(any(np.any(old != new.numpy()) for old, new in zip(before, model.weights, strict=True)))
    values = [strategy.experimental_local_results(weight.value) for weight in model.weights]
    same = all(np.array_equal(one.numpy(), other.numpy()) for one, other in values)
    finite = all(np.all(np.isfinite(one.numpy())) for one, _ in values)
    skipped = None if model.inner.skipped is None else int(tf.convert_to_tensor(model.inner.skipped.value))
    print(json.dumps({"changed": changed, "same": same, "finite": finite, "skipped": skipped}))


if __name__ == "__main__":
    main(*sys.argv[1:])
