"""The whole path on real input: fine-tune, measure, export, serve, ask. `make demo` runs it.

    python -m demo [key=value ...]     changes keys of configs/sentiment.yaml, such as training.seed=2

Writes runs/demo (model, report, pictures) and exports/demo, both anew. The last line on stdout is one JSON object.
"""

import contextlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from garden.commands import log_to_stderr
from garden.process import quiet_start

CONFIG = Path(__file__).parent / "configs" / "sentiment.yaml"
RUN, EXPORTS = "runs/demo", "exports/demo"
NAME = "sentiment"
EXAMPLES = (
    "A joy from start to finish: warm, witty and beautifully acted.",
    "Two hours that I will never get back.",
    "The plot is thin, but the performances more than make up for it.",
    "It wants to be profound and ends up merely long.",
)
_START_SECONDS = 120
_STOP_SECONDS = 30


def main(overrides: list[str]) -> None:
    """Runs the demo; errors end it, and the server that it started, at once."""
    started = time.perf_counter()
    quiet_start()
    log_to_stderr(logging.INFO)
    # Ends through the `finally` below, so that no server stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from training.config import read_config
    from training.reports import as_text
    from training.run import run

    config = read_config(CONFIG, [f"output={RUN}", *overrides])
    say(f"fine-tuning as {CONFIG.name} says; metrics go to {config.output}/metrics.jsonl")
    results = run(config, overwrite=True)
    report = results["report"]
    say(f"trained {results['steps']} steps in {results['training_seconds']:.0f} s; on the test split:")
    say(as_text(report))
    say("pictures: " + ", ".join(sorted(str(path) for path in Path(config.output, "plots").iterdir())))

    import serving
    from training.models import open_task

    shutil.rmtree(EXPORTS, ignore_errors=True)
    exported = serving.export(open_task(results["model"]), EXPORTS)
    say(f"exported: {exported}")
    with server(EXPORTS) as address:
        answers = ask(address)
    say("the server has stopped")

    names = ("accuracy", "precision", "recall", "f1", "roc_auc")
    last = {
        **{name: report[name] for name in names},
        "answers": answers,
        "export": str(exported),
        "model": results["model"],
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(last, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """Prints at once, so that stdout and stderr stay in order."""
    print(text, flush=True)


@contextlib.contextmanager
def server(base: str) -> Iterator[dict[str, str]]:
    """Runs `garden serve` on free loopback ports; yields where it answers (`rest`, `grpc`) and stops it in any case."""
    command = [sys.executable, "-m", "garden.cli", "serve", "--model-base", base, "--name", NAME]
    process = subprocess.Popen(
        [*command, "--port", "0", "--grpc-port", "0", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with exit code {process.wait(_START_SECONDS)} before it answered")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(address: dict[str, str]) -> list[dict]:
    """Asks for all examples over REST and over gRPC, prints both answers, and returns those of REST."""
    from serving.client import Client

    answers = {}
    for protocol, client in (("REST", Client(address["rest"])), ("gRPC", Client(grpc=address["grpc"]))):
        with client:
            given = client.predict(NAME, list(EXAMPLES))
        say(f"over {protocol}:")
        answers[protocol] = [
            {"text": text, "label": label, "score": round(float(score), 4)}
            for text, label, score in zip(EXAMPLES, given["label"], given["score"], strict=True)
        ]
        for answer in answers[protocol]:
            say(f"  {answer['label']} {answer['score']:.4f}  {answer['text']}")
    return answers["REST"]


if __name__ == "__main__":
    main(sys.argv[1:])
