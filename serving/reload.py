"""Loads a SavedModel and answers requests, knowing nothing but TensorFlow: what a server would do.

    python reload.py SAVED_MODEL_DIR REQUESTS

REQUESTS is a pickle, written by the parent process, of (signature, inputs) pairs; the answers replace it.
"""

import pickle
import sys
from pathlib import Path

# A script's directory comes first on the path; nothing beside this file may be importable.
sys.path.pop(0)

import tensorflow as tf


def main(directory: str, exchange: Path) -> None:
    signatures = tf.saved_model.load(directory).signatures
    answers = []
    for name, inputs in pickle.loads(exchange.read_bytes()):
        outputs = signatures[name](**{key: tf.constant(values, tf.string) for key, values in inputs.items()})
        answers.append({key: value.numpy() for key, value in outputs.items()})
    exchange.write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
