"""A build by Apache Beam: on DirectRunner here, on Flink, Spark or Dataflow where there is a cluster. Extra: `beam`.

The same parts, chunks and journal as on one machine, and so the same shards. Every worker must see the corpus's directory and
the sources under the same paths. Duplicates are judged by the process that runs the pipeline, in corpus order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from training.corpora.build import Runner
from training.corpora.chunks import Builder, Judgement, Recipe, is_done, unbuilt_chunks
from training.corpora.documents import Document
from training.corpora.journal import ChunkReport, Journal
from training.corpora.parts import Part

try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError(f"--runner needs Apache Beam ({error}): pip install 'tf-garden[beam]'") from None

_ROUND = 1024
"""Chunks that are judged and built in one pipeline, where duplicates are looked for."""


class Beam(Runner):
    """Builds with Apache Beam.

    Args:
        runner: its name, such as DirectRunner.
        options: the runner's, such as `--direct_num_workers=4`.
    """

    def __init__(self, runner: str, options: Sequence[str] = ()):
        self._options = PipelineOptions([f"--runner={runner}", *options])

    def build(self, recipe: Recipe, parts: Sequence[Part], built: Callable[[ChunkReport], None]) -> None:
        """Reads parts and builds their chunks."""
        if not parts:
            return
        with self._pipeline() as pipeline:
            (
                pipeline
                | "parts" >> apache_beam.Create(list(parts), reshuffle=True)
                | "read" >> apache_beam.FlatMap(_read, recipe)
                | "chunks apart" >> apache_beam.Reshuffle()  # who reads a part need not build all of it
                | "build" >> apache_beam.ParDo(_Build(recipe))
            )
        journal = Journal(recipe.directory)
        for part in parts:
            for number in range(journal.part(part.name)[0]):
                if (report := journal.chunk(part.chunk(number))) is not None:
                    built(report)

    def build_kept(
        self, recipe: Recipe, chunks: Iterable[tuple[str, Judgement]], built: Callable[[ChunkReport], None]
    ) -> None:
        """Builds chunks that were kept."""
        some: list[tuple[str, Judgement]] = []
        for task in chunks:
            some.append(task)
            if len(some) == _ROUND:
                self._round(recipe, some, built)
                some = []
        if some:
            self._round(recipe, some, built)

    def _round(self, recipe: Recipe, chunks: list[tuple[str, Judgement]], built: Callable[[ChunkReport], None]) -> None:
        with self._pipeline() as pipeline:
            (
                pipeline
                | "judged chunks" >> apache_beam.Create(chunks, reshuffle=True)
                | "build" >> apache_beam.ParDo(_Build(recipe))
            )
        for chunk, _ in chunks:
            built(Journal(recipe.directory).chunk(chunk))

    def _pipeline(self) -> _Pipeline:
        return _Pipeline(self._options)


class _Pipeline:
    """A pipeline whose errors are those of the work: Beam puts them in its own, with a traceback."""

    def __init__(self, options: PipelineOptions):
        self._pipeline = apache_beam.Pipeline(options=options)

    def __enter__(self) -> apache_beam.Pipeline:
        return self._pipeline.__enter__()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self._pipeline.__exit__(kind, error, traceback)
        except (ValueError, OSError, ImportError):  # CorruptRecord is a ValueError
            raise
        except Exception as failed:
            cause = _innermost(failed)
            logging.getLogger(__name__).debug("pipeline failed", exc_info=failed)
            raise ValueError(f"the pipeline failed: {cause}") from failed


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _read(part: Part, recipe: Recipe) -> Iterator[tuple[str, list[Document]]]:
    yield from unbuilt_chunks(recipe, part)


class _Build(apache_beam.DoFn):
    """Builds chunks, of documents or of what was kept; one tokenizer a worker."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def setup(self) -> None:
        """Opens the tokenizer."""
        self._builder = Builder(self._recipe)

    def process(self, task: tuple[str, Any]) -> Iterator[str]:
        """Builds a chunk, unless another attempt has, and yields its name."""
        chunk, work = task
        if isinstance(work, Judgement):
            if self._builder.journal.chunk(chunk) is None:
                self._builder.build_kept(chunk, work)
        elif not is_done(self._recipe, chunk):
            self._builder.build(chunk, work)
        yield chunk
