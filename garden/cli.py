"""The `garden` command. TensorFlow is imported only by commands that need it, so that `garden --help` answers at once.

Progress and errors go to stderr, results to stdout. Bad input is one line on stderr and exit code 2.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from garden.answers import print_answer
from garden.commands import JSON, declare, log_to_stderr, print_json
from garden.corpus_commands import corpus
from garden.launch_commands import launch
from garden.launch_commands import options as launch_options
from garden.process import begin, run

_LINES_AT_ONCE = 64


def main() -> None:
    """Runs the command line of this process and exits: 0, 2 on bad input, 130 on Ctrl-C, 1 when stdout is closed early."""
    begin()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    return run(cli, arguments)


_MODEL_DIR = click.argument("model_dir")
_BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Texts computed at once."
)


def _field(name: str, default: str | None, meaning: str) -> Callable:
    return click.option(f"--{name}-field", default=default, show_default=default is not None, help=meaning)


_TEXT_FIELD = _field("text", "text", "Field of DATA that holds the text.")
_PAIR_FIELD = _field("pair", None, "Field of DATA that holds the second text of a pair.")
_LABEL_FIELD = _field("label", None, "Field of DATA that holds the label; default: label, or target for seq2seq-lm.")


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.version_option(package_name="tf-garden", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Trains, measures, exports and serves pre-trained language models with TensorFlow.

    \b
    Example:
      garden train configs/sentiment.yaml
      garden predict runs/sentiment/model "A joy from start to finish."
      garden export runs/sentiment/model exports/sentiment
      garden serve --model-base exports/sentiment --name sentiment

    MODEL_DIR is a directory in the Hugging Face layout. Any path may also be package:NAME/PATH, a file inside an installed
    Python package.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(corpus)
_command = functools.partial(declare, cli)


_command(*launch_options(), short_help="Train on several workers, here or on a cluster.")(launch)


class _TrainCommand(click.Command):
    """Ends its help with all keys of a run config."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from training.config import key_table

        with formatter.section("Keys of CONFIG, with defaults"):
            formatter.write_dl(key_table())


@_command(
    click.argument("config"),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    click.option("--overwrite", is_flag=True, help="Replace a run that is in the output directory."),
    click.option("--progress", is_flag=True, help="Show progress even where stderr is not a terminal."),
    click.option("--strategy", help="Devices to train on: short for strategy=STRATEGY."),
    JSON,
    cls=_TrainCommand,
    short_help="Train what a config describes.",
)
def train(
    config: str, overrides: tuple[str, ...], overwrite: bool, progress: bool, strategy: str | None, as_json: bool
) -> None:
    """Trains the model that the YAML file CONFIG describes; KEY=VALUE changes a key of it.

    \b
    Example:
      garden train configs/sentiment.yaml training.epochs=1 output=runs/quick
    """
    from training.config import read_config
    from training.paths import located

    read = read_config(located(config), [*overrides, *([f"strategy={strategy}"] if strategy else [])])
    terminal = sys.stderr.isatty()
    log_to_stderr(logging.INFO if progress and not terminal else logging.WARNING)
    from training.run import run

    results = run(read, overwrite=overwrite, progress_bar=terminal)
    if as_json:
        print_json(results)
        return
    click.echo(f"model: {results['model']} (of step {results['kept_step']}, {results['steps']} trained)")
    if results["report"]:
        _print_report(results["report"])


@_command(
    _MODEL_DIR,
    click.argument("data"),
    _TEXT_FIELD,
    _PAIR_FIELD,
    _LABEL_FIELD,
    _BATCH_SIZE,
    JSON,
    short_help="Measure a model on labelled examples.",
)
def evaluate(
    model_dir: str,
    data: str,
    text_field: str,
    pair_field: str | None,
    label_field: str | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Reports what the model in MODEL_DIR gets right on the labelled examples of DATA (JSONL, CSV or TSV).

    \b
    Example:
      garden evaluate runs/sentiment/model package:garden/data/movie_reviews.test.jsonl.gz
    """
    from garden.tasks import read_examples
    from training.models import open_task
    from training.paths import located
    from training.reports import report

    log_to_stderr(logging.WARNING)
    model = open_task(model_dir)
    label = (label_field or model.label_field) if model.label_field else None
    pair = pair_field or model.pair_field
    examples = read_examples(located(data), text=text_field, pair=pair, label=label, words=model.takes_words)
    results = report(model, examples, batch_size=batch_size)
    if as_json:
        print_json(results)
    else:
        _print_report(results)


def _print_report(results: dict[str, Any]) -> None:
    from training.reports import as_text

    click.echo(as_text(results))


@_command(
    _MODEL_DIR,
    click.argument("texts", nargs=-1, metavar="[TEXT]..."),
    click.option("--pair", help="Second text of every TEXT: a context to answer questions about, a hypothesis."),
    click.option("--file", help="Take texts from a file: JSONL, CSV or TSV, or else one text a line."),
    _TEXT_FIELD,
    _PAIR_FIELD,
    _BATCH_SIZE,
    JSON,
    short_help="Answer texts.",
)
def predict(
    model_dir: str,
    texts: tuple[str, ...],
    pair: str | None,
    file: str | None,
    text_field: str,
    pair_field: str | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Answers each TEXT with the model in MODEL_DIR; without TEXT and --file, each line of stdin.

    With --json, one JSON object a line.

    \b
    Example:
      garden predict runs/sentiment/model "A joy from start to finish." "Dull."
    """
    if texts and file:
        raise click.UsageError("give TEXT or --file, not both")
    from training.models import open_task
    from training.paths import located

    log_to_stderr(logging.WARNING)
    model = open_task(model_dir)
    if file:
        source = _texts_of_file(located(file), text_field, pair_field or model.pair_field, words=model.takes_words)
    else:
        source = iter(texts or _lines(sys.stdin.buffer))
    if pair is not None:
        source = ((text, pair) for text in source)
    while some := list(itertools.islice(source, batch_size)):
        for text, answer in zip(some, model.predict_text(some), strict=True):
            print_answer(text, answer, as_json=as_json)
        sys.stdout.flush()


def _lines(stream: Any) -> Iterator[str]:
    for line in stream:
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def _texts_of_file(path: Path, text_field: str, pair_field: str | None, *, words: bool) -> Iterator[Any]:
    if re.search(r"\.(jsonl|json|csv|tsv)(\.gz)?$", path.name, re.IGNORECASE):
        from garden.tasks import read_examples

        examples = read_examples(path, text=text_field, pair=pair_field, label=None, words=words)
        yield from examples.texts if examples.pairs is None else zip(examples.texts, examples.pairs, strict=True)
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as stream:
        yield from _lines(stream)


@_command(_MODEL_DIR, click.argument("export_base"), JSON, short_help="Write a model as a SavedModel for TF Serving.")
def export(model_dir: str, export_base: str, as_json: bool) -> None:
    """Exports the model in MODEL_DIR as the next version below EXPORT_BASE: a SavedModel that takes strings.

    Prints the directory of the new version.

    \b
    Example:
      garden export runs/sentiment/model exports/sentiment
    """
    import serving
    from training.models import open_task

    log_to_stderr(logging.WARNING)
    directory = serving.export(open_task(model_dir), export_base)
    if as_json:
        print_json({"export": str(directory)})
    else:
        click.echo(directory)


@_command(
    click.option("--model-base", required=True, help="Directory with a model's versions in it: 1/, 2/."),
    click.option("--name", help="The model's name in requests.  [default: the directory's]"),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to answer on."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="REST port; 0: a free one."
    ),
    click.option(
        "--grpc-port", type=click.IntRange(0, 65535), default=8500, show_default=True, help="gRPC port; 0: a free one."
    ),
    JSON,
    short_help="Serve an export over REST and gRPC.",
)
def serve(model_base: str, name: str | None, host: str, port: int, grpc_port: int, as_json: bool) -> None:
    """Serves the newest version of a model over TF Serving's REST and gRPC APIs until SIGTERM or Ctrl-C.

    Prints where, once it answers.

    \b
    Example:
      garden serve --model-base exports/sentiment --name sentiment --port 8501 --grpc-port 8500
    """
    from serving.server import serve as run_server

    def announce(server: Any) -> None:
        if as_json:
            print_json({"rest": server.url, "grpc": server.grpc_address})
        else:
            click.echo(f"REST {server.url}\ngRPC {server.grpc_address}")
        sys.stdout.flush()

    log_to_stderr(logging.INFO)
    run_server(model_base=model_base, name=name, host=host, port=port, grpc_port=grpc_port, on_ready=announce)


@_command(
    click.option("--port", type=click.IntRange(0, 65535), default=5050, show_default=True, help="0: a free one."),
    click.option("--host", default="127.0.0.1", show_default=True, help="What machines that train call this one."),
    JSON,
    short_help="Make the inputs of runs on other machines.",
)
def data_service(port: int, host: str, as_json: bool) -> None:
    """Makes, on all cores of this machine, the inputs of runs whose own cannot keep up, until SIGTERM or Ctrl-C.

    Prints its address, which is a run's data.service; of several machines, all with commas between them. Keep it inside of
    the cluster's own network: who reaches it may use it.

    \b
    Example:
      garden data-service --host data1 --port 5050
      garden train configs/sentiment.yaml data.service=data1:5050
    """
    from training.input_service import serve as run_service

    log_to_stderr(logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with run_service(port, host) as address:
        if as_json:
            print_json({"data_service": address})
        else:
            click.echo(f"data.service={address}")
        sys.stdout.flush()
        ended.wait()


@_command(
    click.argument("source"),
    click.option("--to", "target", required=True, help="Directory to make."),
    click.option(
        "--from",
        "kind",
        type=click.Choice(["huggingface", "google-bert", "models-official", "tf-hub"]),
        help="What SOURCE is.  [default: as its files show]",
    ),
    click.option("--config", help="The bert_config.json or params.yaml of a checkpoint that has none beside it."),
    click.option("--vocabulary", help="The vocab.txt, or preprocessing SavedModel, of a checkpoint without one."),
    click.option("--lower-case/--cased", default=None, help="Whether text is lower-cased.  [default: as SOURCE says]"),
    click.option("--activation", help="Of the feed-forward layers: gelu, gelu_new.  [default: as SOURCE says]"),
    JSON,
    short_help="Convert a checkpoint from elsewhere.",
)
def convert(
    source: str,
    target: str,
    kind: str | None,
    config: str | None,
    vocabulary: str | None,
    lower_case: bool | None,
    activation: str | None,
    as_json: bool,
) -> None:
    """Makes the directory --to, in the Hugging Face layout, of a checkpoint from elsewhere.

    SOURCE is a directory, the prefix of a TensorFlow checkpoint's files, or a URL of TF Hub: PyTorch's .bin files, Google's
    bert_model.ckpt, TF Model Garden's checkpoints of BERT, BERT encoders of TF Hub.

    \b
    Example:
      garden convert --from google-bert --to models/bert-base uncased_L-12_H-768_A-12
      garden convert --from models-official --to models/mine runs/ckpt-1000 --vocabulary vocab.txt --lower-case
    """
    from garden.convert import Options, convert
    from training.paths import located

    log_to_stderr(logging.WARNING)
    options = Options(
        config=located(config) if config else None,
        vocabulary=vocabulary if not vocabulary or "://" in vocabulary else str(located(vocabulary)),
        lower_case=lower_case,
        activation=activation,
    )
    place = source if "://" in source else str(located(source))
    with click.progressbar(length=1, label="writing", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        report = convert(place, target, kind=kind, options=options, progress=progress)
    if as_json:
        print_json(report)
        return
    click.echo(report["model"])
    click.echo(f"{report['architecture']}, {report['parameters']:,} parameters, from {report['from']}", err=True)
    if report["left_out"]:
        click.echo(f"left out: {', '.join(report['left_out'])}", err=True)


@_command(
    click.argument("directory"),
    click.option("--mesh", metavar="model=N,stage=M", help="Of a model: bytes of parameters on each device of a mesh."),
    JSON,
    short_help="Describe a model or an export.",
)
def info(directory: str, mesh: str | None, as_json: bool) -> None:
    """Describes a model's directory, or an export: what it is, how large, what goes in and comes out.

    \b
    Example:
      garden info runs/sentiment/model
      garden info exports/sentiment
      garden info --mesh model=2,stage=2 runs/sentiment/model
    """
    from garden.describe import describe
    from training.paths import located

    described = describe(located(directory))
    if mesh is not None:
        from training.mesh import bytes_by_device, sizes_of

        described["bytes_by_device"] = bytes_by_device(located(directory), sizes_of(mesh))
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for inner, text in value.items():
                click.echo(f"  {inner}: {text}")
        else:
            click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()
