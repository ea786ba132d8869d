"""Corpus configs: which files a corpus is made of, how they are cleaned, and what its rows look like.

`CorpusConfig` is the whole list of keys: `garden corpus build --help` prints it from the fields below. Importing this module
does not import TensorFlow.
"""

# ruff: noqa: RUF009 (`key` makes a dataclass field)
from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from training import configuration
from training.configuration import key
from training.corpora.cleaning import Cleaning

LAYOUTS = ("single", "pair", "causal")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Files of one kind."""

    name: str = key("the source's name in reports and mixtures")
    paths: list[str] = key("files, directories, patterns such as dumps/*.xml.bz2, URLs")
    format: str | None = key("what they are: wikipedia, wet, warc, text, jsonl, ...; default: as the names show", None)
    text: str = key("field that holds the text, where documents have fields", "text")
    weight: float | None = key(
        "share of the mixture, relative to the others; default: the source's tokens", None, above=0
    )
    split: str | None = key(
        "train or validation, where all of the source's documents go; default: to both, by validation_share",
        None,
        choices=("train", "validation"),
    )
    options: dict[str, Any] = key("the format's own options", dict)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus."""

    sources: list[SourceConfig] = key("where documents come from")
    cleaning: Cleaning = key("steps of cleaning", Cleaning)
    tokenizer: str | None = key("directory of the tokenizer, such as garden corpus vocabulary writes", None)
    layout: str = key(
        "what stands in a segment of a row; the objective of the training needs one of them", "single", choices=LAYOUTS
    )
    sequence_length: int = key("tokens of a row", 128, least=4)
    validation_share: float = key(
        "share of the documents that are held out, chosen by a hash of their text", 0.01, least=0, below=1
    )
    temperature: float = key("of the mixture: above 1 small sources count for more than their share", 1.0, above=0)
    skip_corrupt: bool = key("count and report corrupt records and go on, instead of stopping at the first", False)
    seed: int = key("of what is random", 1, least=0, below=2**31)
    output: str | None = key("directory of the corpus: index.json, shards, report.json", None)

    def __post_init__(self):
        configuration.check(self)
        if not self.sources:
            raise ValueError("sources: expected at least one")
        names = [source.name for source in self.sources]
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                raise ValueError(
                    f'sources: name "{name}": expected letters, digits, "_", "-" and ".": it is part of file names'
                )
            if names.count(name) > 1:
                raise ValueError(f'sources: two are called "{name}"; give each a name of its own')
        for source in self.sources:
            if not source.paths:
                raise ValueError(f'sources: "{source.name}" has no paths')

    def to_yaml(self) -> str:
        """Returns all keys and values as a config file."""
        return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(self)))


def read_corpus_config(path: str | Path, overrides: Sequence[str] = ()) -> CorpusConfig:
    """Reads a YAML file, with `key=value` overrides such as `sequence_length=512` on top; errors as `configuration.read`."""
    return configuration.read(CorpusConfig, path, overrides, example="configs/corpus_wordnet.yaml")


def make_corpus_config(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config"
) -> CorpusConfig:
    """Makes a config of nested keys and values and `key=value` overrides; errors as in `read_corpus_config`."""
    return configuration.make(CorpusConfig, values, overrides, where=where)
