"""Tokenizing speed beside Hugging Face `tokenizers`: MB of text per CPU-second, and the time for one sentence.

    python benchmarks/tokenization.py [--tokenizer DIR|wordpiece|bpe|unigram ...] [--texts FILE.jsonl[.gz]:FIELD ...]
                                      [--json] [--record]

A tokenizer is a directory with tokenizer.json, or a kind, which is trained first on the texts: 30,000 tokens with
`tokenizers`' own trainers (a few minutes; --keep DIR keeps it). A FIELD such as translations.*.description goes inside.
For results, on a quiet machine, from a clean checkout:

    python benchmarks/tokenization.py --tokenizer wordpiece bpe unigram --record \\
        --texts english.jsonl.gz:description multilingual.jsonl.gz:translations.*.description

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
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tensorflow as tf
import tokenizers
from tokenizers import Tokenizer as Reference
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from benchmarks import record
from garden.tokenizers import Tokenizer

BATCH_SIZES = (1, 128, 1024, 8192)
KINDS = ("wordpiece", "bpe", "unigram")
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


def train(kind: str, texts: list[str], directory: Path) -> Path:
    """Train a tokenizer of a kind, as BERT, GPT-2 or T5 have it, on the texts."""
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = Reference(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=30_000, special_tokens=special, show_progress=False)
    elif kind == "bpe":
        made = Reference(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=30_000, initial_alphabet=alphabet, show_progress=False)
    else:
        made = Reference(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        special = ["<pad>", "</s>", "<unk>"]
        trainer = trainers.UnigramTrainer(
            vocab_size=30_000, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(texts, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    return directory


def compare(directory: Path, texts: list[str], turns: int) -> dict:
    """The numbers of one tokenizer and some texts."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    ours = Tokenizer.from_pretrained(directory)
    reference = Reference.from_file(str(directory / "tokenizer.json"))
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
        taken = [(cpu_seconds(ours, batches), cpu_seconds(theirs, batches)) for _ in range(turns + 1)][1:]
        mine, other = (share / statistics.median(side) for side in zip(*taken, strict=True))
        row = {"batch": size, "garden_mb_per_cpu_s": mine, "tokenizers_mb_per_cpu_s": other, "ratio": mine / other}
        results.append({key: round(value, 2) for key, value in row.items()})
        print(f"batch {size} done", file=sys.stderr)
    sentence = min(texts, key=lambda text: abs(len(text) - 80))
    return {
        "rows": len(texts),
        "megabytes": round(megabytes, 2),
        "exact": exact,
        "results": results,
        "sentence": sentence,
        "garden_ms": round(latency_ms(ours, sentence), 3),
        "tokenizers_ms": round(latency_ms(theirs, sentence), 3),
    }


def report(entry: dict) -> str:
    """The numbers as text."""
    head = ("batch", "garden", "tokenizers", "ratio")
    rows = [[str(row["batch"]), *(f"{value:.2f}" for value in list(row.values())[1:])] for row in entry["results"]]
    return (
        f"## {entry['tokenizer']}, {entry['texts']}\n\n{entry['rows']} texts, {entry['megabytes']} MB, {entry['exact']} "
        f"with the same ids. MB per CPU-second:\n\n{record.table(head, rows)}\n\nOne sentence of "
        f"{len(entry['sentence'])} characters: {entry['garden_ms']} ms; tokenizers {entry['tokenizers_ms']} ms.\n"
    )


def main() -> None:
    """Compare, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer", nargs="+", default=list(KINDS), help=f"DIR with tokenizer.json, or {', '.join(KINDS)}"
    )
    parser.add_argument("--texts", nargs="+", help="FILE[:FIELD], JSON Lines, may be gzipped; a.*.b goes inside")
    parser.add_argument("--limit", type=int, default=8192, help="number of texts of a file")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="where trained tokenizers are kept, and found again")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--record", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    for name in options.tokenizer:
        if name not in KINDS and not (Path(name) / "tokenizer.json").is_file():
            parser.error(f"--tokenizer {name}: neither a directory with tokenizer.json nor one of {', '.join(KINDS)}")

    files = options.texts or [str(max(SAMPLES.glob("*.jsonl*"), key=lambda sample: sample.stat().st_size))]
    texts = {}
    for file in files:
        path, _, field = file.partition(":")
        texts[f"{Path(path).name}:{field or 'text'}"] = read_texts(Path(path), field or "text", options.limit)
    entries = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.tokenizer:
            directory = Path(name)
            if name in KINDS:
                directory = (options.keep or Path(temporary)) / name
                if not (directory / "tokenizer.json").is_file():
                    print(f"training {name}", file=sys.stderr)
                    train(name, [text for rows in texts.values() for text in rows], directory)
            for source, rows in texts.items():
                entries.append({"tokenizer": name, "texts": source, **compare(directory, rows, options.turns)})
    versions = {"garden": {"tensorflow": tf.__version__}, "reference": {"tokenizers": tokenizers.__version__}}
    software = {side: {"packages": packages} for side, packages in versions.items()}
    config = {"tokenizer": options.tokenizer, "texts": list(texts), "limit": options.limit, "turns": options.turns}
    result = {**record.context(config, software), "entries": entries}
    text = record.heading("Text to ids", result, {"garden": ["tensorflow"], "reference": ["tokenizers"]})
    text = "\n".join([text, *map(report, entries)])
    print(json.dumps(result, ensure_ascii=False) if options.json else text)
    if options.record:
        print(record.write("tokenization", result, text), file=sys.stderr)


if __name__ == "__main__":
    main()
