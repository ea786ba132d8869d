"""Making inputs of texts on other machines: tf.data's service, for runs whose own processors cannot keep up.

A service is one process, which works on all cores of its machine (`serve`, `garden data-service`). Of several, each reads all
texts and makes every so many-th batch, so that a run gets the very batches that it would have made itself, in their order,
whatever the number of services.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import grpc
import tensorflow as tf

from garden.tasks.inputs import Elsewhere
from training.cluster import host_and_port, listening
from training.rendezvous import LOST, SILENCE_SECONDS

logger = logging.getLogger(__name__)

PORT = 5050
START_SECONDS = 10.0
"""How long a service may take to answer at start."""
LOOK_SECONDS = 5.0


class ServiceLostError(RuntimeError):
    """A tf.data service ended, or was started anew, while a run learnt from what it makes."""

    exit_code = LOST


@contextlib.contextmanager
def served_by(services: Sequence[str]) -> Iterator[Elsewhere | None]:
    """Gives what a task's `fit` takes as `elsewhere`, for services at addresses that `services_at` returned; None without any.

    Within the block a service that ends ends the run: with a ServiceLostError, or, where TensorFlow waits for the service
    without end, with the process and exit code `LOST`. Started again, the run goes on from its checkpoint.
    """
    if not services:
        yield None
        return
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(services, over), name="data service", daemon=True)
    watch.start()
    try:
        yield _through(services)
    except tf.errors.OpError as error:
        if "dispatcher" in str(error):
            raise ServiceLostError(_lost(", ".join(services), "it was started anew")) from error
        raise
    finally:
        over.set()


def _through(services: Sequence[str]) -> Elsewhere:
    run = uuid.uuid4().hex  # an earlier one's batches are not this one's

    def elsewhere(
        batches: tf.data.Dataset, make: Callable[[tf.data.Dataset], tf.data.Dataset], worker: int
    ) -> tf.data.Dataset:
        parts = [
            make(batches.shard(len(services), index)).apply(
                tf.data.experimental.service.distribute(
                    processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                    service=f"grpc://{address}",
                    job_name=f"{run}-{worker}-{index}",
                    # One consumer, and so in order.
                    consumer_index=0,
                    num_consumers=1,
                )
            )
            for index, address in enumerate(services)
        ]
        if len(parts) == 1:
            return parts[0]
        return tf.data.Dataset.choose_from_datasets(parts, tf.data.Dataset.range(len(parts)).repeat())

    return elsewhere


def services_at(addresses: str | None) -> list[str]:
    """Returns the addresses of services that a config names, "host:port", or several with commas; none for None.

    Raises ValueError where an address is none, or nobody answers there.
    """
    if addresses is None:
        return []
    services = [address.strip() for address in addresses.split(",")]
    for address in services:
        try:
            host_and_port(address)
        except ValueError:
            raise ValueError(
                f'data.service: expected host:port, or several with commas, got "{addresses}"; garden data-service prints '
                "its own"
            ) from None
    for address in services:
        with grpc.insecure_channel(address) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
            except grpc.FutureTimeoutError:
                raise ValueError(
                    f"data.service: no tf.data service answers at {address}; start one there: garden data-service --port "
                    f"{host_and_port(address)[1]}"
                ) from None
    return services


def _watch(services: Sequence[str], over: threading.Event) -> None:
    heard = dict.fromkeys(services, time.monotonic())
    while not over.wait(LOOK_SECONDS):
        for address in services:
            with contextlib.suppress(OSError):
                socket.create_connection(host_and_port(address), timeout=LOOK_SECONDS).close()
                heard[address] = time.monotonic()
            if time.monotonic() - heard[address] > SILENCE_SECONDS and not over.is_set():
                # The main thread is inside of TensorFlow, which waits for the service and hears no signals.
                logger.error("garden: %s", _lost(address, f"nobody answered for {SILENCE_SECONDS:g} s"))
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                os._exit(LOST)


def _lost(address: str, why: str) -> str:
    return (
        f"data.service: {address} is lost: {why}; start it again, and then the run, which goes on from its checkpoint"
    )


@contextlib.contextmanager
def serve(port: int = PORT, host: str = "127.0.0.1") -> Iterator[str]:
    """Runs a service while the block lasts, and gives its address.

    Args:
        port: 0: a free one.
        host: what machines that train call this one.

    Raises ValueError where the port is in use.
    """
    service = tf.data.experimental.service
    if port:
        with listening(f"{host}:{port}"):
            pass  # TensorFlow would share it with another process
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    port = int(dispatcher.target.rpartition(":")[2])
    worker = service.WorkerServer(
        service.WorkerConfig(dispatcher_address=f"127.0.0.1:{port}", worker_address=f"{host}:%port%", port=0)
    )
    try:
        yield f"{host}:{port}"
    finally:
        del worker, dispatcher
