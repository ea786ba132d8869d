"""`Backbone.from_pretrained` of a 500 MB checkpoint: peak memory, and speed from a warm disk cache.

python benchmarks/loading.py --record        about 2 minutes on 2 cores

Each load is a fresh process that has imported everything and run one operation before. Memory is the highest resident
size while loading, above what the process had before, as a multiple of the variables' bytes. Speed is the file's bytes
over the seconds of the whole call: config, network, weights. Beside it, in the same process, the memory's ceilings: reading
the file into new memory, and copying as many bytes from one array to another, both with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The root in place of this folder: modules here are benchmarks.NAME, however a script is started.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

from benchmarks import record
from benchmarks.material import ROOT
from benchmarks.turns import installed, progress

PACKAGES = {"Garden": ["tensorflow", "keras", "numpy"]}
MEMORY_TARGET, SPEED_TARGET = 1.3, 1.0

# A family's sizes, and what one block adds, so that the file gets as large as asked for.
BERT = {"model_type": "bert", "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
}
CASES = {
    "BERT, float32": (BERT, "float32", "float32"),
    "Llama, float32": (LLAMA, "float32", "float32"),
    "Llama, bfloat16 into float32": (LLAMA, "bfloat16", "float32"),
    "Llama, bfloat16": (LLAMA, "bfloat16", "bfloat16"),
}
"""Name -> sizes, the file's type, and the type of the variables."""


def make(directory: Path, sizes: dict[str, Any], dtype: str, megabytes: int) -> None:
    """Writes a checkpoint of about so many megabytes with random weights."""
    import ml_dtypes
    import numpy as np

    from garden.checkpoints import huggingface
    from garden.checkpoints.weight_map import dump
    from garden.models.backbone import blank_weights, family_of, named_variables

    family = family_of(sizes)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    build = lambda layers: family.backbone(family.config.from_dict({**sizes, "num_hidden_layers": layers}))
    with blank_weights():
        one, two = (build(layers).count_params() for layers in (1, 2))
        layers = max(round((megabytes * 1e6 / kind.itemsize - one) / (two - one)) + 1, 1)
        backbone = build(layers)
    random = np.random.default_rng(0)
    tensors = (
        (name, random.standard_normal(array.shape, np.float32).astype(kind))
        for name, array in dump(named_variables(backbone), backbone.rules())
    )
    huggingface.write_weights(directory, tensors)
    huggingface.write_config(directory, backbone.config_dict())


def load(directory: Path, dtype: str) -> dict[str, float]:
    """Loads a checkpoint and returns seconds, bytes and memory. Peaks are of Linux."""
    import numpy as np
    import tensorflow as tf

    import garden
    from garden.models.backbone import family_of

    family_of(json.loads((directory / "config.json").read_text()))
    tf.linalg.matmul(tf.ones([2, 2]), tf.ones([2, 2]))
    file = directory / "model.safetensors"
    size = file.stat().st_size
    file.read_bytes()  # into the disk cache; the memory is given back
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begin, begin_cpu = time.perf_counter(), time.process_time()
    backbone = garden.Backbone.from_pretrained(directory, dtype=dtype)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    peak = _memory("VmHWM") - before
    variables = sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in backbone.weights)
    del backbone

    begin = time.perf_counter()
    buffer = np.empty(size, np.uint8)
    with open(file, "rb", buffering=0) as stream:
        stream.readinto(buffer)
    reading = time.perf_counter() - begin
    other = np.ones_like(buffer)
    begin = time.perf_counter()
    np.copyto(other, buffer)
    copying = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "file_bytes": size,
        "variable_bytes": variables,
        "peak_bytes": peak,
        "read_seconds": reading,
        "copy_seconds": copying,
    }


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; this benchmark needs Linux")


def fresh(*arguments: str) -> str:
    """Runs this script in a process of its own and returns what it prints."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--megabytes", type=int, default=500, help="size of each checkpoint (default: 500)")
    add("--turns", type=int, default=5, help="loads of each checkpoint (default: 5)")
    add("--cases", default=",".join(map(str, range(len(CASES)))), help="numbers of the cases, from 0 (default: all)")
    add("--record", nargs="?", type=Path, const=record.RESULTS, metavar="DIRECTORY", help="write a results file")
    add("--make", nargs=3, metavar=("DIRECTORY", "CASE", "MEGABYTES"), help=argparse.SUPPRESS)
    add("--load", nargs=2, metavar=("DIRECTORY", "DTYPE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse(arguments)
    if options.make:
        directory, case, megabytes = options.make
        sizes, kind, _ = CASES[case]
        make(Path(directory), sizes, kind, int(megabytes))
        return 0
    if options.load:
        print(json.dumps(load(Path(options.load[0]), options.load[1])))
        return 0
    cases, rows = {}, []
    for name in [list(CASES)[int(number)] for number in options.cases.split(",")]:
        with tempfile.TemporaryDirectory() as directory:
            progress(f"{name}: making the checkpoint")
            fresh("--make", directory, name, str(options.megabytes))
            turns = []
            for turn in range(options.turns):
                progress(f"{name}: load {turn + 1} of {options.turns}")
                turns.append(json.loads(fresh("--load", directory, CASES[name][2])))
        rate = lambda key, turns=turns: statistics.median(turn["file_bytes"] / turn[key] / 1e9 for turn in turns)
        summary = {
            "file_megabytes": turns[0]["file_bytes"] / 1e6,
            "memory_ratio": statistics.median(turn["peak_bytes"] / turn["variable_bytes"] for turn in turns),
            "gigabytes_per_second": rate("seconds"),
            "gigabytes_per_core_second": rate("cpu_seconds"),
            "read_ceiling": rate("read_seconds"),
            "copy_ceiling": rate("copy_seconds"),
        }
        cases[name] = {"turns": turns, **summary}
        rows.append(
            [name, f"{summary['file_megabytes']:.0f}"] + [f"{value:.2f}" for value in list(summary.values())[1:]]
        )
    config = {**vars(options), "record": None, "make": None, "load": None}
    result = {**record.context(config, {"Garden": installed()}), "cases": cases}
    text = record.heading("Loading checkpoints", result, PACKAGES)
    text += f"\nMedians of {options.turns} fresh processes. Targets: peak memory at most {MEMORY_TARGET} times the variables, "
    text += f"{SPEED_TARGET:g} GB/s or the ceiling where that is lower.\n\n"
    head = [
        "checkpoint, into",
        "file, MB",
        "peak / variables",
        "GB/s",
        "GB per core-second",
        "plain read, GB/s",
        "plain copy, GB/s",
    ]
    text += record.table(head, rows) + "\n"
    print(text)
    if options.record:
        print(f"recorded: {record.write('loading', result, text, options.record)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
