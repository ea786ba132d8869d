"""The process: binds the ports, loads the models, answers REST and gRPC, and stops without dropping what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
from aiohttp import web

from serving.server.errors import PortInUseError
from serving.server.grpc_service import add_services
from serving.server.manager import ModelManager
from serving.server.rest import make_app
from serving.server.warmup import load_and_warm_up

_log = logging.getLogger(__name__)
# Broken HTTP is answered with 400 and is the client's affair: aiohttp's tracebacks of it would fill the log. What goes
# wrong in this server is logged by rest.py.
_http_log = logging.getLogger(f"{__name__}.http")
_http_log.setLevel(logging.CRITICAL)

# Requests run at once, for each protocol. More than the cores, because a model that batches inside its graph waits for
# several requests before it computes.
_THREADS = 64
_MAX_GRPC_MESSAGE_BYTES = 2**31 - 1
_BACKLOG = 1024


class Server:
    """Serves the newest version of each model between `start` and `stop`; also a context manager.

    ```python
    with Server({"sentiment": "exports/sentiment"}, port=0, grpc_port=0) as server:
        requests.post(f"{server.url}/v1/models/sentiment:predict", json={"instances": ["good"]})
    ```
    """

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike],
        *,
        host: str = "127.0.0.1",
        port: int = 8501,
        grpc_port: int = 8500,
        poll_seconds: float = 1.0,
        grace_seconds: float = 10.0,
    ):
        """Checks the arguments and the directories; nothing is bound or loaded yet.

        `models` maps names to base directories with versions in them: `exports/sentiment` with `1/`, `2/`. Port 0 takes
        a free port. New versions are looked for every `poll_seconds`; `stop` gives requests `grace_seconds` to end.
        Raises ValueError or FileNotFoundError, naming the value and the remedy.
        """
        for name, number in (("port", port), ("grpc_port", grpc_port)):
            if not 0 <= number <= 65535:
                raise ValueError(f"{name}: expected 0 to 65535, got {number}")
        if port == grpc_port != 0:
            raise ValueError(f"port and grpc_port: expected two different ports, got {port} for both")
        self.host = host
        self.port = port
        self.grpc_port = grpc_port
        self._grace_seconds = grace_seconds
        self._manager = ModelManager(models, load_and_warm_up, poll_seconds=poll_seconds)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="garden-rest")
        self._grpc: grpc.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_rest: asyncio.Event | None = None
        self._rest_thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where REST is served: `http://127.0.0.1:8501`."""
        return f"http://{self._address(self.port)}"

    @property
    def grpc_address(self) -> str:
        """Where gRPC is served: `127.0.0.1:8500`."""
        return self._address(self.grpc_port)

    def start(self) -> None:
        """Loads the models and answers requests from then on; `port` and `grpc_port` are then the real ones.

        Raises PortInUseError before anything is loaded, and ModelLoadError when a model's newest version cannot be.
        """
        rest_socket = _bind(self.host, self.port, "--port")
        try:
            # Given back until the models are loaded, so that gRPC clients are refused and not kept waiting until then.
            _bind(self.host, self.grpc_port, "--grpc-port").close()
            self._manager.start()
            self._start_grpc()
            self._start_rest(rest_socket)
        except BaseException:
            rest_socket.close()
            self.stop()
            raise

    def stop(self) -> bool:
        """Takes no new requests, lets those under way finish, and returns whether all of them did in time."""
        watching_ended = self._manager.stop(self._grace_seconds)
        grpc_stopped = self._grpc.stop(self._grace_seconds) if self._grpc is not None else None
        if self._rest_thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already: it could not start
                self._loop.call_soon_threadsafe(self._stop_rest.set)
            self._rest_thread.join()
            self._rest_thread = None
        if grpc_stopped is not None:
            grpc_stopped.wait()
            self._grpc = None
        self._executor.shutdown(wait=False, cancel_futures=True)
        return watching_ended and self._manager.is_idle()

    def describe(self) -> str:
        """What is served and where, in one line for a log."""
        return f"serving {self._manager.describe()}: REST on {self.url}, gRPC on {self.grpc_address}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _address(self, port: int) -> str:
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def _start_grpc(self) -> None:
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="garden-grpc"),
            options=[
                ("grpc.max_receive_message_length", _MAX_GRPC_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_GRPC_MESSAGE_BYTES),
                # gRPC would otherwise share a taken port, and requests would go to either server.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_services(server, self._manager)
        try:
            self.grpc_port = server.add_insecure_port(self._address(self.grpc_port))
        except RuntimeError as error:
            raise PortInUseError(self.host, self.grpc_port, "--grpc-port") from error
        server.start()
        self._grpc = server

    def _start_rest(self, rest_socket: socket.socket) -> None:
        self.port = rest_socket.getsockname()[1]
        started: Future[None] = Future()
        self._rest_thread = threading.Thread(
            target=asyncio.run, args=(self._run_rest(rest_socket, started),), name="garden-rest-loop", daemon=True
        )
        self._rest_thread.start()
        try:
            started.result()
        except OSError as error:
            raise PortInUseError(self.host, self.port, "--port") from error

    async def _run_rest(self, rest_socket: socket.socket, started: Future[None]) -> None:
        self._loop, self._stop_rest = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(
            make_app(self._manager, self._executor),
            access_log=None,
            logger=_http_log,
            shutdown_timeout=self._grace_seconds,
        )
        try:
            await runner.setup()
            await web.SockSite(runner, rest_socket, backlog=_BACKLOG).start()
        except Exception as error:  # handed to the thread that waits in start(), which would wait forever
            await runner.cleanup()
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stop_rest.wait()
        await runner.cleanup()


def serve(
    models: Mapping[str, str | os.PathLike] | None = None,
    *,
    model_base: str | os.PathLike | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8501,
    grpc_port: int = 8500,
    poll_seconds: float = 1.0,
    grace_seconds: float = 10.0,
    on_ready: Callable[[Server], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests under way finish, and returns.

    Either `models`, names with their base directories, or one `model_base`, served as `name` (default: the directory's
    own). Logs a line when ready, and then calls `on_ready` with the running server, whose `port` and `grpc_port` are
    the real ones. Arguments and errors are those of `Server`; a second signal ends the process at once.
    """
    if (models is None) == (model_base is None):
        raise ValueError("expected either models, names with base directories, or one model_base")
    if models is None:
        models = {name or Path(model_base).resolve().name: model_base}
    server = Server(
        models, host=host, port=port, grpc_port=grpc_port, poll_seconds=poll_seconds, grace_seconds=grace_seconds
    )
    # What was imported stays: left out of every later collection, it does not make requests wait for one.
    gc.freeze()
    server.start()
    stopping = threading.Event()

    def stop(number: int, frame: object) -> None:
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_DFL)
        stopping.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _log.info("ready: %s", server.describe())
        if on_ready is not None:
            on_ready(server)
        stopping.wait()
        _log.info("stopping: requests under way have %g s to finish", grace_seconds)
    finally:
        finished = server.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not finished:
        # The interpreter waits for its threads, and one that runs a graph cannot be interrupted.
        _log.warning("requests were still under way after %g s: ending without them", grace_seconds)
        logging.shutdown()
        os._exit(1)
    _log.info("stopped")


def _bind(host: str, port: int, option: str) -> socket.socket:
    """A bound socket that does not listen yet. Raises PortInUseError, or ValueError for a host that is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ValueError(f"host {host!r}: not an address of this machine: 127.0.0.1 is") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(host, port, option) from error
        if error.errno == errno.EACCES:
            raise PermissionError(f"port {port} on {host} is reserved for root: choose one from 1024 up") from error
        raise ValueError(f"host {host!r}, port {port}: {error.strerror}: is it an address of this machine?") from error
    return bound
