"""What several workers, replicas and shards cost on the same cores, and what checkpoints cost: ratios in one run.

    python benchmarks/scaling.py --texts train.jsonl.gz --text description [--record]

A BERT of 4 layers x 256 learns masked tokens from a corpus of the texts, batches of 32 rows of 128, float32. Every side is the
command a user gives (`garden train`, `garden launch`), pinned to the same two cores, with the same global batches:

- one process on both cores, to which all others are compared;
- two worker processes with a core each (MultiWorkerMirroredStrategy);
- two logical devices of one process that each hold the network (MirroredStrategy);
- two logical devices of one process that each hold half of the network (`mesh: {model: 2}`).

`--checkpoints N` measures what saving the whole state every N steps costs one process, beside itself: how much longer the N
steps after a checkpoint take than N steps that no checkpoint is near, one after the other in the same run.

`--workers 1,2,3,4` compares `benchmarks/cost_model.py` with workers of that number instead: a core each as far as there are
cores. What a step takes on one core (for 8 and for 16 rows), and what two workers of 4 rows take beyond that, on two cores
and on one that they share, is measured; from these, steps of 24 rows are predicted, and measured too, all in turns.

Sides take turns. A side's speed is the rate of real tokens between two lines of its metrics.jsonl, by this process's clock: all
that happens between those steps counts. Medians of the turns. `docs/scaling.md` has the model that predicts such ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import record
from benchmarks.cost_model import local_step_seconds

GARDEN = Path(sys.executable).with_name("garden")
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
ONE = "one process"
SIDES = {
    ONE: ([], None, None),
    "two workers": (["launch", "--workers", "2", "--pin"], {}, 0.9),
    "mirrored, two devices": ([], {"strategy": "mirrored", "devices": ["CPU:0", "CPU:1"]}, 0.95),
    "model parallel, two devices": ([], {"strategy": "model_parallel", "mesh": {"model": 2, "stage": 1}}, 0.85),
}
"""Name -> the command, what its config has beside the one process's, and the least ratio that it should have."""


def config_of(corpus: Path, tokenizer: Path, output: Path, steps: int, extra: dict) -> dict:
    """Returns a side's run config."""
    extra = dict(extra)
    return {
        "task": "masked-lm",
        "model": {"family": "bert", "tokenizer": str(tokenizer), "config": SIZES},
        "data": {"corpus": str(corpus), "validation_rows": 1},
        "training": {
            "steps": steps,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "log_steps": 5,
            "validation_steps": 10 * steps,
            "keep": "last",
            "checkpoint_steps": extra.pop("checkpoints", None),
        },
        "output": str(output),
        **extra,
    }


def speed(command: list[str], config: dict, first: int, last: int, cores: list[int] | None = None) -> float:
    """Runs a side and returns its real tokens a second between two steps; ends it after the second."""
    seen = clock(command, config, last, cores)
    (begin, before), (end, after) = seen[first], seen[last]
    return (after - before) / (end - begin)


def clock(command: list[str], config: dict, last: int, cores: list[int] | None = None) -> dict[int, tuple[float, int]]:
    """Runs a side up to a step, and returns when its lines of metrics came, and their tokens, by step."""
    output = Path(config["output"])
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    arguments = [*command, "--config", str(path)] if command else ["train", str(path)]
    with tempfile.TemporaryFile() as errors:
        if cores:
            arguments = ["-c", ",".join(map(str, cores)), str(GARDEN), *arguments]
        program = "taskset" if cores else str(GARDEN)
        process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=errors)
        seen: dict[int, tuple[float, int]] = {}
        try:
            while last not in seen:
                for line in _lines(output / "metrics.jsonl"):
                    if "loss" in line and line["step"] not in seen:
                        seen[line["step"]] = (time.perf_counter(), line["tokens"])
                if process.poll() not in (None, 0):
                    errors.seek(0)
                    raise SystemExit(f"{' '.join(arguments)}: {errors.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.005)
        finally:
            process.terminate()
            process.wait()
    shutil.rmtree(output)
    return seen


def checkpoint_cost(corpus: Path, tokenizer: Path, directory: Path, every: int, rounds: int) -> dict:
    """Returns how much longer steps take with a checkpoint every so many, as a share, round by round.

    A round is the steps from one checkpoint to the next, in windows of a tenth; a checkpoint is written beside the steps that
    come after it, and the second half of the windows is free of that.
    """
    window = every // 10
    config = config_of(corpus, tokenizer, directory / "checkpoints", (rounds + 1) * every + 10, {"checkpoints": every})
    config["training"]["log_steps"] = window
    times = {step: moment for step, (moment, _) in clock([], config, (rounds + 1) * every).items()}
    costs, steps = [], []
    for begin in range(every, (rounds + 1) * every, every):
        windows = [times[at + window] - times[at] for at in range(begin, begin + every, window)]
        free = statistics.mean(windows[5:])
        costs.append((sum(windows) - 10 * free) / (10 * free))
        steps.append(free / window)
    return {
        "every": every,
        "costs": costs,
        "median": statistics.median(costs),
        "mean": statistics.mean(costs),
        "steps": steps,
    }


def predicted(corpus: Path, tokenizer: Path, directory: Path, counts: list[int], cores: list[int], turns: int) -> dict:
    """Returns the measured and predicted seconds of a step of 24 rows by numbers of workers, and what predicts them."""
    rows_in_all, first, last = 24, 10, 40

    def seconds(rows: int, workers: int, on: int) -> float:
        config = config_of(corpus, tokenizer, directory / "workers", last + 10, {})
        config["training"]["batch_size"] = rows
        pin = ["--pin"] if workers <= on else []
        command = [] if workers == 1 else ["launch", "--workers", str(workers), *pin]
        # Rows are full to a fraction of a percent.
        return rows * 128 / speed(command, config, first, last, cores[:on])

    known = {"8 rows": (8, 1, 1), "16 rows": (16, 1, 1), "two workers": (8, 2, 2), "two workers on a core": (8, 2, 1)}
    sides = known | {f"{count} workers": (rows_in_all, count, 1 if count == 1 else len(cores)) for count in counts}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            taken[name].append(seconds(*side))
            print(f"{name}: {taken[name][-1]:.3f} s", flush=True)
    of = {name: statistics.median(values) for name, values in taken.items()}
    a_row = (of["16 rows"] - of["8 rows"]) / 8
    fixed = of["8 rows"] - 8 * a_row
    own = fixed + 4 * a_row
    work = of["two workers on a core"] / 2 - own
    measured = {"fixed": fixed, "a_row": a_row, "work": work, "wait": max(of["two workers"] - own - work, 0.0)}
    told = {count: local_step_seconds(rows_in_all, count, len(cores), **measured) for count in counts}
    return {
        "known": measured,
        "predicted": told,
        "measured": {count: of[f"{count} workers"] for count in counts},
        "turns": taken,
    }


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines, gzipped or not")
    parser.add_argument("--text", default="text", help="field with the text")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=110, help="of each turn; the first ten are not counted")
    parser.add_argument("--sides", help=f"some of: {'; '.join(SIDES)} (default: all)")
    parser.add_argument("--workers", help="numbers of workers to predict and measure, such as 1,2,3,4")
    parser.add_argument(
        "--checkpoints", type=int, help="measure what a checkpoint every so many steps costs, such as 50"
    )
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    sides = [ONE, *options.sides.split(";")] if options.sides else list(SIDES)
    rates: dict[str, list[float]] = {name.strip(): [] for name in sides}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        tokenizer, corpus = directory / "vocabulary", directory / "corpus"
        train = [str(GARDEN), "corpus", "vocabulary", str(options.texts), "--text", options.text]
        subprocess.run([*train, "--kind", "wordpiece", "--size", "8192", "--to", str(tokenizer)], check=True)
        source = {"name": "texts", "paths": [str(options.texts)], "text": options.text, "options": {"skip_empty": True}}
        built = directory / "corpus.yaml"
        built.write_text(json.dumps({"sources": [source], "tokenizer": str(tokenizer), "output": str(corpus)}))
        subprocess.run([str(GARDEN), "corpus", "build", str(built)], check=True)
        if options.workers:
            counts = list(map(int, options.workers.split(",")))
            found = predicted(corpus, tokenizer, directory, counts, cores, options.turns)
            report("scaling-workers", "Predicted", workers_text(found), found, options)
            return
        if options.checkpoints:
            found = checkpoint_cost(corpus, tokenizer, directory, options.checkpoints, 2 * options.turns)
            report("scaling-checkpoints", "Checkpoints", checkpoints_text(found), found, options)
            return
        for turn in range(options.turns):
            for name in rates:
                command, extra, _ = SIDES[name]
                config = config_of(corpus, tokenizer, directory / f"run-{turn}", options.steps + 10, extra or {})
                rates[name].append(speed(command, config, 10, options.steps))
                print(f"{name}: {rates[name][-1]:,.0f} real tokens/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = []
    for name, value in medians.items():
        least = SIDES[name][2]
        ratio = value / medians[ONE]
        rows.append([name, f"{value:,.0f}", f"{ratio:.3f}", "" if least is None else f"{least:.2f}"])
    text = record.table(["", "real tokens a second", "ratio", "wanted"], rows)
    report("scaling", "Scaling", text, {"rates": rates, "medians": medians}, options)


def workers_text(found: dict) -> str:
    rows = [
        [str(count), f"{told:.3f}", f"{found['measured'][count]:.3f}", f"{told / found['measured'][count] - 1:+.1%}"]
        for count, told in found["predicted"].items()
    ]
    known = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in found["known"].items())
    return record.table(["workers", "predicted seconds of a step", "measured", "off by"], rows) + f"\n\n{known}"


def checkpoints_text(found: dict) -> str:
    shares = ", ".join(f"{cost:+.1%}" for cost in found["costs"])
    return (
        f"A checkpoint every {found['every']} steps takes {found['median']:+.2%} of the steps' time (median; mean "
        f"{found['mean']:+.2%}; one after the other {shares}; a step takes {statistics.median(found['steps']):.3f} s)."
    )


def report(name: str, title: str, text: str, found: dict, options: argparse.Namespace) -> None:
    """Prints what was found, and records it where asked to."""
    print(text)
    if options.record:
        result = record.context({"turns": options.turns, "steps": options.steps, "sizes": SIZES}, {}) | found
        print(record.write(name, result, record.heading(title, result, {}) + "\n" + text + "\n"))


if __name__ == "__main__":
    main()
