"""`garden launch`: the workers of a run on this machine, or the files that start them on a cluster."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from garden.commands import JSON, log_to_stderr, print_json


def _of_cluster(name: str, meaning: str, **settings: Any) -> Any:
    return click.option(f"--{name}", help=f"With --render: {meaning}", **settings)


def options() -> list[Any]:
    """Returns the parameters of the command."""
    return [
        click.option("--workers", type=click.IntRange(1), required=True, help="Processes, or machines with --render."),
        click.option("--config", required=True, help="The run's config: a YAML file, as for garden train."),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
        click.option("--overwrite", is_flag=True, help="Replace a run that is in the output directory."),
        click.option("--pin", is_flag=True, help="Give each worker processor cores of its own."),
        click.option(
            "--render",
            type=click.Choice(["kubernetes", "slurm"]),
            help="Start nothing: write a cluster's files to --to.",
        ),
        _of_cluster("to", "directory to write to."),
        _of_cluster("name", "what the cluster calls the run.  [default: the output directory's name]"),
        _of_cluster("image", "container image with Garden in it; Slurm can do without."),
        _of_cluster("cpus", "processor cores of a worker.  [default: 4]", type=click.IntRange(1)),
        _of_cluster("gpus", "GPUs of a worker.  [default: 0]", type=click.IntRange(0)),
        _of_cluster("memory", "memory of a worker.  [default: 16Gi]"),
        _of_cluster("storage", "size of the volume that the run is written to, on Kubernetes.  [default: 100Gi]"),
        _of_cluster("claim", "instead of --storage: a volume claim that is there."),
        _of_cluster("time", "Slurm's limit.  [default: 1-00:00:00]"),
        _of_cluster("partition", "Slurm's partition."),
        JSON,
    ]


def launch(
    workers: int,
    config: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    pin: bool,
    render: str | None,
    as_json: bool,
    **asked: Any,
) -> int:
    """Trains what the config describes on several workers of this machine, or writes the files that do so on a cluster.

    Worker 0's results are on stdout; lines of the workers' logs begin with their numbers, on stderr. When one worker fails, all
    are stopped, and its exit code is this command's. SIGTERM and Ctrl-C go to all.

    \b
    Example:
      garden launch --workers 2 --config configs/sentiment.yaml output=runs/two
      garden launch --workers 8 --config configs/sentiment.yaml --render slurm --gpus 8 --to deploy/sentiment \\
        training.batch_size=256
    """
    from training.cluster import check_batch, check_shards
    from training.config import read_config
    from training.paths import located

    log_to_stderr(logging.WARNING)
    read = read_config(located(config), [*overrides, "strategy=multi_worker"])
    asked = {name: value for name, value in asked.items() if value is not None}
    if render:
        return _render(render, read, workers, asked, as_json)
    if asked:
        raise click.UsageError(f"--{next(iter(asked))} is for --render")
    check_batch(read.training.batch_size, workers, "workers")
    if read.data.shards > 1:
        check_shards(read.data.shards, workers)
    from training.launch import launch

    command = [sys.executable, "-m", "garden.cli", "train", str(located(config)), *overrides, "strategy=multi_worker"]
    command += ["--progress", *(["--overwrite"] if overwrite else []), *(["--json"] if as_json else [])]
    return launch(command, workers, pin=pin)


def _render(kind: str, config: Any, workers: int, asked: dict[str, Any], as_json: bool) -> int:
    from training.deploy import Deployment, name_of, render

    if "to" not in asked:
        raise click.UsageError("--render needs --to, a directory to write to")
    directory = Path(asked.pop("to"))
    deployment = Deployment(**{"name": name_of(config), "workers": workers, **asked})
    paths = render(kind, config, deployment, directory)
    if as_json:
        print_json({"files": [str(path) for path in paths]})
    else:
        click.echo("\n".join(map(str, paths)))
    return 0
