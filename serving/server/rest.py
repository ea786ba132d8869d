"""TF Serving's REST API as an aiohttp application.

Paths are matched as tensorflow_serving/model_servers/http_rest_api_util.cc does: what begins with /v1/ but is no request
of the API, a wrong method included, is INVALID_ARGUMENT ("Malformed request", 400); any other path is 404.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from urllib.parse import unquote

import grpc
from aiohttp import web

from serving.server import inference, json_requests, json_responses, status_protos
from serving.server.errors import StatusError, invalid_argument, not_found
from serving.server.manager import ModelManager

MAX_BODY_BYTES = 256 * 2**20

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_RUN_PATH = re.compile(_MODEL + r":(?P<verb>classify|regress|predict)", re.IGNORECASE)
_READ_PATH = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)

_log = logging.getLogger(__name__)


def make_app(manager: ModelManager, executor: Executor) -> web.Application:
    """The application; requests are answered on `executor`, so that the event loop stays free to accept others."""
    api = _Api(manager, executor)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
    app.router.add_route("*", "/{path:.*}", api.handle)
    return app


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except StatusError as error:
        return _json(json_responses.error_body(error.message), error.http_status)
    except web.HTTPException as error:  # aiohttp's own: a body over the limit
        return _json(json_responses.error_body(error.text or error.reason), error.status)
    except web.RequestPayloadError as error:
        return _json(json_responses.error_body(f"the body cannot be read: {' '.join(str(error).split())}"), 400)
    except ConnectionError:  # the client has gone: aiohttp closes its side
        raise
    except Exception as error:
        _log.exception("REST %s %s failed", request.method, request.path)
        return _json(json_responses.error_body(f"{type(error).__name__}: {error}"), 500)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


class _Api:
    def __init__(self, manager: ModelManager, executor: Executor):
        self._manager = manager
        self._executor = executor
        self._verbs = {"predict": self._predict, "classify": self._classify, "regress": self._regress}

    async def handle(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if request.method == "POST" and (match := _RUN_PATH.fullmatch(path)):
            if (request.content_length or 0) > MAX_BODY_BYTES:  # said before it is sent
                raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length)
            body = await request.read()
            run = self._verbs[match["verb"].lower()]
            loop = asyncio.get_running_loop()
            return _json(await loop.run_in_executor(self._executor, run, _wanted(match), body))
        if request.method == "GET" and (match := _READ_PATH.fullmatch(path)):
            return _json(self._metadata(_wanted(match)) if match["metadata"] else self._status(_wanted(match)))
        if request.method == "GET" and path.lower() == "/v1/models":
            raise invalid_argument("Missing model name in request.")
        if path.lower().startswith("/v1/"):
            raise invalid_argument(f"Malformed request: {request.method} {path}")
        raise not_found(f"Not Found: {request.method} {path}: the API is under /v1/models/NAME")

    def _predict(self, wanted: tuple, body: bytes) -> bytes:
        document = json_requests.parse(body)
        name = json_requests.signature_name(document)
        with self._manager.use(*wanted) as servable:
            signature = servable.signature(name)
            if signature is None:
                raise invalid_argument(
                    f'Serving signature name: "{name or inference.DEFAULT_SIGNATURE}" not found in signature def'
                )
            inputs, rows = json_requests.predict_inputs(document, signature.inputs)
            return json_responses.predictions(signature.run(inputs), rows=rows)

    def _classify(self, wanted: tuple, body: bytes) -> bytes:
        document = json_requests.parse(body)
        name = json_requests.signature_name(document)
        examples = json_requests.examples(document)
        with self._manager.use(*wanted) as servable:
            return json_responses.classifications(*inference.classify(servable, name, examples))

    def _regress(self, wanted: tuple, body: bytes) -> bytes:
        document = json_requests.parse(body)
        name = json_requests.signature_name(document)
        examples = json_requests.examples(document)
        with self._manager.use(*wanted) as servable:
            return json_responses.regressions(inference.regress(servable, name, examples))

    def _status(self, wanted: tuple) -> bytes:
        return json.dumps(status_protos.as_dict(status_protos.status_response(self._manager.status(*wanted)))).encode()

    def _metadata(self, wanted: tuple) -> bytes:
        with self._manager.use(*wanted) as servable:
            return json.dumps(status_protos.metadata_dict(servable)).encode()


def _wanted(match: re.Match) -> tuple[str, int | None, str | None]:
    """Name, version and label in a matched path."""
    version = None
    if match["version"] is not None:
        version = int(match["version"]) if len(match["version"]) <= 19 else 2**63
        if version >= 2**63:
            raise StatusError(
                grpc.StatusCode.INVALID_ARGUMENT, f"Failed to convert version: {match['version']} to numeric."
            )
    return unquote(match["name"]), version, unquote(match["label"]) if match["label"] is not None else None
