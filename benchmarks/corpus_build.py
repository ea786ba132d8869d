"""Corpus builds: MB of text a second on one core, memory whatever the size, and formats of records beside each other.

    python benchmarks/corpus_build.py --texts train.jsonl.gz --text description [--tokenizer DIR] [--record]

The texts are built (`garden corpus build`, one worker on one core, WordPiece, rows of 128) once and --times over, as copies of
one file: the difference of the two in CPU time is what more text costs, without what TensorFlow's import and the tokenizer's
graph cost once; the peak memory of both says whether it grows. Turns alternate; medians are shown. Without --tokenizer a
vocabulary of 8,192 tokens is trained first.

Records: the rows of that corpus as TFRecords of one size, mapped into memory (`training.corpora.store`), and as an ArrayRecord
(`pip install array-record`; left out where that is missing): seconds to write them, and to read random batches of 32 rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import record

GARDEN = Path(sys.executable).with_name("garden")
BATCH, BATCHES = 32, 500


def built(files: list[Path], text: str, tokenizer: Path, output: Path) -> dict[str, float]:
    """Builds a corpus in a process on one core; returns its CPU and wall seconds, peak memory in MiB and MB of text."""
    config = output.with_suffix(".yaml")
    source = {"name": "texts", "format": "jsonl", "paths": [str(path) for path in files], "text": text}
    source["options"] = {"skip_empty": True}
    config.write_text(
        json.dumps({"sources": [source], "tokenizer": str(tokenizer), "output": str(output)})
    )  # JSON is YAML
    core = min(os.sched_getaffinity(0))
    began = time.perf_counter()
    command = [str(GARDEN), "corpus", "build", str(config), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    size = sum(shard["text_bytes"] for shard in json.loads((output / "index.json").read_text())["shards"])
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - began,
        "peak_mib": usage.ru_maxrss / 1024,
        "megabytes": size / 1e6,
    }


def builds(options, tokenizer: Path, directory: Path) -> dict:
    """Returns the turns of builds of one file and of many copies of it."""
    copies = []
    for number in range(options.times):
        copies.append(directory / f"{number:03d}-{options.texts.name}")
        shutil.copyfile(options.texts, copies[-1])
    turns: dict[str, list[dict[str, float]]] = {"once": [], "times": []}
    for turn in range(options.turns):
        for name, files in (("once", copies[:1]), ("times", copies)):
            output = directory / f"{name}-{turn}"
            turns[name].append(built(files, options.text, tokenizer, output))
            if turn or name == "times":
                shutil.rmtree(output)
            print(name, json.dumps(turns[name][-1]), flush=True)
    more = [
        {
            "cpu": (many["megabytes"] - one["megabytes"]) / (many["cpu_seconds"] - one["cpu_seconds"]),
            "wall": (many["megabytes"] - one["megabytes"]) / (many["seconds"] - one["seconds"]),
        }
        for one, many in zip(turns["once"], turns["times"], strict=True)
    ]
    return {
        "turns": turns,
        "times": options.times,
        "megabytes_per_cpu_second": statistics.median(each["cpu"] for each in more),
        "megabytes_per_second": statistics.median(each["wall"] for each in more),
        "peak_mib": {name: statistics.median(turn["peak_mib"] for turn in turns[name]) for name in turns},
    }


def formats(corpus: Path, directory: Path, turns: int) -> dict:
    """Returns the medians of writing all rows of a corpus, and of reading random batches, in each format."""
    from training.corpora.store import Corpus

    opened = Corpus(corpus)
    count, index = opened.rows("train"), opened.index
    numbers = np.random.default_rng(0).integers(0, count, [BATCHES, BATCH])
    paths = [corpus / shard.file for shard in index.of_split("train")]
    size = sum(path.stat().st_size for path in paths)
    record_size = size // count
    framed = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, record_size) for path in paths])
    payloads = [row.tobytes() for row in framed[:, 12:-4]]
    sides = {"TFRecord, mapped": (lambda: _write(directory / "rows.tfrecord", framed), lambda: _read(opened, numbers))}
    if importlib.util.find_spec("array_record"):
        path = str(directory / "rows.array_record")
        sides["ArrayRecord"] = (lambda: _write_array(path, payloads), lambda: _read_array(path, numbers))
    found: dict[str, dict[str, list[float]]] = {name: {"write": [], "read": []} for name in sides}
    for _ in range(turns):
        for name, (write, read) in sides.items():
            for what, function in (("write", write), ("read", read)):
                began = time.perf_counter()
                function()
                found[name][what].append(time.perf_counter() - began)
    medians = {name: {what: statistics.median(times) for what, times in sides.items()} for name, sides in found.items()}
    sizes = {path.name: path.stat().st_size for path in directory.glob("rows.*")}
    return {"rows": count, "bytes": size, "batches": BATCHES, "batch": BATCH, "seconds": medians, "sizes": sizes}


def _write(path: Path, framed: np.ndarray) -> None:
    framed.tofile(path)


def _read(corpus, numbers: np.ndarray) -> None:
    for batch in numbers:
        corpus.batch("train", batch)


def _write_array(path: str, payloads: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(path, "group_size:1")
    for payload in payloads:
        writer.write(payload)
    writer.close()


def _read_array(path: str, numbers: np.ndarray) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    for batch in numbers:
        reader.read(batch.tolist())
    reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines, gzipped or not")
    parser.add_argument("--text", default="text", help="field with the text")
    parser.add_argument("--tokenizer", type=Path, help="directory; default: trained on the texts")
    parser.add_argument("--times", type=int, default=5, help="copies in the larger corpus (default 5)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        tokenizer = options.tokenizer or directory / "vocabulary"
        if options.tokenizer is None:
            train = [str(GARDEN), "corpus", "vocabulary", str(options.texts), "--text", options.text]
            subprocess.run([*train, "--kind", "wordpiece", "--size", "8192", "--to", str(tokenizer)], check=True)
        found = {
            "builds": builds(options, tokenizer, directory),
            "formats": formats(directory / "once-0", directory, options.turns),
        }
    speed, records = found["builds"], found["formats"]
    once, times = speed["turns"]["once"][0]["megabytes"], speed["turns"]["times"][0]["megabytes"]
    text = (
        record.table(
            [
                "building",
                "MB of text a CPU-second",
                "a second",
                f"peak MiB, {once:.0f} MB",
                f"peak MiB, {times:.0f} MB",
            ],
            [
                [
                    "one core",
                    f"{speed['megabytes_per_cpu_second']:.1f}",
                    f"{speed['megabytes_per_second']:.1f}",
                    f"{speed['peak_mib']['once']:.0f}",
                    f"{speed['peak_mib']['times']:.0f}",
                ]
            ],
        )
        + "\n\n"
        + record.table(
            ["records", "write, rows a second", "random batches of 32, rows a second"],
            [
                [name, f"{records['rows'] / each['write']:,.0f}", f"{BATCH * BATCHES / each['read']:,.0f}"]
                for name, each in records["seconds"].items()
            ],
        )
        + "\n\nReading ends with arrays for a batch in the first row (`Corpus.batch`), with bytes of records in the second.\n"
    )
    print(text)
    if options.record:
        result = (
            record.context({"texts": options.texts.name, "times": options.times, "turns": options.turns}, {}) | found
        )
        print(record.write("corpus-build", result, record.heading("Corpus builds", result, {}) + "\n" + text))


if __name__ == "__main__":
    main()
