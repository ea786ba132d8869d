"""Which processes train together, and which of them this one is: read from the environment that a launcher sets.

TF_CONFIG (`garden launch` and most platforms), a Kubernetes Indexed Job or JobSet, and Slurm's srun are understood, in this
order. No TensorFlow here: a cluster has to be known before it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PORT = 2222
EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers of a run. The first is the chief, which writes the run's files.

    Args:
        addresses: "host:port" of each worker; ports are those that TensorFlow answers on.
        index: which of them this process is.
        kind: where this is known from: "TF_CONFIG", "Kubernetes" or "Slurm".
        chief: whether the first is called "chief" in TF_CONFIG, rather than worker 0.
    """

    addresses: tuple[str, ...]
    index: int
    kind: str
    chief: bool = False

    def __post_init__(self):
        if not self.addresses:
            raise ValueError(f"{self.kind}: a cluster without workers")
        for address in self.addresses:
            host_and_port(address, where=self.kind)
        for address in self.addresses:
            if self.addresses.count(address) > 1:
                raise ValueError(
                    f"{self.kind}: several workers have the address {address}; give each its own host or port"
                )
        if not 0 <= self.index < len(self.addresses):
            raise ValueError(
                f"{self.kind}: this is worker {self.index}, and the cluster has {len(self.addresses)}, which count from 0"
            )

    @property
    def address(self) -> str:
        """This worker's."""
        return self.addresses[self.index]

    def name(self, index: int) -> str:
        """What messages call a worker."""
        return f"worker {index} ({self.addresses[index]})"

    def to_tf_config(self) -> str:
        """Returns the cluster as TensorFlow reads it from TF_CONFIG."""
        addresses = list(self.addresses)
        if not self.chief:
            jobs, task = {"worker": addresses}, {"type": "worker", "index": self.index}
        else:
            jobs = {"chief": addresses[:1], "worker": addresses[1:]} if addresses[1:] else {"chief": addresses}
            task = {"type": "worker", "index": self.index - 1} if self.index else {"type": "chief", "index": 0}
        return json.dumps({"cluster": jobs, "task": task})

    def check_port(self) -> None:
        """Raises ValueError where another process answers on this worker's port."""
        with listening(self.address):
            pass


def resolve(environment: Mapping[str, str] | None = None) -> Cluster:
    """Returns the cluster that the environment (default: this process's) describes.

    Raises ValueError, one line, where there is none, or one that cannot be.
    """
    given = os.environ if environment is None else environment
    if given.get("TF_CONFIG"):
        return _of_tf_config(given["TF_CONFIG"])
    if given.get("GARDEN_HOSTS") or given.get("GARDEN_WORKERS"):
        return _of_kubernetes(given)
    if given.get("SLURM_PROCID"):
        return _of_slurm(given)
    raise ValueError(
        "strategy multi_worker: no cluster in the environment; start the workers with garden launch, srun or a JobSet, or set "
        f"TF_CONFIG on each machine: {EXAMPLE}"
    )


def _of_tf_config(text: str) -> Cluster:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"TF_CONFIG is not JSON ({error}); expected {EXAMPLE}") from None
    if not isinstance(values, dict):
        raise ValueError(f"TF_CONFIG: expected a cluster and a task, got {text}; an example: {EXAMPLE}")
    jobs, task = _section(values, "cluster"), _section(values, "task")
    for name in ("type", "index"):
        if name not in task:
            raise ValueError(f'TF_CONFIG: the task has no "{name}"; expected {EXAMPLE}')
    for name in (*jobs, task["type"]):
        if name not in ("chief", "worker"):
            raise ValueError(
                f'TF_CONFIG: no "{name}" tasks here, only "worker" and one "chief"; runs have no parameter servers, and '
                "validate by themselves"
            )
    for name, addresses in jobs.items():
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise ValueError(f'TF_CONFIG: "{name}": expected a list of addresses, got {json.dumps(addresses)}')
    chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
    if len(chiefs) > 1:
        raise ValueError(f"TF_CONFIG: expected one chief at most, got {len(chiefs)}")
    kind, index, of_kind = (
        task["type"],
        _whole(task["index"], "TF_CONFIG: the task's index"),
        jobs.get(task["type"], []),
    )
    if not 0 <= index < len(of_kind):
        raise ValueError(
            f"TF_CONFIG: the task is {kind} {index}, and the cluster has {len(of_kind)} of the kind {kind}"
        )
    return Cluster(
        addresses=(*chiefs, *workers),
        index=index + (len(chiefs) if kind == "worker" else 0),
        kind="TF_CONFIG",
        chief=bool(chiefs),
    )


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(values.get(name), dict) or not values[name]:
        what = f'"{name}" is missing' if name not in values else f'"{name}" is {json.dumps(values[name])}'
        raise ValueError(f"TF_CONFIG: {what}; expected {EXAMPLE}")
    return values[name]


def _of_kubernetes(given: Mapping[str, str]) -> Cluster:
    """The cluster of an Indexed Job, whose pods have host names by their number, or of a list of hosts.

    A JobSet's pods are called `<jobset>-<job>-0-<number>.<jobset>`; GARDEN_HOSTS says what those of others are called.
    """
    port = _port(given)
    pattern = given.get("GARDEN_HOSTS", "")
    if not pattern:
        jobset = given.get("JOBSET_NAME")
        if not jobset:
            raise ValueError(
                "Kubernetes: GARDEN_WORKERS is set, and neither JOBSET_NAME nor GARDEN_HOSTS, the workers' host names, such "
                "as pretrain-{index}.pretrain"
            )
        job = given.get("REPLICATED_JOB_NAME") or "workers"
        pattern = f"{jobset}-{job}-0-{{index}}.{jobset}"
    if "{index}" in pattern:
        count = _whole(given.get("GARDEN_WORKERS"), "Kubernetes: GARDEN_WORKERS")
        hosts = [pattern.replace("{index}", str(index)) for index in range(count)]
    else:
        hosts = [host.strip() for host in pattern.split(",")]
    index = given.get("GARDEN_INDEX", given.get("JOB_COMPLETION_INDEX"))
    return Cluster(
        addresses=tuple(host if _has_port(host) else f"{host}:{port}" for host in hosts),
        index=_whole(index, "Kubernetes: JOB_COMPLETION_INDEX (or GARDEN_INDEX)"),
        kind="Kubernetes",
    )


def _of_slurm(given: Mapping[str, str]) -> Cluster:
    """The cluster of a job step: a worker a task, on consecutive ports where a node has several."""
    nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ValueError(
            "Slurm: neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST is set; start the workers with srun"
        )
    hosts = expand_hosts(nodes)
    count = _whole(given.get("SLURM_STEP_NUM_TASKS") or given.get("SLURM_NTASKS"), "Slurm: SLURM_NTASKS")
    index = _whole(given.get("SLURM_PROCID"), "Slurm: SLURM_PROCID")
    tasks = given.get("SLURM_STEP_TASKS_PER_NODE") or given.get("SLURM_TASKS_PER_NODE")
    per_node = expand_tasks(tasks) if tasks else [len(part) for part in _even(count, len(hosts))]
    if len(per_node) != len(hosts) or sum(per_node) != count:
        raise ValueError(f"Slurm: {count} tasks, {tasks} by node, on {len(hosts)} nodes ({nodes})")
    port = _port(given)
    places = [(node, local) for node, tasks in enumerate(per_node) for local in range(tasks)]
    node = given.get("SLURM_NODEID")
    if node is not None and 0 <= index < count and places[index][0] != _whole(node, "Slurm: SLURM_NODEID"):
        raise ValueError(
            f"Slurm: task {index} is on node {node}, not {places[index][0]}; use srun --distribution=block"
        )
    return Cluster(
        addresses=tuple(f"{hosts[node]}:{port + local}" for node, local in places),
        index=index,
        kind="Slurm",
    )


def _even(count: int, parts: int) -> list[range]:
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def expand_hosts(nodes: str) -> list[str]:
    """Returns the hosts of a Slurm node list such as `node[01-03,7],login`, in its order."""
    hosts = []
    for entry in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+|[\[\],]", nodes):
        if entry == ",":
            continue
        names = [""]
        for text, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", entry):
            names = [name + end for name in names for end in ([text] if text else _ranged(ranges, nodes))]
        if entry in "[]":
            raise ValueError(f'Slurm: "{nodes}" is not a list of nodes, such as node[01-03,7]')
        hosts += names
    return hosts


def _ranged(ranges: str, nodes: str) -> Iterator[str]:
    for part in ranges.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise ValueError(f'Slurm: "{nodes}" is not a list of nodes, such as node[01-03,7]')
        for number in range(int(found[1]), int(found[2] or found[1]) + 1):
            yield f"{number:0{len(found[1])}d}"


def expand_tasks(tasks: str) -> list[int]:
    """Returns how many tasks each node has, of Slurm's short form such as `2(x3),1`."""
    counts = []
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not found:
            raise ValueError(f'Slurm: "{tasks}" is not a number of tasks by node, such as 2(x3),1')
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def host_and_port(address: str, *, where: str = "address") -> tuple[str, int]:
    """Returns the parts of "host:port"; an IPv6 host stands in brackets. ValueError for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([\w.-]+)):(\d{1,5})", address)
    if not found or not 0 < int(found[3]) < 2**16:
        raise ValueError(f'{where}: "{address}" is not an address; expected host:port, such as host1:2222')
    return found[1] or found[2], int(found[3])


def _has_port(host: str) -> bool:
    return bool(re.search(r"[^:\[]:\d+$|\]:\d+$", host))


def _port(given: Mapping[str, str]) -> int:
    port = _whole(given.get("GARDEN_PORT") or PORT, "GARDEN_PORT")
    if not 0 < port < 2**16:
        raise ValueError(f"GARDEN_PORT: expected a port of 1 to 65535, got {port}")
    return port


def _whole(value: Any, name: str) -> int:
    try:
        if value is None or isinstance(value, (bool, float)):
            raise ValueError
        return int(value)
    except (ValueError, TypeError):
        shown = "is not set" if value is None else f"is {json.dumps(value)}"
        raise ValueError(f"{name} {shown}; expected a whole number") from None


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Listens on an address's port, on all interfaces, as TensorFlow will; ValueError where another process does."""
    port = host_and_port(address)[1]
    both = socket.has_dualstack_ipv6()
    try:
        # Connections of a process that has just ended do not count as one that listens.
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ValueError(
            f"port {port} of {address}, this process's own, cannot be used: {reason}; end the process that uses it "
            f"(ss -ltnp 'sport = {port}'), or give another port"
        ) from None
    with listener:
        yield listener


def check_batch(batch_size: int, count: int, kind: str) -> None:
    """Raises ValueError where a batch's examples are not the same number for each of `count` "replicas" or "workers"."""
    if batch_size % count:
        below, above = batch_size // count * count, -(-batch_size // count) * count
        raise ValueError(
            f"training.batch_size: {batch_size} examples are not the same number for each of {count} {kind}; try "
            + (f"{below} or {above}" if below else f"{above}")
        )


def check_shards(shards: int, workers: int) -> None:
    """Raises ValueError where the parts that a corpus's batches are made in are not the same number for each worker."""
    if shards % workers:
        raise ValueError(f"data.shards: {workers} workers do not divide {shards}")
