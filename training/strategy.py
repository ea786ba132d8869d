"""The names of run configs' strategies as tf.distribute strategies."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence

import tensorflow as tf

from training import workers
from training.cluster import check_batch, check_shards, resolve
from training.config import RunConfig
from training.mesh import ModelParallel, make_cpus, mesh_of
from training.rendezvous import guarded

_REACH_SECONDS = 10.0


def strategy_of(config: RunConfig) -> tf.distribute.Strategy:
    """Returns the strategy of a run config. Make it first of all, and the model in its scope.

    Raises ValueError, one line, as `strategy` does, and where its replicas do not divide the batch, or its workers
    the shards.
    """
    made = strategy(config.strategy, devices=config.devices, tpu=config.tpu, mesh=config.mesh)
    check_batch(config.training.batch_size, made.num_replicas_in_sync, "replicas")
    if config.data.shards > 1:
        check_shards(config.data.shards, workers.count(made))
    return made


def strategy(
    name: str,
    *,
    devices: Sequence[str] | None = None,
    tpu: str | None = None,
    mesh: Mapping[str, int] | None = None,
) -> tf.distribute.Strategy:
    """Returns the strategy of a name.

    Args:
        name: "one_device": TensorFlow's own choice, the first GPU or the CPU; "mirrored": all GPUs of this machine (where
            there is none, all logical CPU devices); "multi_worker": all machines of the cluster that the environment
            describes (see `training.cluster`); "tpu": all cores of a TPU; "model_parallel": a network spread over
            devices of this machine.
        devices: for "mirrored", which instead of all: "GPU:0", "GPU:2"; of "CPU:0", "CPU:1" those that are not there are
            made, unless TensorFlow has started.
        tpu: for "tpu", its name or address; default: the environment variable TPU_NAME, or the one of this machine.
        mesh: for "model_parallel", how: {"model": shards, "stage": stages} (see `training.mesh`).

    Raises ValueError for any other name, for devices that are not there, and for "multi_worker" without a cluster.
    """
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_all_devices() if devices is None else _named_devices(devices))
    if name == "multi_worker":
        os.environ["TF_CONFIG"] = resolve().to_tf_config()
        with guarded():
            return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu(tpu or os.environ.get("TPU_NAME"))
    if name == "model_parallel":
        return ModelParallel(mesh_of(mesh or {}))
    raise ValueError(f'strategy "{name}": expected one_device, mirrored, multi_worker, tpu or model_parallel')


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files: of several workers, the first."""
    resolver = strategy.cluster_resolver
    if resolver is None or isinstance(strategy, tf.distribute.TPUStrategy) or not resolver.cluster_spec().jobs:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def _all_devices() -> list[str] | None:
    # MirroredStrategy itself takes only the first of several logical CPU devices.
    cpus = None if tf.config.list_logical_devices("GPU") else tf.config.list_logical_devices("CPU")
    return cpus and [device.name for device in cpus]


def _named_devices(names: Sequence[str]) -> list[str]:
    wanted = []
    for name in names:
        found = re.fullmatch(r"(CPU|GPU):(\d{1,3})", name)
        if not found:
            raise ValueError(f'devices: "{name}" is not a device; expected names such as GPU:0 and CPU:1')
        wanted.append((found[1], int(found[2])))
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"devices: expected one or several, each once, got [{', '.join(names)}]")
    make_cpus(1 + max((index for kind, index in wanted if kind == "CPU"), default=0))
    there = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    missing = [f"{kind}:{index}" for kind, index in wanted if f"{kind}:{index}" not in there]
    if missing:
        known = ", ".join(name for name in there if name.startswith(("CPU", "GPU")))
        raise ValueError(f"devices: no {', '.join(missing)} here; there are {known}")
    return list(names)


def _tpu(address: str | None) -> tf.distribute.Strategy:
    try:
        if address and address.startswith("grpc://"):
            _check_reachable(address)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address or "local")
        if address and address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        which = f'"{address}"' if address else "this machine"
        reason = " ".join(str(getattr(error, "message", None) or error).split())[:160]
        raise ValueError(
            f"strategy tpu: no TPU at {which} ({reason}); give its name or address as tpu: grpc://host:8470, or set TPU_NAME"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody answers: TensorFlow would wait."""
    host, _, port = address.removeprefix("grpc://").partition(",")[0].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("expected grpc://host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
