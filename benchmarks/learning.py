"""What pre-training is worth: a pre-trained network, its twin with random weights, and linear models, on few labelled texts.

    python -m benchmarks.learning --pretrained runs/bert/model --train debian.train.jsonl.gz --test debian.test.jsonl.gz \\
        --text description --label section

Each seed draws its own labelled texts, on which all sides are trained; the classes are those with at least 100 texts. The
linear models are TF-IDF of words and pairs of words with logistic regression, and with a linear SVM. `--record` writes a
results file.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import record
from garden.tasks import Examples, read_examples

LEAST_TEXTS = 100


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
    """Returns the test accuracy of the two linear models."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    x_train, x_test = words.fit_transform(train.texts), words.transform(test.texts)
    models = {"logistic_regression": LogisticRegression(max_iter=1000), "linear_svm": LinearSVC()}
    return {name: float(model.fit(x_train, train.labels).score(x_test, test.labels)) for name, model in models.items()}


def fine_tuned(
    pretrained: Path, train: Examples, test: Examples, classes: list[str], options, *, fresh: bool, seed: int
):
    """Returns the test accuracy of the network, fine-tuned; with `fresh` its weights are drawn anew first."""
    import keras

    import garden

    keras.utils.set_random_seed(seed)
    model = garden.TextClassifier.from_pretrained(
        pretrained, labels=classes, dtype=options.precision, seed=seed, new_head=True
    )
    if fresh:
        new = type(model.backbone)(model.backbone.config, dtype=options.precision)
        model.backbone.set_weights(new.get_weights())
    model.compile(learning_rate=options.learning_rate)
    model.fit(train.texts, train.labels, epochs=options.epochs, batch_size=options.batch_size, verbose=0)
    return float(model.evaluate(test, batch_size=256, verbose=0, return_dict=True)["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    pool, classes = labelled(options.train, options.text, options.label)
    test, _ = labelled(options.test, options.text, options.label, classes)
    print(f"{len(classes)} classes, {len(test)} test texts", flush=True)
    runs = []
    for seed in map(int, options.seeds.split(",")):
        train = drawn(pool, options.examples, seed)
        began = time.perf_counter()
        run = {"seed": seed, **linear(train, test)}
        for side, fresh in (("pretrained", False), ("random_weights", True)):
            run[side] = fine_tuned(options.pretrained, train, test, classes, options, fresh=fresh, seed=seed)
        runs.append({**run, "seconds": round(time.perf_counter() - began, 1)})
        print(json.dumps(runs[-1]), flush=True)
    sides = ("pretrained", "random_weights", "logistic_regression", "linear_svm")
    means = {side: statistics.mean(run[side] for run in runs) for side in sides}
    rows = [[side, *(f"{run[side]:.4f}" for run in runs), f"{means[side]:.4f}"] for side in sides]
    text = record.table(["test accuracy", *(f"seed {run['seed']}" for run in runs), "mean"], rows)
    print(text)
    if options.record:
        config = {name: str(value) for name, value in vars(options).items() if name != "record"}
        result = record.context(config, {}) | {
            "classes": len(classes),
            "test_texts": len(test),
            "runs": runs,
            "means": means,
        }
        print(
            record.write(
                "learning", result, record.heading("What pre-training is worth", result, {}) + "\n" + text + "\n"
            )
        )


if __name__ == "__main__":
    main()
