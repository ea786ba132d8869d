"""A run as a batch script of Slurm: a task of srun a worker. Asked to end, or short of a worker, it is queued again."""

from __future__ import annotations

import shlex
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from training.config import RunConfig
from training.preemption import PREEMPTED
from training.rendezvous import LOST

if TYPE_CHECKING:
    from training.deploy import Deployment

KILLED = 137
_UNITS = {"Ki": "K", "Mi": "M", "Gi": "G", "Ti": "T"}
_SCRIPT = Template("""\
#!/bin/bash
# sbatch $script, from the directory that paths in the config start from.
#SBATCH --job-name=$name
#SBATCH --nodes=$workers
#SBATCH --ntasks=$workers
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=$cpus
#SBATCH --mem=$memory
${options}#SBATCH --time=$time
#SBATCH --signal=TERM@$grace
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$name-%j.log
set -uo pipefail

# Jobs that share a node have other ports.
export GARDEN_PORT=$$((20000 + SLURM_JOB_ID % 10000))

# Slurm itself queues a preempted job again, and nobody does a cancelled one: both tell this script.
told=
trap 'told=yes' TERM

srun --label --distribution=block --kill-on-bad-exit=0 --wait=$grace \\
  ${container}garden train $config --progress
code=$$?

case $$code in
  $lost|$preempted|$killed)
    if [ -z "$$told" ] && [ "$${SLURM_RESTART_COUNT:-0}" -lt $restarts ]; then
      echo "exit code $$code: queued again, to go on from the last checkpoint" >&2
      scontrol requeue "$$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$$code"
""")


def files(config: RunConfig, deployment: Deployment, path: Path) -> dict[str, str]:
    """Returns `job.sbatch`, and the config that it names by its path."""
    options = [f"--gpus-per-node={deployment.gpus}"] if deployment.gpus else []
    options += [f"--partition={deployment.partition}"] if deployment.partition else []
    # pyxis' option; the working directory holds the data and the run.
    image = f"--container-image={shlex.quote(deployment.image or '')}"
    container = f'{image} --container-mounts="$PWD" --container-workdir="$PWD" '
    script = _SCRIPT.substitute(
        script=shlex.quote(str(path.with_name("job.sbatch"))),
        name=deployment.name,
        workers=deployment.workers,
        cpus=deployment.cpus,
        memory=deployment.memory[:-2] + _UNITS[deployment.memory[-2:]],
        options="".join(f"#SBATCH {option}\n" for option in options),
        time=deployment.time,
        grace=deployment.grace_seconds,
        container=f"{container}\\\n  " if deployment.image else "",
        config=shlex.quote(str(path)),
        lost=LOST,
        preempted=PREEMPTED,
        killed=KILLED,
        restarts=deployment.restarts,
    )
    return {"job.sbatch": script, path.name: config.to_yaml()}
