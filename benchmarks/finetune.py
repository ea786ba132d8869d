"""Fine-tune MiniLM-L6 on movie reviews with Hugging Face + PyTorch and with Garden, in turns; print real tokens a second.

python benchmarks/finetune.py --record                          both precisions, about 5 minutes on 2 cores
python benchmarks/finetune.py --precision float32 --accuracy 1  and train both to the end, once: 13 minutes more
python benchmarks/finetune.py --batching packed,padded --row-lengths 32,64,128    Garden's layouts against each other
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The root in place of this folder, whose tokenize.py would hide the standard library\'s.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import material, record, reference
from benchmarks.turns import SETTLE_SECONDS, Player, Worker, WorkerError, progress, take_turns

REFERENCE = "Hugging Face + PyTorch"
GARDEN = "Garden"
TARGET = 2.3
PACKAGES = {
    REFERENCE: ["torch", "transformers", "tokenizers"],
    GARDEN: ["tensorflow", "keras"],
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--precision", default="float32,bfloat16", help="one or both of float32,bfloat16 (default: both)")
    add("--turns", type=int, default=5, help="turns of each side (default: 5)")
    add("--steps", type=int, default=12, help="training steps in a turn (default: 12)")
    add("--warm-up", type=int, default=9, help="steps before the first turn, not counted (default: 9)")
    add("--accuracy", type=int, default=0, metavar="SEEDS", help="then train to the end so often and test (default: 0)")
    add("--epochs", type=int, default=2, help="of training to the end (default: 2)")
    add("--batch-size", type=int, default=32, help="texts in a step (default: 32)")
    add("--learning-rate", type=float, default=5e-5, help="the schedule's peak (default: 5e-5)")
    add("--sequence-length", type=int, default=128, help="tokens of a text at most (default: 128)")
    add("--batching", help="compare Garden's layouts instead: packed,padded or one of them")
    add("--row-lengths", default="64", help="with --batching: rows of packed texts (default: 64)")
    common_options(parser)
    options = parser.parse_args(arguments)
    options.precision = choices(parser, "--precision", options.precision, ["float32", "bfloat16"])
    if options.batching:
        options.batching = choices(parser, "--batching", options.batching, ["packed", "padded"])
        lengths = options.row_lengths.split(",")
        if not all(length.isdigit() and int(length) > 0 for length in lengths):
            parser.error(f"--row-lengths: expected numbers such as 32,64,128, got {options.row_lengths}")
        options.row_lengths = [int(length) for length in lengths]
    for name in ("turns", "steps", "epochs", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    if options.warm_up < 3:
        parser.error(f"--warm-up: expected at least 3 steps, got {options.warm_up}")
    return options


def common_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every benchmark with sides."""
    add = parser.add_argument
    add("--reference-python", metavar="PATH", help=f"Python of the reference (default: that of {reference.SETUP})")
    add("--model", help="checkpoint in the Hugging Face layout (default: MiniLM-L6, an installed package)")
    add("--train", default=str(material.TRAIN), help="reviews, JSONL with text and label (default: Garden's)")
    add("--test", default=str(material.TEST), help="reviews to test on (default: Garden's)")
    add("--threads", type=int, default=material.cores(), help="of each side (default: all cores)")
    add("--seed", type=int, default=1, help="of texts, heads and dropout (default: 1)")
    add("--settle", type=float, default=SETTLE_SECONDS, help="seconds of rest before each turn (default: 0.5)")
    add("--record", nargs="?", type=Path, const=record.RESULTS, metavar="DIRECTORY", help="write a results file")


def choices(parser: argparse.ArgumentParser, option: str, given: str, allowed: list[str]) -> list[str]:
    """Returns a comma-separated option's parts; ends the program when one is not allowed."""
    parts = given.split(",")
    if not set(parts) <= set(allowed):
        parser.error(f"{option}: expected {', '.join(allowed)}, or several of them, got {given}")
    return parts


def sides(options: argparse.Namespace, precision: str, model: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Returns each side's Python, class and options, by name."""
    shared = {
        "model": model,
        "precision": precision,
        "threads": options.threads,
        "sequence_length": options.sequence_length,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
    }
    ours = "benchmarks.side_garden:FineTuning"
    if not options.batching:
        python = str(reference.interpreter(options.reference_python))
        return {
            REFERENCE: (python, "benchmarks.side_huggingface:FineTuning", shared),
            GARDEN: (sys.executable, ours, shared),
        }
    layouts = {}
    for batching in options.batching:
        for length in options.row_lengths if batching == "packed" else [None]:
            layout = {"batching": batching} | ({"row_length": length} if length else {})
            name = f"{GARDEN}, {batching}" + (f", rows of {length}" if length else "")
            layouts[name] = (sys.executable, ours, {**shared, "options": layout})
    return layouts


def measure(options: argparse.Namespace, precision: str, model: str, software: dict[str, Any]) -> dict[str, Any]:
    """Returns one precision's turns, medians, ratios to the first side and, when asked for, accuracies."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        prepared = {}
        for name, (python, target, arguments) in sides(options, precision, model).items():
            progress(f"{precision}: starting {name}")
            workers[name] = stack.enter_context(Worker(name, python, target, **arguments))
            software[GARDEN if name.startswith(GARDEN) else name] = workers[name].software
            amount = {"warm_up": options.warm_up, "turns": options.turns, "steps": options.steps}
            prepared[name] = workers[name].call("prepare", train=options.train, seed=options.seed, **amount)
            progress(f"{precision}: {name}: {prepared[name]['variant']}")
        turns = take_turns(
            {
                name: Player(lambda turn, worker=worker: worker.call("turn"), [worker.pid])
                for name, worker in workers.items()
            },
            options.turns,
            settle=options.settle,
        )
        medians = {name: record.median(numbers, "tokens_per_second") for name, numbers in turns.items()}
        accuracies = _train(options, precision, workers, medians)
    first = next(iter(medians.values()))
    return {
        "prepared": prepared,
        "turns": turns,
        "median_tokens_per_second": medians,
        "ratio": {name: value / first for name, value in medians.items()},
        "to_the_end": accuracies,
        "warnings": record.disturbed(turns) + _different_tokens(turns),
    }


def _train(options: argparse.Namespace, precision: str, workers: dict[str, Worker], rates: dict[str, float]):
    """Trains each side to the end with each seed, one after the other, and returns what they reach."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for seed in range(options.seed, options.seed + options.accuracy):
        for name, worker in workers.items():
            progress(f"{precision}: {name}: training to the end, seed {seed} ({rates[name]:.0f} tokens/s)")
            end = worker.call("train", train=options.train, test=options.test, epochs=options.epochs, seed=seed)
            progress(f"{precision}: {name}: accuracy {end['accuracy']:.4f} after {end['seconds']:.0f} s")
            results[name].append({"seed": seed, **end})
    return results


def _different_tokens(turns: dict[str, list[dict[str, Any]]]) -> list[str]:
    counts = {name: [turn["tokens"] for turn in numbers] for name, numbers in turns.items()}
    if len({tuple(count) for count in counts.values()}) == 1:
        return []
    return [f"the sides did not read the same tokens: {counts}"]


def report(result: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    config = result["config"]
    text = record.heading("Fine-tuning MiniLM-L6 on movie reviews", result, PACKAGES)
    text += (
        f"\nBatch {config['batch_size']}, learning rate {config['learning_rate']:g}, texts up to "
        f"{config['sequence_length']} tokens, {config['threads']} threads a side; {config['turns']} turns of "
        f"{config['steps']} steps each, the same texts on every side. Real tokens: special tokens counted, padding not. "
        "Ratios are to the first side.\n"
    )
    for precision, measured in result["precisions"].items():
        rows = []
        for name, turns in measured["turns"].items():
            prepared = measured["prepared"][name]
            rates = [turn["tokens_per_second"] for turn in turns]
            side = name if config["batching"] else f"{name} ({prepared['variant']})"
            row = [side, f"{measured['median_tokens_per_second'][name]:.0f}"]
            row += [f"{min(rates):.0f}-{max(rates):.0f}", f"{measured['ratio'][name]:.2f}"]
            row += [f"{prepared['padding_share']:.0%}", f"{prepared['first_step_seconds']:.1f} s"]
            rows.append(row + _reached(measured["to_the_end"][name]))
        head = [
            "side",
            "real tokens/s, median",
            "range",
            "ratio",
            "padding",
            "first step, not counted",
            "test accuracy",
        ]
        text += f"\n## {precision}\n\n{record.table(head, rows)}\n"
        for name, prepared in measured["prepared"].items():
            if "tried_tokens_per_second" in prepared:
                tried = ", ".join(f"{key} {rate:.0f}" for key, rate in prepared["tried_tokens_per_second"].items())
                text += f"\nTried for {name}, in real tokens/s; the fastest took the turns: {tried}.\n"
        if GARDEN in measured["ratio"] and REFERENCE in measured["ratio"]:
            ratio = measured["ratio"][GARDEN]
            verdict = "reached" if ratio >= TARGET else "missed"
            text += f"\nGarden is {ratio:.2f} times as fast; the target of {TARGET} is {verdict}.\n"
        text += "".join(f"\nWarning: {warning}.\n" for warning in measured["warnings"])
    return text


def _reached(ends: list[dict[str, Any]]) -> list[str]:
    if not ends:
        return ["-"]
    values = [end["accuracy"] for end in ends]
    each = ", ".join(f"{value:.4f}" for value in values)
    return [each if len(values) == 1 else f"{statistics.mean(values):.4f} ({each})"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse(arguments)
    try:
        model = options.model or str(material.weights_directory())
        config = {**vars(options), "model": Path(model).parent.name, "record": None, "reference_python": None}
        config |= {"train": Path(options.train).name, "test": Path(options.test).name}
        software: dict[str, Any] = {}
        measured = {}
        for precision in options.precision:
            measured[precision] = measure(options, precision, model, software)
    except (FileNotFoundError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {**record.context(config, software), "precisions": measured}
    text = report(result)
    print(text)
    if options.record:
        progress(
            f"recorded: {record.write('finetune-layouts' if options.batching else 'finetune', result, text, options.record)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
