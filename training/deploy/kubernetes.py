"""A run as a JobSet: https://jobset.sigs.k8s.io, API v1alpha2. Its network section has a headless service made, so that each
worker has a name that outlives its pod."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from garden.process import BAD_INPUT_EXIT
from training.cluster import PORT
from training.config import RunConfig
from training.preemption import PREEMPTED
from training.rendezvous import LOST

if TYPE_CHECKING:
    from training.deploy import Deployment

JOB, CONTAINER = "workers", "garden"
RUNS, CONFIGS = "/runs", "/etc/garden"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def host(deployment: Deployment, index: int) -> str:
    """Returns the host name of a worker's pod."""
    return f"{deployment.name}-{JOB}-0-{index}"


def files(config: RunConfig, deployment: Deployment, path: Path) -> dict[str, str]:
    """Returns `jobset.yaml`, whose run writes to the volume, and the config in it."""
    if deployment.image is None:
        raise ValueError("image: Kubernetes needs a container image with Garden in it: --image")
    config = dataclasses.replace(config, output=f"{RUNS}/{deployment.name}")
    text = config.to_yaml()
    documents = [
        _config_map(deployment, text),
        *([] if deployment.claim else [_claim(deployment)]),
        _jobset(deployment),
    ]
    header = f"# kubectl apply -f {path.with_name('jobset.yaml')}\n# Paths in the config are the container's.\n"
    return {"jobset.yaml": header + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False), path.name: text}


def _config_map(deployment: Deployment, text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{deployment.name}-config"},
        "data": {"config.yaml": text},
    }


def _claim(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{deployment.name}-runs"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": deployment.storage}},
        },
    }


def _jobset(deployment: Deployment) -> dict[str, Any]:
    job = {
        "parallelism": deployment.workers,
        "completions": deployment.workers,
        "completionMode": "Indexed",
        # What the policy does not name ends the job, and the JobSet starts all of it again.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": _codes(BAD_INPUT_EXIT)},
                {"action": "Ignore", "onExitCodes": _codes(LOST, PREEMPTED)},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": _pod(deployment)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": deployment.name},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": deployment.name, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": deployment.restarts,
                "rules": [{"name": "badInput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": JOB, "replicas": 1, "template": {"spec": job}}],
        },
    }


def _codes(*codes: int) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": sorted(codes)}


def _pod(deployment: Deployment) -> dict[str, Any]:
    resources: dict[str, Any] = {"cpu": str(deployment.cpus), "memory": deployment.memory}
    gpus = {"nvidia.com/gpu": str(deployment.gpus)} if deployment.gpus else {}
    variables = {
        "JOBSET_NAME": deployment.name,
        "REPLICATED_JOB_NAME": JOB,
        "GARDEN_WORKERS": str(deployment.workers),
        "GARDEN_PORT": str(PORT),
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": deployment.grace_seconds,
        "containers": [
            {
                "name": CONTAINER,
                "image": deployment.image,
                "command": ["garden", "train", f"{CONFIGS}/config.yaml", "--progress"],
                # Kubernetes itself adds JOB_COMPLETION_INDEX.
                "env": [{"name": name, "value": value} for name, value in variables.items()],
                "ports": [{"name": "workers", "containerPort": PORT}],
                "resources": {"requests": {**resources, **gpus}, "limits": {"memory": deployment.memory, **gpus}},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "runs", "mountPath": RUNS},
                    {"name": "config", "mountPath": CONFIGS, "readOnly": True},
                    {"name": "memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": deployment.claim or f"{deployment.name}-runs"}},
            {"name": "config", "configMap": {"name": f"{deployment.name}-config"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
