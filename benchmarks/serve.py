"""Classify movie reviews at batch 1, 8 and 64 with Hugging Face + PyTorch and with Garden's export, in turns.

python benchmarks/serve.py --record        both precisions, about 4 minutes on 2 cores

Garden answers three times: in process, as the reference does, and through its server over gRPC and over REST.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The root in place of this folder, whose tokenize.py would hide the standard library\'s.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import material, record, reference
from benchmarks.finetune import REFERENCE, choices, common_options
from benchmarks.turns import Player, Worker, WorkerError, progress, take_turns

GARDEN = "Garden, SavedModel"
GRPC = "Garden, server over gRPC"
REST = "Garden, server over REST"
PACKAGES = {
    REFERENCE: ["torch", "transformers", "tokenizers"],
    GARDEN: ["tensorflow", "keras", "grpcio", "aiohttp"],
}
TARGETS = {1: 1.2, 64: 2.2}
# Scores of one text on different sides: float32 differs by rounding, bfloat16 has 8 bits.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--precision", default="float32,bfloat16", help="one or both of float32,bfloat16 (default: both)")
    add("--batch-sizes", default="1,8,64", help="texts in a call (default: 1,8,64)")
    add("--turns", type=int, default=5, help="turns of each side at each batch size (default: 5)")
    add("--texts", type=int, default=128, help="texts of a turn, in 3 to 40 calls (default: 128)")
    add("--sequence-length", type=int, default=128, help="tokens of a text at most (default: 128)")
    common_options(parser)
    options = parser.parse_args(arguments)
    options.precision = choices(parser, "--precision", options.precision, ["float32", "bfloat16"])
    sizes = options.batch_sizes.split(",")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        parser.error(f"--batch-sizes: expected numbers such as 1,8,64, got {options.batch_sizes}")
    options.batch_sizes = sorted(int(size) for size in sizes)
    for name in ("turns", "texts"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    return options


def calls_of(options: argparse.Namespace) -> dict[str, int]:
    """Returns how many calls a turn has at each batch size: at least 3, at most 40."""
    return {str(size): min(max(options.texts // size, 3), 40) for size in options.batch_sizes}


def measure(
    options: argparse.Namespace, precision: str, checkpoint: str, base: str, software: dict[str, Any]
) -> dict[str, Any]:
    """Returns one precision's turns, medians and ratios to the reference, by batch size."""
    shared = {"model": checkpoint, "precision": precision, "threads": options.threads}
    shared["sequence_length"] = options.sequence_length
    calls = calls_of(options)
    with contextlib.ExitStack() as stack:

        def start(name: str, python: str, target: str, **arguments: Any) -> Worker:
            progress(f"{precision}: starting {name}")
            return stack.enter_context(Worker(name, python, target, **arguments))

        ours = start(GARDEN, sys.executable, "benchmarks.side_garden:Exported", **shared)
        exported = ours.call("export", base=base)
        theirs_python = str(reference.interpreter(options.reference_python))
        theirs = start(REFERENCE, theirs_python, "benchmarks.side_huggingface:Classification", **shared)
        server_options = {"base": base, "threads": options.threads}
        server = start("server", sys.executable, "benchmarks.side_garden:Serving", **server_options)
        address = server.call("addresses")
        asking = "benchmarks.side_garden:Asking"
        over_grpc = start(GRPC, sys.executable, asking, grpc=address["grpc"])
        over_rest = start(REST, sys.executable, asking, url=address["url"])
        workers = {REFERENCE: theirs, GARDEN: ours, GRPC: over_grpc, REST: over_rest}
        software |= {REFERENCE: theirs.software, GARDEN: ours.software}
        prepared = {
            name: worker.call("prepare", test=options.test, calls=calls, seed=options.seed)
            for name, worker in workers.items()
        }
        warnings = _different_answers(workers, options.test, TOLERANCE[precision])
        by_size = {}
        for size in options.batch_sizes:

            def play(turn: int, worker: Worker, size: int = size) -> dict[str, Any]:
                # Each turn has texts of its own, the same for all sides.
                seed = options.seed + 1 + turn
                return worker.call("turn", test=options.test, batch_size=size, calls=calls[str(size)], seed=seed)

            progress(f"{precision}: batch {size}")
            turns = take_turns(
                {
                    name: Player(
                        lambda turn, worker=worker: play(turn, worker),
                        [worker.pid] + ([server.pid] if worker in (over_grpc, over_rest) else []),
                    )
                    for name, worker in workers.items()
                },
                options.turns,
                settle=options.settle,
            )
            warnings += [f"batch {size}: {warning}" for warning in record.disturbed(turns)]
            by_size[size] = _summary(turns)
    return {"export": exported, "prepared": prepared, "batch_sizes": by_size, "warnings": warnings}


def _summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    milliseconds = {name: record.median(numbers, "milliseconds") for name, numbers in turns.items()}
    rates = {name: record.median(numbers, "texts_per_second") for name, numbers in turns.items()}
    return {
        "turns": turns,
        "median_milliseconds": milliseconds,
        "median_texts_per_second": rates,
        "ratio": {name: rate / rates[REFERENCE] for name, rate in rates.items()},
    }


def _different_answers(workers: dict[str, Worker], test: str, tolerance: float) -> list[str]:
    """Returns a warning for each side that does not answer as the reference does: they would not do the same work."""
    texts = material.reviews(test)[0][:64]
    answers = {name: worker.call("answers", texts=texts) for name, worker in workers.items()}
    expected = answers.pop(REFERENCE)
    warnings = []
    for name, given in answers.items():
        # Both scores are of the label that won: where the labels differ, so do the scores of one label.
        apart = [
            abs(ours - theirs) if label == their_label else abs(ours + theirs - 1)
            for (label, ours), (their_label, theirs) in zip(given, expected, strict=True)
        ]
        if max(apart) > tolerance:
            warnings.append(f"{name} and {REFERENCE} differ by up to {max(apart):.4f} in their scores")
    return warnings


def report(result: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    config = result["config"]
    text = record.heading("Classifying movie reviews with MiniLM-L6, from strings to labels", result, PACKAGES)
    text += (
        f"\nTexts up to {config['sequence_length']} tokens, {config['threads']} threads a side; {config['turns']} turns, "
        "the same texts on every side. Latency: median over turns of a turn's median call. The ratio is of texts/s. "
        "Client and server are two processes on one machine.\n"
    )
    for precision, measured in result["precisions"].items():
        rows = []
        for size, numbers in measured["batch_sizes"].items():
            for name, milliseconds in numbers["median_milliseconds"].items():
                side = f"{name} ({measured['prepared'][name]['variant'][str(size)]})" if name == REFERENCE else name
                rate, ratio = numbers["median_texts_per_second"][name], numbers["ratio"][name]
                rows.append([str(size), side, f"{milliseconds:.1f}", f"{rate:.0f}", f"{ratio:.2f}"])
        head = ["batch", "side", "latency, ms", "texts/s", "ratio"]
        text += f"\n## {precision}\n\n{record.table(head, rows)}\n"
        for size, tried in measured["prepared"][REFERENCE]["tried_milliseconds"].items():
            each = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in tried.items())
            text += f"\nTried for {REFERENCE} at batch {size}, in ms; the fastest took the turns: {each}.\n"
        for size, target in TARGETS.items():
            if size in measured["batch_sizes"]:
                ratio = measured["batch_sizes"][size]["ratio"][GARDEN]
                verdict = "reached" if ratio >= target else "missed"
                text += f"\nAt batch {size}, in process, Garden is {ratio:.2f} times as fast; "
                text += f"the target of {target} is {verdict}.\n"
        text += "".join(f"\nWarning: {warning}.\n" for warning in measured["warnings"])
    return text


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse(arguments)
    try:
        model = options.model or str(material.weights_directory())
        config = {**vars(options), "model": Path(model).parent.name, "record": None, "reference_python": None}
        config |= {"train": None, "test": Path(options.test).name}
        software: dict[str, Any] = {}
        measured = {}
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = f"{scratch}/checkpoint"
            shared = {"precision": "float32", "threads": options.threads, "sequence_length": options.sequence_length}
            # A head is drawn once, so that all sides answer alike.
            with Worker(
                "checkpoint", sys.executable, "benchmarks.side_garden:Exported", model=model, **shared
            ) as worker:
                worker.call("save", directory=checkpoint)
            for precision in options.precision:
                measured[precision] = measure(options, precision, checkpoint, f"{scratch}/{precision}", software)
    except (FileNotFoundError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {**record.context(config, software), "precisions": measured}
    text = report(result)
    print(text)
    if options.record:
        progress(f"recorded: {record.write('serve', result, text, options.record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
