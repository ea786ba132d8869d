"""`garden corpus`: vocabularies and corpora for pre-training. TensorFlow is imported only by what needs it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from garden.commands import JSON, declare, log_to_stderr, print_json

KINDS = ("wordpiece", "bpe", "unigram")
TEMPLATES = ("bert", "gpt2", "roberta", "t5")


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
    """Yields the documents of a corpus config, or of files."""
    from training.paths import located

    if len(sources) == 1 and Path(sources[0]).suffix in (".yaml", ".yml"):
        from training.corpora.config import read_corpus_config

        files = [(path, each.text) for each in read_corpus_config(located(sources[0])).sources for path in each.paths]
    else:
        files = [(path, text_field) for path in sources]
    from garden.tasks import read_examples

    for path, field in files:
        yield from read_examples(located(path), text=field, pair=None, label=None).texts
