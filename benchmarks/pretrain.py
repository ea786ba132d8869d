"""Pre-train BERTs with masked language modelling: Hugging Face + PyTorch, KerasHub, TF Model Garden and Garden, in turns.

python benchmarks/pretrain.py --record                                  all sizes, lengths, precisions: an hour on 2 cores
python benchmarks/pretrain.py --size 4x256 --length 128 --precision float32     one of them: 6 minutes
python benchmarks/pretrain.py --against "" --size 6x384                         Garden alone, beside the machine's products
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
from benchmarks.turns import SETTLE_SECONDS, Player, Worker, WorkerError, progress, take_turns

GARDEN, RAW = "Garden", "Garden, from raw texts"
HUGGING_FACE, KERAS_HUB, MODEL_GARDEN = "Hugging Face + PyTorch", "KerasHub", "TF Model Garden"
SIDES = {
    "reference": (HUGGING_FACE, "benchmarks.side_huggingface:PreTraining"),
    "keras-hub": (KERAS_HUB, "benchmarks.side_keras_hub:PreTraining"),
    "model-garden": (MODEL_GARDEN, "benchmarks.side_model_garden:PreTraining"),
}
"""Name of the environment -> the side's name and class."""
OURS = "benchmarks.side_garden_pretraining"
TARGETS = {
    "float32": {HUGGING_FACE: 4.0, KERAS_HUB: 1.3, MODEL_GARDEN: 1.3},
    "bfloat16": {HUGGING_FACE: 3.0, KERAS_HUB: 1.3, MODEL_GARDEN: 1.3},
}
USEFUL_SHARE, USEFUL_SIZE = 0.7, "6x384"
PIPELINE = 5.0
PACKAGES = {
    HUGGING_FACE: ["torch", "transformers"],
    KERAS_HUB: ["keras-hub", "keras", "tensorflow"],
    MODEL_GARDEN: ["tf-models-official", "tf_keras", "tensorflow"],
    GARDEN: ["tensorflow", "keras"],
}
HEAD_WIDTH = 64
BATCHES = 32  # different ones, which the sides go through again and again


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", default="4x256,6x384", help="layers x width, one or several (default: 4x256,6x384)")
    add("--length", default="128,512", help="tokens of a row, one or several (default: 128,512)")
    add("--precision", default="float32,bfloat16", help="one or both of float32,bfloat16 (default: both)")
    add("--against", default=",".join(SIDES), help=f"which of {','.join(SIDES)} (default: all)")
    add("--tokens", type=int, default=4096, help="of a step (default: 4096)")
    add("--mask-rate", type=float, default=0.15, help="share of the tokens that are predicted (default: 0.15)")
    add("--turns", type=int, default=5, help="turns of each side (default: 5)")
    add("--steps", type=int, default=5, help="training steps in a turn (default: 5)")
    add("--warm-up", type=int, default=6, help="steps of each variant before the first turn (default: 6)")
    add("--learning-rate", type=float, default=1e-4, help="default: 1e-4")
    add("--tokenizer", help="directory with tokenizer.json (default: BERT's of 30,522 tokens, an installed package)")
    add("--texts", default=str(material.TRAIN), help="JSONL (default: Garden's movie reviews)")
    add("--field", default="text", help="of the JSONL (default: text)")
    for name in SIDES:
        add(f"--{name}-python", metavar="PATH", help=f"Python of that side (default: that of {reference.SETUP})")
    add("--threads", type=int, default=material.cores(), help="of each side (default: all cores)")
    add("--seed", type=int, default=1, help="of masks, weights and dropout (default: 1)")
    add("--settle", type=float, default=SETTLE_SECONDS, help="seconds of rest before each turn (default: 0.5)")
    add("--record", nargs="?", type=Path, const=record.RESULTS, metavar="DIRECTORY", help="write a results file")
    options = parser.parse_args(arguments)
    for name, allowed in (("precision", list(TARGETS)), ("against", list(SIDES))):
        given = [part for part in getattr(options, name).split(",") if part]
        if not set(given) <= set(allowed):
            parser.error(f"--{name}: expected {', '.join(allowed)}, or several of them, got {getattr(options, name)}")
        setattr(options, name, given)
    try:
        options.length = [int(part) for part in options.length.split(",")]
        for size in options.size.split(","):
            layers, width = map(int, size.split("x"))
            if width % HEAD_WIDTH or layers < 1:
                parser.error(f"--size: expected a width of whole heads of {HEAD_WIDTH}, got {size}")
    except ValueError:
        parser.error(f"--size, --length: expected such as 4x256 and 128,512, got {options.size} and {options.length}")
    options.size = options.size.split(",")
    for name in ("turns", "steps", "tokens", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    if not 0 < options.mask_rate < 1:
        parser.error(f"--mask-rate: expected a share between 0 and 1, got {options.mask_rate}")
    if options.warm_up < 3:
        parser.error(f"--warm-up: expected at least 3 steps, got {options.warm_up}")
    if min(options.length) < 8 or options.tokens < max(options.length):
        parser.error(f"--length: expected 8 to --tokens ({options.tokens}), got {options.length}")
    return options


def useful_operations(
    *, layers: int, width: int, inner_width: int, vocabulary_size: int, tokens: int, length: int, masked: int
) -> float:
    """Returns the floating-point operations that a step needs: 6 x parameters touched x tokens, and attention.

    The last block needs keys and values of every token, and all else at the `masked` places alone, as does the head.
    """
    projections, feed_forward = 4 * width**2, 2 * width * inner_width
    everywhere = (layers - 1) * (projections + feed_forward) + 2 * width**2
    at_masks = 2 * width**2 + feed_forward + width**2 + vocabulary_size * width
    # Queries with keys, and chances with values: two products of [T,H] and [H,T] a head, three times in forward and backward.
    attention = 12 * length * width
    return 6 * (everywhere * tokens + at_masks * masked) + attention * ((layers - 1) * tokens + masked)


def sizes_of(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Returns a network's sizes and how it is trained, as the sides take them."""
    layers, width = map(int, size.split("x"))
    return {
        "layers": layers,
        "width": width,
        "heads": width // HEAD_WIDTH,
        "inner_width": 4 * width,
        "seed": options.seed,
    }


def measure(options: argparse.Namespace, case: dict[str, Any], software: dict[str, Any]) -> dict[str, Any]:
    """Returns one size's, length's and precision's turns, medians and ratios."""
    precision, made = case["precision"], case["rows"]
    shared = {
        **sizes_of(options, case["size"]),
        "vocabulary_size": made["vocabulary_size"],
        "precision": precision,
        "threads": options.threads,
        "rows": made["path"],
        "batch_rows": made["batch_rows"],
        "learning_rate": options.learning_rate,
    }
    own = {
        "tokenizer": options.tokenizer,
        "texts": options.texts,
        "field": options.field,
        "rate": options.mask_rate,
    }
    name = f"{case['size']}, {case['length']} tokens, {precision}"
    with contextlib.ExitStack() as stack:
        players, prepared = {}, {}

        def start(side: str, python: str, target: str, **more: Any) -> Worker:
            progress(f"{name}: starting {side}")
            worker = stack.enter_context(Worker(side, python, target, **shared, **more))
            software[side] = worker.software
            prepared[side] = worker.call("prepare", warm_up=options.warm_up)
            progress(f"{name}: {side}: {prepared[side]['variant']}")
            players[side] = Player(lambda turn: worker.call("turn", steps=options.steps), [worker.pid])
            return worker

        for environment in options.against:
            side, target = SIDES[environment]
            given = getattr(options, f"{environment.replace('-', '_')}_python")
            start(side, str(reference.interpreter(given, environment)), target)
        ours = start(GARDEN, sys.executable, f"{OURS}:PreTraining", **own)
        players[RAW] = Player(lambda turn: ours.call("turn", steps=options.steps, source="texts"), [ours.pid])
        products = [ours.call("products")]
        turns = take_turns(players, options.turns, settle=options.settle)
        products.append(ours.call("products"))
    medians = {side: record.median(numbers, "tokens_per_second") for side, numbers in turns.items()}
    network = {key: shared[key] for key in ("layers", "width", "inner_width", "vocabulary_size")}
    operations = useful_operations(
        **network,
        tokens=made["batch_rows"] * case["length"],
        length=case["length"],
        masked=made["batch_rows"] * made["masked_places"],
    )
    rate = operations / (made["batch_rows"] * case["length"]) * medians[GARDEN]
    best = {key: max(product[key] for product in products) for key in products[0]}
    return {
        **{key: case[key] for key in ("size", "length", "precision")},
        "batch_rows": made["batch_rows"],
        "prepared": prepared,
        "turns": turns,
        "median_tokens_per_second": medians,
        "garden_is_faster": {side: medians[GARDEN] / value for side, value in medians.items() if side != GARDEN},
        "useful_operations_a_step": operations,
        "products_per_second": best,
        "useful_share_of_float32_products": rate / best["float32"],
        "warnings": record.disturbed(turns),
    }


def prepare_rows(options: argparse.Namespace, directory: str) -> dict[int, dict[str, Any]]:
    """Writes the rows of each length, and returns what there is to know of them."""
    made = {}
    with Worker("rows", sys.executable, f"{OURS}:Rows", tokenizer=options.tokenizer) as worker:
        for length in options.length:
            rows = options.tokens // length
            path = str(Path(directory) / f"{length}.npz")
            progress(f"making rows of {length} tokens")
            values = worker.call(
                "make",
                texts=options.texts,
                field=options.field,
                path=path,
                rows=rows * BATCHES,
                length=length,
                rate=options.mask_rate,
                seed=options.seed,
            )
            made[length] = {**values, "path": path, "batch_rows": rows}
    return made


def measure_pipeline(options: argparse.Namespace, length: int, made: dict[str, Any]) -> dict[str, float]:
    """Returns how many real tokens a second one core makes of raw texts, masks included."""
    progress(f"input pipeline, rows of {length} tokens")
    sizes = {
        **sizes_of(options, options.size[0]),
        "vocabulary_size": made["vocabulary_size"],
        "batch_rows": made["batch_rows"],
        "length": length,
    }
    own = {
        "tokenizer": options.tokenizer,
        "texts": options.texts,
        "field": options.field,
        "rate": options.mask_rate,
    }
    with Worker("pipeline", sys.executable, f"{OURS}:Pipeline", **own, **sizes) as worker:
        return worker.call("measure", tokens=100 * options.tokens)


def report(result: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    config = result["config"]
    text = record.heading("Pre-training BERT with masked language modelling", result, PACKAGES)
    text += (
        f"\n{config['tokens']} tokens a step in full rows (no side has padding), {config['mask_rate']:.0%} of them predicted, "
        f"{result['vocabulary_size']:,} tokens in the vocabulary, heads of {HEAD_WIDTH}, dropout 0.1, AdamW, "
        f"{config['threads']} threads a side; {config['turns']} turns of {config['steps']} steps each, the same rows on every "
        "side. Real tokens: special tokens counted.\n"
    )
    warnings = []
    for measured in result["cases"]:
        text += _case(measured)
        warnings += measured["warnings"]
    rows = []
    for length, pipeline in result["pipeline"].items():
        fastest = max(
            measured["median_tokens_per_second"][GARDEN]
            for measured in result["cases"]
            if str(measured["length"]) == str(length)
        )
        ratio = pipeline["tokens_per_second"] / fastest
        verdict = "reached" if ratio >= PIPELINE else "missed"
        rows.append(
            [
                str(length),
                f"{pipeline['tokens_per_second']:.0f}",
                f"{fastest:.0f}",
                f"{ratio:.1f} ({PIPELINE:g}: {verdict})",
            ]
        )
    head = ["row length", "tokens/s from raw texts, one core", "tokens/s of the fastest training", "ratio (target)"]
    text += f"\n## Input pipeline\n\n{record.table(head, rows)}\n"
    return text + "".join(f"\nWarning: {warning}.\n" for warning in warnings)


def _case(measured: dict[str, Any]) -> str:
    rows = []
    for side, turns in measured["turns"].items():
        rates = [turn["tokens_per_second"] for turn in turns]
        prepared = measured["prepared"].get(side)
        row = [side, f"{measured['median_tokens_per_second'][side]:.0f}", f"{min(rates):.0f}-{max(rates):.0f}"]
        row.append(_faster(measured, side))
        row += [prepared["variant"], f"{prepared['first_step_seconds']:.1f} s"] if prepared else ["", ""]
        rows.append(row)
    head = ["side", "real tokens/s, median", "range", "Garden is faster (target)", "variant", "first step, not counted"]
    text = f"\n## {measured['size']}, rows of {measured['length']}, {measured['precision']}\n\n{record.table(head, rows)}\n"
    share, products = measured["useful_share_of_float32_products"], measured["products_per_second"]
    target = ""
    if measured["size"] == USEFUL_SIZE:
        target = f"; the target of {USEFUL_SHARE:.0%} is {'reached' if share >= USEFUL_SHARE else 'missed'}"
    text += (
        f"\nUseful operations: {measured['useful_operations_a_step'] / 1e9:.0f} G a step, {share:.0%} of the machine's float32 "
        f"products ({products['float32'] / 1e9:.0f} GFLOP/s; bfloat16 {products['bfloat16'] / 1e9:.0f}){target}.\n"
    )
    for side, prepared in measured["prepared"].items():
        if len(prepared["tried_tokens_per_second"]) > 1:
            tried = ", ".join(f"{key} {rate:.0f}" for key, rate in prepared["tried_tokens_per_second"].items())
            text += f"\nTried for {side}, in real tokens/s; the fastest took the turns: {tried}.\n"
    return text


def _faster(measured: dict[str, Any], side: str) -> str:
    if side not in measured["garden_is_faster"]:
        return ""
    ratio, target = measured["garden_is_faster"][side], TARGETS[measured["precision"]].get(side)
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} ({target:g}: {'reached' if ratio >= target else 'missed'})"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse(arguments)
    config = {**vars(options), "record": None, "texts": Path(options.texts).name}
    config |= {f"{name.replace('-', '_')}_python": None for name in SIDES}
    software: dict[str, Any] = {}
    cases = []
    try:
        options.tokenizer = options.tokenizer or str(material.weights_directory())
        config["tokenizer"] = Path(options.tokenizer).name
        if not Path(options.texts).is_file():
            raise FileNotFoundError(f"--texts {options.texts}: no such file")
        for environment in options.against:
            reference.interpreter(getattr(options, f"{environment.replace('-', '_')}_python"), environment)
        with tempfile.TemporaryDirectory() as directory:
            rows = prepare_rows(options, directory)
            pipeline = {length: measure_pipeline(options, length, made) for length, made in rows.items()}
            for size in options.size:
                for length in options.length:
                    for precision in options.precision:
                        case = {"size": size, "length": length, "precision": precision, "rows": rows[length]}
                        cases.append(measure(options, case, software))
    except (FileNotFoundError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        **record.context(config, software),
        "vocabulary_size": rows[options.length[0]]["vocabulary_size"],
        "pipeline": pipeline,
        "cases": cases,
    }
    text = report(result)
    print(text)
    if options.record:
        progress(f"recorded: {record.write('pretrain', result, text, options.record)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
