"""A build on the cores of one machine: processes of one TensorFlow thread each, which end when the build ends, however."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from training.corpora.build import Runner, cores
from training.corpora.chunks import Builder, Judgement, Recipe, unbuilt_chunks
from training.corpora.documents import Document
from training.corpora.journal import ChunkReport
from training.corpora.parts import Part

RARELY = (70_000, 10, 10)
"""How often Python looks for garbage in cycles, a hundredth as often as by default: a build makes none, and looking through all
documents at hand takes a seventh of its time."""

_builder: Builder | None = None  # a worker process's own


class Local(Runner):
    """Builds with `workers` processes; with one, in this process.

    A part is read by the worker that builds its chunks where there are parts enough for all; otherwise this process reads, and
    hands chunks out.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers or cores()

    def build(self, recipe: Recipe, parts: Sequence[Part], built: Callable[[ChunkReport], None]) -> None:
        """Reads parts and builds their chunks."""
        if not parts:
            return
        if self.workers == 1:
            builder = Builder(recipe)
            with _rare_collections():
                for part in parts:
                    for chunk, documents in unbuilt_chunks(recipe, part):
                        built(builder.build(chunk, documents))
            return
        if len(parts) >= 2 * self.workers:
            tasks = ((_build_part, part) for part in parts)
        else:
            tasks = ((_build_chunk, *task) for part in parts for task in unbuilt_chunks(recipe, part))
        self._run(recipe, tasks, built)

    def build_kept(
        self, recipe: Recipe, chunks: Iterable[tuple[str, Judgement]], built: Callable[[ChunkReport], None]
    ) -> None:
        """Builds chunks that were kept."""
        if self.workers == 1:
            builder = None
            with _rare_collections():
                for chunk, judgement in chunks:
                    builder = builder or Builder(recipe)
                    built(builder.build_kept(chunk, judgement))
            return
        self._run(recipe, ((_build_kept, *task) for task in chunks), built)

    def _run(self, recipe: Recipe, tasks: Iterable[tuple], built: Callable[[ChunkReport], None]) -> None:
        """Has the workers do tasks, of which few are held at a time."""
        with self._pool(recipe) as pool:
            active: set[Future] = set()

            def take(done: Iterable[Future]) -> None:
                for future in done:
                    active.discard(future)
                    for report in future.result():
                        built(report)

            for function, *arguments in tasks:
                active.add(pool.submit(function, *arguments))
                if len(active) > self.workers:  # one waits, so that no worker does
                    take(wait(active, return_when=FIRST_COMPLETED).done)
            while active:
                take(wait(active, return_when=FIRST_COMPLETED).done)

    @contextlib.contextmanager
    def _pool(self, recipe: Recipe) -> Iterator[ProcessPoolExecutor]:
        # Not fork: TensorFlow's threads do not survive it.
        pool = ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(recipe,)
        )
        try:
            yield pool
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker was killed, perhaps because memory ran out; run the command again, perhaps with fewer --workers: it "
                "goes on where it stopped"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def one_thread() -> None:
    """Gives this process's TensorFlow one thread, and no accelerator; without effect once it has computed something."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    often = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*often)


def _begin(recipe: Recipe) -> None:
    """Makes this process a worker."""
    global _builder
    gc.set_threshold(*RARELY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that began the build
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True).start()
    one_thread()
    _builder = Builder(recipe)


def _end_with(parent: int) -> None:
    """Ends this process when its parent does: who kills a build does not mean to leave half of it running."""
    multiprocessing.connection.wait([parent])
    os._exit(1)


def _build_part(part: Part) -> list[ChunkReport]:
    return _builder.build_part(part)


def _build_chunk(chunk: str, documents: list[Document]) -> list[ChunkReport]:
    return [_builder.build(chunk, documents)]


def _build_kept(chunk: str, judgement: Judgement) -> list[ChunkReport]:
    return [_builder.build_kept(chunk, judgement)]
