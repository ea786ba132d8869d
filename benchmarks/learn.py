"""Shown to learn: what five pre-trained networks are worth, on texts that they have not seen.

    python -m benchmarks.learn --runs runs --train train.jsonl.gz --test test.jsonl.gz --text description --label section
    python -m benchmarks.learn ... --part fine-tuning --record

`--runs` holds the runs of the configs in benchmarks/learning/ (its README has the commands that make them): bert, gpt,
electra, t5, bart. Each part writes what it found into that directory (learn-<part>.json), and `--record` makes one results
file of all that is there.

- fine-tuning: BERT on few labelled texts, against its twin with random weights and linear models on TF-IDF;
- compression: GPT's bits a byte, against a 5-gram model with Kneser-Ney smoothing on the same tokens, and `xz -9`;
- examples: each network fills in test texts, drawn by a seed and not chosen.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import json
import lzma
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import record
from garden.tasks import Examples, read_examples

LEAST_TEXTS = 100
"""Labels with fewer texts are no classes."""

PENALTIES = (1, 10, 100)
"""Inverse strengths of the linear models' penalty; the best on the test texts is reported, in their favour."""

SIDES = ("pretrained", "random_weights", "logistic_regression", "linear_svm")


# Fine-tuning.


def labelled(path: Path, text: str, label: str, classes: list[str] | None = None) -> tuple[Examples, list[str]]:
    """Returns a file's examples of classes (default: those with many texts), and the classes."""
    with tempfile.TemporaryDirectory() as directory:
        # Rows without a text or label are no examples; the reader would stop at them.
        whole = Path(directory) / "whole.jsonl"
        with gzip.open(path, "rt", encoding="utf-8") as lines, open(whole, "w", encoding="utf-8") as file:
            file.writelines(line for line in lines if (row := json.loads(line)).get(text) and row.get(label))
        examples = read_examples(whole, text=text, label=label)
    if classes is None:
        counts = collections.Counter(examples.labels)
        classes = sorted(name for name, count in counts.items() if count >= LEAST_TEXTS)
    known = [index for index, name in enumerate(examples.labels) if name in set(classes)]
    return Examples([examples.texts[i] for i in known], None, [examples.labels[i] for i in known]), classes


def drawn(examples: Examples, count: int, seed: int) -> Examples:
    """Returns `count` examples, chosen by the seed."""
    chosen = random.Random(seed).sample(range(len(examples)), count)
    return Examples([examples.texts[i] for i in chosen], None, [examples.labels[i] for i in chosen])


def linear(train: Examples, test: Examples) -> dict[str, float]:
    """Returns the test accuracy of the two linear models on TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x_train, x_test = words.fit_transform(train.texts), words.transform(test.texts)
    kinds = {
        "logistic_regression": lambda penalty: LogisticRegression(C=penalty, max_iter=1000),
        "linear_svm": lambda penalty: LinearSVC(C=penalty),
    }
    return {
        name: max(float(make(c).fit(x_train, train.labels).score(x_test, test.labels)) for c in PENALTIES)
        for name, make in kinds.items()
    }


def fine_tuned(pretrained: Path, train: Examples, test: Examples, classes, options, *, fresh: bool, seed: int) -> float:
    """Returns the test accuracy of the network, fine-tuned; with `fresh` its weights are drawn anew first."""
    import keras

    import garden

    keras.utils.set_random_seed(seed)
    model = garden.TextClassifier.from_pretrained(
        pretrained, labels=classes, dtype="mixed_bfloat16", seed=seed, new_head=True
    )
    if fresh:
        new = type(model.backbone)(model.backbone.config, dtype="mixed_bfloat16")
        model.backbone.set_weights(new.get_weights())
    model.compile(learning_rate=options.learning_rate)
    model.fit(train.texts, train.labels, epochs=options.epochs, batch_size=32, verbose=0)
    return float(model.evaluate(test, batch_size=256, verbose=0, return_dict=True)["accuracy"])


def fine_tuning(options) -> dict:
    pool, classes = labelled(options.train, options.text, options.label)
    test, _ = labelled(options.test, options.text, options.label, classes)
    runs = []
    for seed in map(int, options.seeds.split(",")):
        train = drawn(pool, options.examples, seed)
        began = time.perf_counter()
        run = {"seed": seed, **linear(train, test)}
        for side, fresh in (("pretrained", False), ("random_weights", True)):
            run[side] = fine_tuned(options.runs / "bert/model", train, test, classes, options, fresh=fresh, seed=seed)
        runs.append({**run, "seconds": round(time.perf_counter() - began, 1)})
        print(json.dumps(runs[-1]), flush=True)
    return {
        "examples": options.examples,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "classes": len(classes),
        "test_texts": len(test),
        "runs": runs,
        "means": {side: statistics.mean(run[side] for run in runs) for side in SIDES},
    }


def fine_tuning_text(found: dict) -> str:
    rows = [[side, *(f"{run[side]:.4f}" for run in found["runs"]), f"{found['means'][side]:.4f}"] for side in SIDES]
    table = record.table(["test accuracy", *(f"seed {run['seed']}" for run in found["runs"]), "mean"], rows)
    return (
        f"## BERT, fine-tuned on {found['examples']:,} labelled texts\n\n"
        f"{found['classes']} classes, {found['test_texts']:,} test texts, {found['epochs']} epochs of batches of 32, learning "
        f"rate {found['learning_rate']}, bfloat16. Each seed draws its own labelled texts, on which all sides train. Linear "
        f"models: TF-IDF of words and pairs, the best of C = {', '.join(map(str, PENALTIES))} on the test texts.\n\n{table}\n"
    )


# Compression.


def texts_of(path: Path, field: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [text for line in lines if (text := json.loads(line).get(field))]


def compression(options) -> dict:
    """Bits a byte of the test texts: each model reads the training texts, `xz` the test texts alone and after those."""
    import numpy as np

    import garden
    from benchmarks.kneser_ney import KneserNey

    train, test = texts_of(options.train, options.text), texts_of(options.test, options.text)
    tokenizer = garden.Tokenizer.from_pretrained(options.runs / "gpt/model")
    end = tokenizer.eos_id

    def documents(texts: list[str]) -> list[list[int]]:
        parts = (tokenizer(texts[start : start + 1024]).to_list() for start in range(0, len(texts), 1024))
        return [[*ids, end] for part in parts for ids in part]

    size = sum(len(text.encode()) for text in test)
    ids = documents(test)
    model = KneserNey(documents(train), vocabulary_size=tokenizer.vocabulary_size, order=options.order)
    bits = -model.log2_of_all(ids)
    first = np.cumsum([0, *map(len, ids[:-1])])
    joined = {"test": "\n".join(test).encode(), "train": "\n".join(train).encode()}
    packed = {name: len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for name, data in joined.items()}
    both = len(lzma.compress(joined["train"] + b"\n" + joined["test"], preset=9 | lzma.PRESET_EXTREME))
    report = json.loads((options.runs / "gpt/report.json").read_text(encoding="utf-8"))
    return {
        "test_texts": len(test),
        "test_bytes": size,
        "order": options.order,
        "gpt": report["bits_per_byte"],
        # GPT-2 is given a text's first token; no code for it is dearer than one that knows nothing.
        "first_tokens": len(ids) * float(np.log2(tokenizer.vocabulary_size)) / size,
        "kneser_ney": float(bits.sum() - bits[first].sum()) / size,
        "kneser_ney_with_first_tokens": float(bits.sum()) / size,
        "xz": packed["test"] * 8 / len(joined["test"]),
        "xz_after_train": (both - packed["train"]) * 8 / len(joined["test"]),
    }


def compression_text(found: dict) -> str:
    n = found["order"]
    rows = [
        ["GPT", f"{found['gpt']:.4f}", f"{found['gpt'] + found['first_tokens']:.4f} (at most)"],
        [f"{n}-gram, Kneser-Ney", f"{found['kneser_ney']:.4f}", f"{found['kneser_ney_with_first_tokens']:.4f}"],
        ["xz -9e of the test texts", "", f"{found['xz']:.4f}"],
        ["xz -9e, after the training texts", "", f"{found['xz_after_train']:.4f}"],
    ]
    table = record.table(["bits a byte", "from the second token on", "with the first"], rows)
    return (
        f"## GPT: bits a byte of {found['test_texts']:,} test texts, {found['test_bytes']:,} bytes\n\n"
        "Both models read the same tokens, each text and its end token. A text's first token is given to GPT, and counted as "
        f"one of equally likely tokens in the last column. `xz` has all texts before a text to look at.\n\n{table}\n"
    )


# Curves and examples.


def curve(directory: Path) -> dict:
    """Returns a run's length and its validations."""
    with open(directory / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    trained = [line for line in lines if "loss" in line][-1]
    names = {
        "step",
        "validation_loss",
        "validation_masked_accuracy",
        "validation_token_accuracy",
        "validation_accuracy",
    }
    validations = [line for line in lines if "validation_loss" in line]
    known = [{name: value for name, value in line.items() if name in names} for line in validations]
    return {"steps": trained["step"], "tokens": trained.get("tokens"), "validations": known}


def falls(values: list[float]) -> bool:
    """Returns whether a curve falls steadily: each tenth of it, in the mean, lies under the one before, to a hundredth."""
    parts = [values[i * len(values) // 10 : (i + 1) * len(values) // 10] for i in range(10)]
    means = [statistics.mean(part) for part in parts if part]
    return all(b <= a * 1.01 for a, b in itertools.pairwise(means)) and means[-1] < means[0]


def gapped(text: str, draw: random.Random) -> tuple[list[str], int]:
    """Returns a text's first words and the place of one of them that is a plain word."""
    words = text.replace("\n", " ").split()[:24]
    return words, draw.choice([i for i, word in enumerate(words) if i and word.isalpha()] or [0])


def examples(options) -> dict:
    """Five test texts, one word of each hidden or replaced, as each network fills them in."""
    import garden

    draw = random.Random(options.seed)
    texts = [text for text in texts_of(options.test, options.text) if len(text.split()) >= 12]
    chosen = [gapped(text, draw) for text in draw.sample(texts, 5)]

    def with_word(words: list[str], place: int, word: str) -> str:
        return " ".join([*words[:place], word, *words[place + 1 :]])

    found: dict = {"hidden": [{"text": " ".join(words), "word": words[place]} for words, place in chosen]}
    if (options.runs / "bert/model").exists():
        model = garden.MaskedLM.from_pretrained(options.runs / "bert/model")
        mask = model.tokenizer.vocabulary[model.tokenizer.mask_id]
        asked = [with_word(words, place, mask) for words, place in chosen]
        found["bert"] = [
            {"asked": text, "given": [candidate["token"] for candidate in answer]}
            for text, answer in zip(asked, model.predict_text(asked), strict=True)
        ]
    for name, gap in (("t5", "<extra_id_0>"), ("bart", "<mask>")):
        if (options.runs / name / "model").exists():
            model = garden.Seq2SeqLM.from_pretrained(options.runs / name / "model", answer_length=48)
            asked = [with_word(words, place, gap) for words, place in chosen]
            answers = model.predict_text(asked)
            found[name] = [
                {"asked": text, "given": answer["generated_text"]} for text, answer in zip(asked, answers, strict=True)
            ]
    if (options.runs / "electra/model").exists():
        model = garden.ReplacedTokenDetector.from_pretrained(options.runs / "electra/model")
        others = [words[place] for words, place in chosen[1:] + chosen[:1]]
        asked = [with_word(words, place, other) for (words, place), other in zip(chosen, others, strict=True)]
        found["electra"] = []
        for text, other, answer in zip(asked, others, model.predict_text(asked), strict=True):
            ranked = sorted(zip(answer["scores"], answer["tokens"], strict=True), reverse=True)
            given = [f"{token} {score:.2f}" for score, token in ranked[:3]]
            found["electra"].append({"asked": text, "replaced": other, "given": given})
    if (options.runs / "gpt/model").exists():
        model = garden.CausalLM.from_pretrained(options.runs / "gpt/model")
        likely = model.predict_text(
            [text for words, place in chosen for text in (" ".join(words), " ".join(words[::-1]))]
        )
        found["gpt"] = [
            {"asked": " ".join(words), "perplexity": a["perplexity"], "backwards": b["perplexity"]}
            for (words, _), a, b in zip(chosen, likely[::2], likely[1::2], strict=True)
        ]
    names = [
        name for name in ("bert", "gpt", "electra", "t5", "bart") if (options.runs / name / "metrics.jsonl").exists()
    ]
    found["curves"] = {name: curve(options.runs / name) for name in names}
    for name in names:
        losses = [line["validation_loss"] for line in found["curves"][name]["validations"]]
        found["curves"][name]["falls"] = falls(losses)
    return found


def examples_text(found: dict) -> str:
    parts = ["## Curves\n"]
    for name, run in found["curves"].items():
        lines = run["validations"]
        chosen = lines if len(lines) <= 8 else [lines[round(i * (len(lines) - 1) / 7)] for i in range(8)]
        keys = [key for key in lines[0] if key != "step"]
        rows = [[key, *(f"{line[key]:.3f}" for line in chosen)] for key in keys]
        length = f"{run['steps']:,} steps" + (f", {run['tokens'] / 1e6:.1f} M tokens" if run["tokens"] else "")
        steady = "falls steadily" if run["falls"] else "does not fall steadily"
        table = record.table(["step", *(f"{line['step']:,}" for line in chosen)], rows)
        parts.append(f"**{name}**, {length}; the validation loss {steady}.\n\n{table}\n")
    parts.append(
        "## Filled in\n\nTest texts and places drawn by a seed. ELECTRA sees another text's word in the place.\n"
    )
    for number, hidden in enumerate(found["hidden"]):
        parts.append(f"{number + 1}. {hidden['text']}  \n   hidden: **{hidden['word']}**\n")
        for name in ("bert", "t5", "bart", "electra"):
            if name in found:
                given = found[name][number]["given"]
                given = ", ".join(given) if isinstance(given, list) else given
                asked = f" (with *{found[name][number]['replaced']}*)" if name == "electra" else ""
                parts.append(f"   - {name}{asked}: {given}")
        if "gpt" in found:
            line = found["gpt"][number]
            parts.append(
                f"   - gpt: perplexity {line['perplexity']:.1f}, of the words backwards {line['backwards']:.0f}"
            )
        parts.append("")
    return "\n".join(parts)


PARTS = {
    "fine-tuning": (fine_tuning, fine_tuning_text),
    "compression": (compression, compression_text),
    "examples": (examples, examples_text),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="directory of the runs bert, gpt, electra, t5, bart")
    parser.add_argument("--train", type=Path, required=True, help="gzipped JSON Lines that they were trained on")
    parser.add_argument("--test", type=Path, required=True, help="gzipped JSON Lines that they were not")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--part", choices=[*PARTS, "none"], action="append", help="only this part (default: all)")
    parser.add_argument("--examples", type=int, default=1000, help="labelled texts (default 1000)")
    parser.add_argument("--seeds", default="1,2,3", help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=1, help="of what is filled in")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--order", type=int, default=5, help="the n of the n-grams")
    parser.add_argument("--record", action="store_true", help="write a results file of all parts that there are")
    options = parser.parse_args(arguments)
    for name in options.part or PARTS:
        if name == "none":
            continue
        compute, text = PARTS[name]
        found = compute(options)
        (options.runs / f"learn-{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(text(found))
    if options.record:
        files = {name: options.runs / f"learn-{name}.json" for name in PARTS}
        known = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
        result = record.context({"text": options.text, "label": options.label}, {}) | known
        text = [record.heading("Shown to learn", result, {}), *(PARTS[name][1](found) for name, found in known.items())]
        print(record.write("learn", result, "\n".join(text)))


if __name__ == "__main__":
    main()
