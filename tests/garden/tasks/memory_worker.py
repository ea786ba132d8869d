"""Trains a deep narrow BERT and prints the memory that steps took beyond what there was before: run by test_memory.py.

    python memory_worker.py RECOMPUTE ACCUMULATE

A process of its own, since memory that was once taken is not given back.
"""

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS, LENGTH, WORDS = 64, 128, 100


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(recompute: bool, accumulate: int) -> None:
    from garden import MaskedLM
    from garden.models.bert import BertBackbone, BertConfig
    from garden.tasks.optimization import AdamW

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=LENGTH,
    )
    with tempfile.TemporaryDirectory() as directory:
        BertBackbone(config).save_pretrained(directory)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(WORDS - 5))]
        Path(directory, "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        model = MaskedLM.from_pretrained(directory)
    model.compile(AdamW(1e-3), recompute=recompute, accumulate=accumulate)
    draw = np.random.default_rng(0)
    x = {
        "token_ids": draw.integers(5, WORDS, (ROWS, LENGTH)).astype(np.int32),
        "segment_ids": np.ones((ROWS, LENGTH), np.int32),
        "mask_positions": np.tile(np.arange(20, dtype=np.int32), (ROWS, 1)),
    }
    before = megabytes()
    for _ in range(2):
        model.train_on_batch(x, draw.integers(5, WORDS, (ROWS, 20)).astype(np.int32), np.ones((ROWS, 20), np.float32))
    print(round(megabytes() - before))


if __name__ == "__main__":
    main(sys.argv[1] == "true", int(sys.argv[2]))
