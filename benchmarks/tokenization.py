"""Tokenizing speed beside Hugging Face `tokenizers`: MB of text per CPU-second, and the time for one sentence.

    python benchmarks/tokenization.py --tokenizer DIR [--texts FILE.jsonl[.gz] --field text] [--json]

Both sides get the same batches in turns (A B A B ...), all texts of a turn, and their ids are compared first. CPU time
of the whole process is counted, every thread of it, so other work on the machine disturbs little; the medians of the
turns are shown. Latency is the median of the wall time of single calls, Python included on both sides. Without
--texts, the product's own samples are used. (Not named tokenize.py: Python has a module of that name.)
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tokenizers import Tokenizer as Reference

from garden.tokenizers import Tokenizer

BATCH_SIZES = (1, 32, 128, 1024, 8192)
SAMPLES = Path(__file__).parent.parent / "garden" / "data"


def read_texts(path: Path, field: str, limit: int) -> list[str]:
    """The texts of a JSON Lines file, gzipped or not; a dotted field such as translations.*.description goes inside."""
    opened = gzip.open if path.suffix == ".gz" else open
    texts: list[str] = []
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                values = [json.loads(line)]
            except json.JSONDecodeError as error:
                raise SystemExit(f"{path}:{number}: not JSON: {error}") from None
            for name in field.split("."):
                children = [list(v.values()) if name == "*" else [v[name]] for v in values if name == "*" or name in v]
                values = [value for child in children for value in child]
            texts += values
            if len(texts) >= limit:
                break
    if not texts:
        raise SystemExit(f'{path}: no row has the field "{field}"')
    return texts[:limit]


def cpu_seconds(run: Callable[[list[str]], object], batches: list[list[str]]) -> float:
    """CPU time of one pass over the batches, all threads."""
    begin = time.process_time()
    for batch in batches:
        run(batch)
    return time.process_time() - begin


def latency_ms(run: Callable[[list[str]], object], text: str, calls: int = 300) -> float:
    """Median wall time of a call with one text."""
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        run([text])
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def main() -> None:
    """Compare, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, type=Path, help="directory with tokenizer.json")
    parser.add_argument("--texts", type=Path, help="JSON Lines, may be gzipped")
    parser.add_argument("--field", default="text", help="field of a row; a.*.b goes inside")
    parser.add_argument("--limit", type=int, default=8192, help="number of texts")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()

    path = options.texts or max(SAMPLES.glob("*.jsonl*"), key=lambda sample: sample.stat().st_size, default=None)
    if path is None:
        parser.error(f"no samples in {SAMPLES}: name a file with --texts")
    texts = read_texts(path, options.field, options.limit)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = Tokenizer.from_pretrained(options.tokenizer)
    reference = Reference.from_file(str(options.tokenizer / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    theirs = reference.encode_batch

    ids = [encoding.ids for encoding in theirs(texts)]
    exact = sum(row == expected for row, expected in zip(ours(texts).to_list(), ids, strict=True))
    results = []
    for size in BATCH_SIZES:
        rows = texts[: min(len(texts), 1000)] if size == 1 else texts
        share = megabytes * sum(map(len, rows)) / sum(map(len, texts))
        batches = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        turns = [(cpu_seconds(ours, batches), cpu_seconds(theirs, batches)) for _ in range(options.turns + 1)][1:]
        mine, other = (share / statistics.median(side) for side in zip(*turns, strict=True))
        row = {"batch": size, "garden_mb_per_cpu_s": mine, "tokenizers_mb_per_cpu_s": other, "ratio": mine / other}
        results.append({key: round(value, 2) for key, value in row.items()})
        print(f"batch {size} done", file=sys.stderr)
    sentence = min(texts, key=lambda text: abs(len(text) - 80))
    report = {
        "texts": path.name,
        "field": options.field,
        "rows": len(texts),
        "megabytes": round(megabytes, 2),
        "exact": exact,
        "results": results,
        "sentence": sentence,
        "garden_ms": round(latency_ms(ours, sentence), 3),
        "tokenizers_ms": round(latency_ms(theirs, sentence), 3),
        "turns": options.turns,
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "tensorflow": tf.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(f"{report['texts']} ({options.field}): {len(texts)} texts, {megabytes:.1f} MB, {exact} with the same ids")
    print(f"{'batch':>6} {'garden':>8} {'tokenizers':>11} {'ratio':>6}   (MB per CPU-second)")
    for row in results:
        print("{:>6} {:>8.2f} {:>11.2f} {:>6.2f}".format(*row.values()))
    print(
        f"one sentence of {len(sentence)} characters: {report['garden_ms']} ms; tokenizers {report['tokenizers_ms']} ms"
    )


if __name__ == "__main__":
    main()
