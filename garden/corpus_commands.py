"""`garden corpus`: vocabularies and corpora for pre-training. TensorFlow is imported only by what needs it."""

from __future__ import annotations

import functools
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from garden.commands import JSON, declare, log_to_stderr, print_json

KINDS = ("wordpiece", "bpe", "unigram")
TEMPLATES = ("bert", "gpt2", "roberta", "t5")
_EVERY = 3.0  # seconds between two lines of progress


@click.group()
def corpus() -> None:
    """Makes vocabularies and corpora for pre-training.

    \b
    Example:
      garden corpus vocabulary configs/corpus_wordnet.yaml --kind wordpiece --size 8192 --to corpora/vocabulary
      garden corpus build configs/corpus_wordnet.yaml tokenizer=corpora/vocabulary output=corpora/wordnet
      garden corpus info corpora/wordnet
    """


_command = functools.partial(declare, corpus)


@_command(
    click.argument("sources", nargs=-1, required=True, metavar="CONFIG_OR_FILES..."),
    click.option("--kind", type=click.Choice(KINDS), required=True, help="Kind of vocabulary."),
    click.option("--size", type=click.IntRange(1), required=True, help="Tokens, special ones included."),
    click.option("--to", "target", required=True, help="Directory to make."),
    click.option(
        "--template",
        type=click.Choice(TEMPLATES),
        help="Special tokens, and where they stand.  [default: wordpiece bert, bpe gpt2, unigram t5]",
    ),
    click.option("--lower-case", is_flag=True, help="Lower-case letters; for wordpiece, remove accents too."),
    click.option("--text", "text_field", default="text", show_default=True, help="Field of FILES with the text."),
    click.option("--documents", type=click.IntRange(1), help="Read so many documents at most.  [default: all]"),
    click.option("--bytes", "most_bytes", type=click.IntRange(1), help="Read so many bytes at most.  [default: all]"),
    click.option(
        "--coverage",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.9999,
        show_default=True,
        help="Share of all characters that have tokens of their own.",
    ),
    JSON,
    short_help="Train a vocabulary.",
)
def vocabulary(
    sources: tuple[str, ...], target: str, text_field: str, documents: int | None, most_bytes: int | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Trains a vocabulary on the cleaned documents of a corpus config (.yaml), or on files: JSONL, CSV, plain text, ...

    Writes a directory that `garden.Tokenizer` and transformers open. The same text gives the same vocabulary.

    \b
    Example:
      garden corpus vocabulary configs/corpus_wordnet.yaml --kind wordpiece --size 8192 --lower-case --to corpora/vocabulary
      garden corpus vocabulary train.jsonl.gz --text description --kind bpe --size 16384 --to corpora/bpe
    """
    from training.corpora.vocabulary import check_target, limited, train_vocabulary, write_vocabulary

    log_to_stderr(logging.WARNING)
    check_target(target)
    texts = limited(_texts(sources, text_field), documents=documents, most_bytes=most_bytes)
    trained = train_vocabulary(texts, **options)
    write_vocabulary(trained, target)
    if as_json:
        names = ("kind", "size", "documents", "bytes", "characters", "left_out")
        print_json({"tokenizer": target, **{name: getattr(trained, name) for name in names}})
        return
    click.echo(target)
    learnt = f"{trained.size:,} tokens from {trained.documents:,} documents of {trained.bytes:,} bytes"
    click.echo(f"{trained.kind}, {learnt}", err=True)


def _texts(sources: tuple[str, ...], text_field: str) -> Iterator[str]:
    """Yields the documents of a corpus config, cleaned, or of files."""
    from training.corpora.cleaning import Cleaner, Cleaning
    from training.corpora.readers import read_documents
    from training.paths import located

    cleaning, skip_corrupt = Cleaning(), False
    if len(sources) == 1 and Path(sources[0]).suffix in (".yaml", ".yml"):
        from training.corpora.config import read_corpus_config

        config = read_corpus_config(located(sources[0]))
        cleaning, skip_corrupt = config.cleaning, config.skip_corrupt
        given = [(each.format, each.paths, each.name, each.text, each.options) for each in config.sources]
    else:
        given = [(None, list(sources), "files", text_field, {})]
    cleaner = Cleaner(cleaning)
    read = [
        read_documents(format, paths, name=name, text=text, skip_corrupt=skip_corrupt, **options)
        for format, paths, name, text, options in given
    ]
    # Of several sources in turns, so that a limit finds some of each.
    for documents in itertools.zip_longest(*read):
        for document in documents:
            kept = cleaner(document) if document is not None else None
            if kept is not None:
                yield kept.text


class _BuildCommand(click.Command):
    """Ends its help with all keys of a corpus config."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from training.configuration import key_table
        from training.corpora.config import CorpusConfig

        with formatter.section("Keys of CONFIG, with defaults"):
            formatter.write_dl(key_table(CorpusConfig))


@_command(
    click.argument("config"),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]"),
    click.option(
        "--runner", help="Build on Apache Beam: DirectRunner, FlinkRunner, ...  [default: this machine's cores]"
    ),
    click.option(
        "--runner-option",
        "runner_options",
        multiple=True,
        metavar="--NAME=VALUE",
        help="Option of Beam's runner; may be repeated.",
    ),
    click.option("--skip-corrupt", is_flag=True, help="Count and report corrupt records and go on."),
    click.option("--overwrite", is_flag=True, help="Replace a corpus that is in the output directory."),
    click.option("--progress", is_flag=True, help="Show progress even where stderr is not a terminal."),
    JSON,
    cls=_BuildCommand,
    short_help="Build a corpus: files to shards of packed rows.",
)
def build(
    config: str,
    overrides: tuple[str, ...],
    workers: int | None,
    runner: str | None,
    runner_options: tuple[str, ...],
    skip_corrupt: bool,
    overwrite: bool,
    progress: bool,
    as_json: bool,
) -> None:
    """Reads, cleans, tokenises and packs what the YAML file CONFIG describes; KEY=VALUE changes a key of it.

    A build that was interrupted goes on where it stopped when it is run again.

    \b
    Example:
      garden corpus build configs/corpus_wordnet.yaml tokenizer=corpora/vocabulary output=corpora/wordnet
      garden corpus build configs/corpus_wordnet.yaml --runner DirectRunner
    """
    from training.corpora.config import read_corpus_config
    from training.paths import located

    if skip_corrupt:
        overrides = (*overrides, "skip_corrupt=true")
    read = read_corpus_config(located(config), overrides)
    terminal = sys.stderr.isatty()
    log_to_stderr(logging.INFO if progress or terminal else logging.WARNING)
    from training.corpora.build import build as build_corpus

    if runner is None:
        if runner_options:
            raise click.UsageError("--runner-option is for --runner")
        from training.corpora.workers import Local

        who = Local(workers)
    else:
        if workers is not None:
            raise click.UsageError("--workers is for builds without --runner; give the runner's own --runner-option")
        from training.corpora.beam import Beam

        who = Beam(runner, runner_options)
    report = build_corpus(read, who, overwrite=overwrite, progress=_shown(progress or terminal))
    if as_json:
        print_json({"corpus": read.output, **report})
        return
    click.echo(read.output)
    _print_report(report)


def _shown(wanted: bool) -> Callable[[Any], None]:
    """Returns what shows progress: a line every few seconds."""
    last = time.monotonic()

    def show(progress: Any) -> None:
        nonlocal last
        if wanted and time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            click.echo(str(progress), err=True)

    return show


def _print_report(report: dict[str, Any]) -> None:
    click.echo(f"documents: {report['documents']:,}", err=True)
    for rule, number in report["dropped"].items():
        click.echo(f"  dropped, {rule}: {number:,}", err=True)
    if report["corrupt"]:
        click.echo(f"corrupt records: {report['corrupt']:,}", err=True)
        for source in report["sources"].values():
            for problem in source["reading"]["problems"]:
                click.echo(f"  {problem}", err=True)
    for split, counts in report["splits"].items():
        packed = f"{counts['rows']:,} rows, {counts['real']:,} tokens, fill {counts['fill']:.2%}"
        click.echo(f"{split}: {counts['documents']:,} documents, {packed}", err=True)
    run = report["run"]
    click.echo(f"{run['text_bytes'] / 1e6:,.1f} MB of text at {run['megabytes_per_second']:.1f} MB/s", err=True)


@_command(
    click.argument("directory"),
    click.option("--verify", is_flag=True, help="Read all shards and compare their checksums."),
    JSON,
    short_help="Describe a corpus.",
)
def info(directory: str, verify: bool, as_json: bool) -> None:
    """Describes a built corpus: layout, and of each split and source documents, rows, tokens, fill, share of the mixture.

    \b
    Example:
      garden corpus info corpora/wordnet --verify
    """
    from training.corpora.describe import describe
    from training.corpora.describe import verify as verify_shards
    from training.paths import located

    described = describe(located(directory))
    if verify:
        described["verified"] = verify_shards(located(directory))
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        if not isinstance(value, dict):
            click.echo(f"{name}: {value}")
            continue
        click.echo(f"{name}: {_sizes(value)}")
        for source, sizes in value["sources"].items():
            click.echo(f"  {source}: {_sizes(sizes)}")


def _sizes(sizes: dict[str, Any]) -> str:
    share = f", share {sizes['share']:.2%}" if "share" in sizes else ""
    counts = f"{sizes['documents']:,} documents, {sizes['rows']:,} rows, {sizes['tokens']:,} tokens"
    return f"{counts}, fill {sizes['fill']:.2%}, {sizes['text_bytes'] / 1e6:,.1f} MB of text{share}"


@_command(
    click.argument("directory"),
    click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="How many."),
    click.option(
        "--split", type=click.Choice(["train", "validation"]), default="train", show_default=True, help="Of what."
    ),
    click.option("--tokenizer", help="Its directory.  [default: where it lay when the corpus was built]"),
    JSON,
    short_help="Print rows of a corpus as text.",
)
def show(directory: str, rows: int, split: str, tokenizer: str | None, as_json: bool) -> None:
    """Prints the first rows that training draws from a corpus, a segment a line. With --json, one JSON object a row.

    \b
    Example:
      garden corpus show corpora/wordnet --rows 2
    """
    from training.corpora.describe import rows_as_text
    from training.paths import located

    log_to_stderr(logging.WARNING)
    for row in rows_as_text(located(directory), split=split, count=rows, tokenizer=tokenizer):
        if as_json:
            print_json(row)
            continue
        click.echo(f"row {row['row']:,} of {row['source']}, {row['tokens']} tokens")
        for segment in row["segments"]:
            click.echo(f"  {segment['text']}")
