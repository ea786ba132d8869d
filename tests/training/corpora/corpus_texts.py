"""Texts of few words, and what is built of them, for tests of corpora."""

import dataclasses
import json
import random
from pathlib import Path

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "over", "hills", "in", "rain", "birds", "sang")

DUPLICATES = {"exact_duplicates": True, "near_duplicates": 0.9, "repeated_sentences": 2}


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of a few sentences in one or two lines."""
    draw = random.Random(seed)
    sentence = lambda: " ".join(draw.choices(WORDS, k=draw.randint(3, 12))).capitalize() + "."
    lines = lambda: " ".join(sentence() for _ in range(draw.randint(1, 5)))
    return ["\n".join(lines() for _ in range(draw.randint(1, 2))) for _ in range(count)]


def write_jsonl(path: Path, some: list[str]) -> Path:
    """Writes texts as JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in some), encoding="utf-8")
    return path


def contents(directory) -> dict[str, bytes]:
    """What a corpus is: the index and the shards."""
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.name != "report.json"}


def built(config, output, runner=None, **options) -> tuple[dict, dict]:
    """Builds in another directory; returns the report and what is in it."""
    from training.corpora.build import build
    from training.corpora.workers import Local

    config = dataclasses.replace(config, output=str(output))
    return build(config, runner or Local(1), **options), contents(output)
