"""Queries, keys and values from one matrix product or from three: forward and backward, in turns.

python benchmarks/attention.py --record        about 20 seconds on 2 cores

Measured by themselves, and as part of a whole attention layer. The numbers are MiniLM-L6's: 32 reviews packed into 14 rows
of 64 tokens, width 384, 12 heads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # The root in place of this folder: modules here are benchmarks.NAME, however a script is started.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

import keras
import tensorflow as tf

from benchmarks import record
from benchmarks.turns import Player, installed, take_turns, timed
from garden.layers import Dense, MultiHeadAttention, Projections

FUSED = "one product"
SEPARATE = "three products"
PACKAGES = {"Garden": ["tensorflow", "keras"]}


class SeparateProjections(keras.layers.Layer):
    """The plain twin of `Projections`: a `Dense` layer for each width. [...,D] -> [...,E1], [...,E2], ..."""

    def __init__(self, widths: list[int], **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.parts = [Dense(width, dtype=self.dtype_policy) for width in widths]

    def build(self, input_shape):
        for part in self.parts:
            part.build(input_shape)

    def call(self, x: tf.Tensor, only: slice = slice(None)) -> tuple[tf.Tensor, ...]:
        return tuple(part(x) for part in self.parts[only])


def layers(width: int, heads: int, policy: str) -> dict[str, dict[str, keras.layers.Layer]]:
    """Returns what is compared: the projections, and whole attention layers, each fused and separate."""
    separate = MultiHeadAttention(width, heads, dtype=policy)
    separate.query_key_value = SeparateProjections([width] * 3, dtype=policy)
    return {
        "projections": {
            FUSED: Projections([width] * 3, dtype=policy),
            SEPARATE: SeparateProjections([width] * 3, dtype=policy),
        },
        "attention layer": {FUSED: MultiHeadAttention(width, heads, dtype=policy), SEPARATE: separate},
    }


def forward_backward(layer: keras.layers.Layer, x: tf.Tensor) -> Callable[[], Any]:
    """Returns a compiled call of the layer and of its gradients by x and all weights."""
    layer.build(x.shape)
    weights = [weight.value for weight in layer.trainable_variables]

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, *weights])

    return lambda: run(x)


def measure(layer: keras.layers.Layer, x: tf.Tensor, calls: int) -> Callable[[int], dict[str, float]]:
    """Returns a player's turn: the median milliseconds of `calls` calls. The function is traced and warm by then."""
    run = forward_backward(layer, x)
    for _ in range(5):
        run()
    return lambda turn: {"milliseconds": statistics.median(timed(run) for _ in range(calls)) * 1e3}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width", type=int, default=384, help="of the model (default: 384)")
    add("--heads", type=int, default=12, help="default: 12")
    add("--rows", type=int, default=14, help="of the batch (default: 14)")
    add("--row-length", type=int, default=64, help="tokens in a row (default: 64)")
    add("--turns", type=int, default=7, help="of each side (default: 7)")
    add("--calls", type=int, default=15, help="in a turn (default: 15)")
    add("--record", nargs="?", type=Path, const=record.RESULTS, metavar="DIRECTORY", help="write a results file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = parse(arguments)
    precisions: dict[str, Any] = {}
    rows, warnings = [], []
    for precision, policy in {"float32": "float32", "bfloat16": "mixed_bfloat16"}.items():
        precisions[precision] = {}
        for part, sides in layers(options.width, options.heads, policy).items():
            x = tf.random.stateless_normal([options.rows, options.row_length, options.width], seed=[1, 2])
            x = tf.cast(x, sides[FUSED].compute_dtype)
            players = {name: Player(measure(layer, x, options.calls)) for name, layer in sides.items()}
            turns = take_turns(players, options.turns, settle=0.05)
            medians = {name: record.median(numbers, "milliseconds") for name, numbers in turns.items()}
            ratio = medians[SEPARATE] / medians[FUSED]
            precisions[precision][part] = {"turns": turns, "median_milliseconds": medians, "ratio": ratio}
            rows.append([precision, part, f"{medians[FUSED]:.2f}", f"{medians[SEPARATE]:.2f}", f"{ratio:.2f}"])
            warnings += [f"{precision}, {part}: {warning}" for warning in record.disturbed(turns)]
    config = {**vars(options), "record": None}
    result = {**record.context(config, {"Garden": installed()}), "precisions": precisions, "warnings": warnings}
    text = record.heading("One product for queries, keys and values, or three", result, PACKAGES)
    text += f"\nForward and backward, {options.rows} rows of {options.row_length} tokens, width {options.width}, "
    text += f"{options.heads} heads; medians of {options.turns} turns of {options.calls} calls each.\n\n"
    text += record.table(["precision", "part", f"{FUSED}, ms", f"{SEPARATE}, ms", "three / one"], rows) + "\n"
    text += "".join(f"\nWarning: {warning}.\n" for warning in warnings)
    print(text)
    if options.record:
        print(f"recorded: {record.write('attention', result, text, options.record)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
