"""Strategy model_parallel: one network over the devices of this machine, and the devices themselves.

A mesh of `model` shards and `stage` stages takes model x stage devices: GPUs where there are any, else logical CPU devices,
which are made where TensorFlow has not started. `garden.layers.mesh` says what lies where.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from garden.checkpoints import huggingface
from garden.layers.mesh import Mesh
from garden.models.backbone import blank_weights, family_of, open_weights


class ModelParallel:
    """TensorFlow's default strategy, in whose scope networks are built on a mesh."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self._default = tf.distribute.get_strategy()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within it networks are built on the mesh."""
        with self._default.scope(), self.mesh.scope():
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._default, name)


def mesh_of(sizes: Mapping[str, int]) -> Mesh:
    """Returns the mesh of a config's sizes, such as {"model": 2, "stage": 2}, on this machine's devices.

    Raises ValueError when it has not got enough.
    """
    model, stage = sizes.get("model", 1), sizes.get("stage", 1)
    count = model * stage
    gpus = len(tf.config.list_physical_devices("GPU"))
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        make_cpus(count)
    there = [device.name for device in tf.config.list_logical_devices(kind)]
    if count > len(there):
        remedy = "" if gpus else "; logical ones are made before TensorFlow starts: take a process of its own"
        raise ValueError(
            f"mesh: model: {model}, stage: {stage} takes {count} devices, and there are {len(there)} {kind}s{remedy}"
        )
    return Mesh.of(there, model=model, stage=stage)


def make_cpus(count: int) -> None:
    """Makes logical CPU devices, as far as there are fewer and TensorFlow has not started."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count > len(tf.config.get_logical_device_configuration(cpu) or [None]):
        with contextlib.suppress(RuntimeError):  # it has started: what is missing will be told
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)


def sizes_of(text: str) -> dict[str, int]:
    """Returns the sizes that "model=2,stage=2" says; ValueError for anything else."""
    pairs = [re.fullmatch(r"(model|stage)=([1-9]\d{0,3})", part.strip()) for part in text.split(",")]
    names = [pair and pair[1] for pair in pairs]
    if None in names or len(set(names)) < len(names):
        raise ValueError(f'--mesh: expected model=N,stage=M, such as model=2,stage=2, got "{text}"')
    return {pair[1]: int(pair[2]) for pair in pairs if pair}


def bytes_by_device(directory: Path, sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the bytes of parameters that each device of a mesh would hold of a model in the Hugging Face layout.

    The network is made in a graph that never runs: no weight is read, no memory taken, and no device needed. An optimiser such
    as AdamW keeps twice as much beside them.

    Raises ValueError for a network that the mesh does not divide.
    """
    model, stage = sizes.get("model", 1), sizes.get("stage", 1)
    mesh = Mesh.of([f"/device:GPU:{index}" for index in range(model * stage)], model=model, stage=stage)
    values = huggingface.read_config(directory)
    where = directory / huggingface.CONFIG_FILE
    family = family_of(values, where)
    tasks = family.tasks_named(values)
    with open_weights(directory, family) as weights, tf.Graph().as_default(), mesh.scope(), blank_weights():
        config = family.config.from_dict(values, where).settled(weights)
        if not tasks:
            parts = [family.backbone(config, **family.backbone.parts_in(weights, {}))]
        else:
            head = family.heads[tasks[0]]
            backbone = family.backbone(config, **head.backbone_parts)
            classes = {"classes"} & set(inspect.signature(head.__init__).parameters)
            parts = [backbone, head(backbone, **{name: weights.shape(head.marker)[0] for name in classes})]
    held = {device: 0 for row in mesh.devices for device in row}
    for weight in {id(weight): weight for part in parts for weight in part.weights}.values():
        held[weight.value.device or mesh.first] += weight.value.dtype.size * weight.value.shape.num_elements()
    names = [f"model {m}, stage {s}" for s, row in enumerate(mesh.devices) for m in range(len(row))]
    return dict(zip(names, held.values(), strict=True))
