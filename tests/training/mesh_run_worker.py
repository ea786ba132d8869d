"""A run that begins on four devices, is interrupted, goes on with two, is interrupted, and ends on one: run by test_mesh.py.

    python mesh_run_worker.py TOKENIZER DATA DIRECTORY

A process of its own, since logical devices must be there before TensorFlow starts. Prints one line of JSON: how far the model
is from that of a run on one device that nothing interrupts.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from safetensors.numpy import load_file

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def main(tokenizer: str, data: str, directory: str) -> None:
    from training.callbacks import LogMetrics
    from training.config import make_config
    from training.run import run

    def config(output: str, **devices):
        return make_config(
            {
                "task": "masked-lm",
                "model": {"family": "bert", "config": SIZES, "tokenizer": tokenizer},
                "data": {"train": data, "validation": data},
                "training": {"learning_rate": 0.003, "epsilon": 1e-3, "batch_size": 16, "steps": 9, "log_steps": 1}
                | {"validation_steps": 9, "ema": 0.5, "checkpoint_steps": 3},
                "output": str(Path(directory) / output),
                **devices,
            }
        )

    def interrupted(at: int, spread):
        told = LogMetrics.at_step

        def at_step(self, step, logs):
            told(self, step, logs)
            if step == at:
                raise KeyboardInterrupt

        with mock.patch.object(LogMetrics, "at_step", at_step):
            try:
                run(spread)
            except KeyboardInterrupt:
                return
        raise AssertionError("nothing interrupted the run")

    parallel = {"strategy": "model_parallel"}
    interrupted(4, config("moved", **parallel, mesh={"model": 2, "stage": 2}))
    interrupted(7, config("moved", **parallel, mesh={"model": 2}))
    run(config("moved"))
    run(config("still"))
    models = [load_file(Path(directory) / name / "model" / "model.safetensors") for name in ("moved", "still")]
    lines = [(Path(directory) / name / "metrics.jsonl").read_text().splitlines() for name in ("moved", "still")]
    losses = [[json.loads(line)["loss"] for line in some if '"loss"' in line] for some in lines]
    apart = {name: float(np.max(np.abs(models[0][name] - models[1][name]))) for name in models[1]}
    print(
        json.dumps(
            {
                "weights": max(apart.values()),
                "losses": float(np.max(np.abs(np.subtract(*losses)))),
                "steps": len(losses[0]),
                "same_tensors": list(models[0]) == list(models[1]),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
