"""The names of run configs' strategies as tf.distribute strategies."""

import json
import os

import tensorflow as tf

NOT_YET = ("tpu", "model_parallel")


def strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy that a run config names. Make it first of all, and the model in its scope.

    Args:
        name: "one_device": TensorFlow's own choice, the first GPU or the CPU; "mirrored": all GPUs of this machine (where
            there is none, all logical CPU devices); "multi_worker": all machines of the cluster in the environment
            variable TF_CONFIG.

    Raises ValueError for any other name, and for "multi_worker" without a cluster.
    """
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        # MirroredStrategy itself takes only the first of several logical CPU devices.
        cpus = None if tf.config.list_logical_devices("GPU") else tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy(cpus and [device.name for device in cpus])
    if name == "multi_worker":
        _check_cluster(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    later = " is not available yet;" if name in NOT_YET else ":"
    raise ValueError(f'strategy "{name}"{later} expected one_device, mirrored or multi_worker')


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files: of several workers, the first."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().jobs:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def _check_cluster(config: str | None) -> None:
    example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
    if not config:
        raise ValueError(
            f"strategy multi_worker: the environment variable TF_CONFIG is not set; set it on each machine: {example}"
        )
    try:
        values = json.loads(config)
        workers = {**values["cluster"], **values["task"]}
    except (ValueError, KeyError, TypeError):
        workers = {}
    if "type" not in workers or "index" not in workers:
        raise ValueError(f"strategy multi_worker: TF_CONFIG is not a cluster and a task; expected {example}")
