"""Files that start a run's workers on a cluster, rendered from its config: `render`. No TensorFlow here.

config.yaml       the run's config, as the workers read it
jobset.yaml       Kubernetes: the config, the volume of the run and the JobSet of its workers
job.sbatch        Slurm: the batch script
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.cluster import check_batch
from training.config import RunConfig
from training.deploy import kubernetes, slurm

logger = logging.getLogger(__name__)

RENDERERS: dict[str, Callable[..., dict[str, str]]] = {"kubernetes": kubernetes.files, "slurm": slurm.files}
_CONFIG = "config.yaml"
_LONGEST_HOST = 63
# Each value's form, and one that has it.
_FORMS = {
    "name": (r"[a-z]([a-z0-9-]*[a-z0-9])?", "bert-base"),
    "image": (r"[A-Za-z0-9][\w.:/@#-]*", "registry.example.com/team/garden:1.0"),
    "memory": (r"[1-9]\d*(Ki|Mi|Gi|Ti)", "64Gi"),
    "storage": (r"[1-9]\d*(Ki|Mi|Gi|Ti)", "100Gi"),
    "claim": (r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "runs"),
    "time": (r"\d+|\d+(:\d\d){1,2}|\d+-\d+(:\d\d){0,2}", "1-00:00:00"),
    "partition": (r"[\w,.-]+", "gpu"),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What the workers of a run get from a cluster.

    Args:
        name: what the cluster calls the run.
        workers: how many, each with these: `cpus`, `gpus`, `memory` (in Ki, Mi, Gi or Ti).
        image: container image with Garden in it; Kubernetes needs one, Slurm runs it through pyxis.
        storage, claim: Kubernetes: the size of a volume for the run, or the name of a claim that is there.
        time, partition: Slurm's limit and partition.
        grace_seconds: between the word to end and the end.
        restarts: how often all workers are started again after one has failed.
    """

    name: str
    workers: int
    image: str | None = None
    cpus: int = 4
    gpus: int = 0
    memory: str = "16Gi"
    storage: str = "100Gi"
    claim: str | None = None
    time: str = "1-00:00:00"
    partition: str | None = None
    grace_seconds: int = 120
    restarts: int = 10

    def __post_init__(self):
        for name, (form, example) in _FORMS.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(form, value):
                raise ValueError(f'{name}: "{value}" cannot be one; expected something like {example}')
        for name, least in (("workers", 1), ("cpus", 1), ("gpus", 0), ("grace_seconds", 1), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        host = kubernetes.host(self, self.workers - 1)
        if len(host) > _LONGEST_HOST:
            raise ValueError(f"name: {host} has {len(host)} characters, a host's name at most {_LONGEST_HOST}")

    @property
    def replicas(self) -> int:
        """Devices that a step's batch is divided by."""
        return self.workers * max(self.gpus, 1)


def render(kind: str, config: RunConfig, deployment: Deployment, directory: str | Path) -> list[Path]:
    """Writes the files of a kind of cluster, "kubernetes" or "slurm", to a directory, and returns their paths.

    Raises ValueError, one line, for values that the cluster or the run would refuse.
    """
    if kind not in RENDERERS:
        raise ValueError(f'render: expected one of {", ".join(RENDERERS)}, got "{kind}"')
    check_batch(config.training.batch_size, deployment.replicas, "replicas")
    if not config.training.checkpoint_steps:
        logger.warning("training.checkpoint_steps is not set: a run that loses a machine starts from its beginning")
    config = dataclasses.replace(config, strategy="multi_worker", devices=None, tpu=None)
    directory = Path(directory)
    written = RENDERERS[kind](config, deployment, directory / _CONFIG)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in written]


def name_of(config: RunConfig) -> str:
    """Returns a name for a run, made of its output directory's."""
    return re.sub(r"[^a-z0-9]+", "-", os.path.basename(os.path.normpath(config.output)).lower()).strip("-") or "run"
