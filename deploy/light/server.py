"""The front without PyTorch and Java, and the only file that knows Starlette and uvicorn.

It answers at TorchServe's addresses, and at those of KServe's protocols V1 and V2, from archives as ``make archive``
writes them. ``openapi.yaml`` beside this file describes the addresses.
"""

import asyncio
import ctypes
import logging
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any
from urllib.parse import parse_qsl

import prometheus_client
import uvicorn
import yaml
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from deploy.light.models import SERVER, ClientGone, Models, Served
from handler.errors import BadRequest, ModelError, RequestError, TooLarge, TooSlow, Unauthorized, Unavailable
from handler.page.compose import page_answer
from handler.protocol.answer import HTML, PROBE, Answer, error_answer, json_answer, refusal
from handler.protocol.kserve import JSON_SIZE
from handler.protocol.options import shown
from handler.protocol.request import MOST_UNPACKED, accepted, gunzipped, named_once
from handler.protocol.row import Row, header_options
from handler.telemetry.request_log import keep_on_one_line, request_line

logger = logging.getLogger(__name__)
MOST_BYTES = MOST_UNPACKED  # of a body
_MOST_ARRIVED = 16 * MOST_BYTES  # of bodies that arrive at the same time
_MOST_FIELDS = 100  # of a form
_TOO_MANY = f"the form has too many fields, valid are at most {_MOST_FIELDS}"
_BACKLOG = 128  # connections that wait, and that asyncio accepts at once; fewer where descriptors are few
_MMAP_THRESHOLD, _LARGE = -3, 2**21  # of mallopt: so many bytes and more are given back to the system at once
SLOWEST = 60.0  # seconds that a client may take for its request, and for a part of the answer
_ON_ITS_WAY = 1.0  # seconds after SIGTERM in which requests of open connections are answered
_CLOSING = (b"connection", b"close")
_OPENAPI = Path(__file__).with_name("openapi.yaml")
_Told = Answer | Mapping[str, Any]  # a mapping is the content of a JSON answer
_Endpoint = Callable[[Request], _Told | Awaitable[_Told]]


def read_fields(content_type: str, body: bytes) -> dict[str, Any]:
    """The parts of a form by name, or the body alone; BadRequest says why a form cannot be read."""
    media, parameters = parse_options_header(content_type)
    if media == b"application/x-www-form-urlencoded":
        try:
            text = body.decode("latin-1")
            pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1", max_num_fields=_MOST_FIELDS)
        except ValueError as error:
            raise BadRequest(_TOO_MANY) from error
        return named_once((name, value.encode("latin-1")) for name, value in pairs)
    if media != b"multipart/form-data":
        return {"body": body}
    parts: list[tuple[str, bytes]] = []

    def add(part: Any) -> None:
        if len(parts) == _MOST_FIELDS:
            raise BadRequest(_TOO_MANY)
        if file := getattr(part, "file_object", None):
            file.seek(0)
        parts.append(((part.field_name or b"").decode("utf-8", "replace"), file.read() if file else part.value or b""))

    try:
        how = {"MAX_MEMORY_FILE_SIZE": MOST_BYTES, "UPLOAD_ERROR_ON_BAD_CTE": True}
        parser = FormParser("multipart/form-data", add, add, boundary=parameters.get(b"boundary"), config=how)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read ({error}), valid is multipart/form-data") from error
    return named_once(parts)


@dataclass
class Bodies:
    """The bodies that arrive, whose bytes together are bounded."""

    arrived: int = 0  # bytes, of all bodies that are not whole yet

    async def read(self, request: Request) -> bytes:
        """A request's body; raises TooLarge above ``MOST_BYTES``, TooSlow, and Unavailable for too many at once."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(SLOWEST):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    self.arrived += len(part)
                    if size > MOST_BYTES:
                        raise TooLarge(f"the body has more than {MOST_BYTES} bytes, valid are at most as many")
                    if self.arrived > _MOST_ARRIVED:
                        raise Unavailable("too many large bodies arrive at the same time; ask again later")
            return b"".join(parts)
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive in {SLOWEST:.0f} seconds") from error
        finally:
            self.arrived -= size


def read_row(request: Request, body: bytes, path: str, explains: bool) -> Row:
    """Translates a request; BadRequest says that a form, or an option in the address, is not valid."""
    headers = request.headers
    content_type, options = headers.get("content-type", ""), header_options(headers.items())
    encoding = headers.get("content-encoding", "")
    if encoding.lower() == "gzip" and "form" in content_type.lower():
        body, encoding = gunzipped(body), ""
    known: dict[str, Any] = {"accept": headers.get("accept", ""), "json_size": headers.get(JSON_SIZE.lower())}
    known |= {"path": path, "explains": explains, "content_type": content_type, "encoding": encoding}
    fields = read_fields(content_type, body) if body or request.method != "GET" else {}
    known["options"] = named_once([*options, *request.query_params.multi_items()])
    return Row(fields=fields, size=len(body), **known)


class Front:
    """Answers HTTP requests about models."""

    def __init__(self, models: Models) -> None:
        self._models, self._bodies = models, Bodies()

    def application(self, cors: Sequence[str] = ()) -> Any:
        """The ASGI application; ``cors`` are origins whose pages may read answers."""
        v1, v2 = "/v1/models/{name}", ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        predicting = ["/predictions/{name}", "/predictions/{name}/{below:path}", f"{v1}:predict"]
        predicting += [f"{model}/infer" for model in v2]
        explaining = ["/explanations/{name}", "/explanations/{name}/{below:path}", f"{v1}:explain", f"{v2[0]}/explain"]
        asking = {**dict.fromkeys(predicting, False), **dict.fromkeys(explaining, True)}  # whether it explains
        telling: dict[str, _Endpoint] = {
            "/": self._index,
            "/ping": lambda _: {"status": "Healthy"},
            "/openapi.json": lambda _: _openapi(),
            "/models/{name}": lambda request: self._find(request).service.answer_batch([_DESCRIBING])[0],
            "/v1/models": lambda _: {"models": self._models.names},
            "/v2": lambda _: SERVER,
            "/v2/health/live": lambda _: {"live": True},
            "/v2/health/ready": lambda _: {"ready": True},
        }
        telling |= dict.fromkeys(v2, lambda request: self._models.metadata(self._find(request)))
        telling |= dict.fromkeys((v1, *(f"{model}/ready" for model in v2)), self._ready)
        routes = [
            Route(path, self._guarded(self._asker(explains)), methods=_VERBS) for path, explains in asking.items()
        ]
        routes += [Route(path, self._guarded(tell), methods=["GET"]) for path, tell in telling.items()]
        application = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})
        application.router.redirect_slashes = False
        allowed: Any = {"allow_methods": _VERBS, "allow_headers": ["*"]}
        return CORSMiddleware(application, allow_origins=cors, **allowed) if cors else application

    def _guarded(self, answer: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that asks for the token, and turns every exception into an answer."""

        async def guarded(request: Request) -> Response:
            try:
                if request.scope["path"] not in _PROBES:  # of which no header says a part, as of ``request.url``
                    self._models.authorise(request.headers.get("authorization", ""))
                told = answer(request)
                told = await told if isinstance(told, Awaitable) else told
                return _response(told if isinstance(told, Answer) else json_answer(told, PROBE))
            except (ClientDisconnect, ClientGone):
                return _unasked(request, refusal(499, "ClientGone", "the client has gone"))  # which nobody reads
            except Exception as error:
                if not isinstance(error, RequestError):
                    logger.exception("a request failed")
                if isinstance(error, Unauthorized) and _opens_page(request):  # a page that asks for the token
                    locked = page_answer({"locked": True})
                    return _response(replace(locked, status=401, headers={**locked.headers, **error.headers}))
                return _unasked(request, error_answer(error))

        return guarded

    def _index(self, request: Request) -> _Told:
        """The first model's page; for other clients the names of all."""
        if not _opens_page(request):
            return {"models": self._models.names}
        row = Row(fields={}, accept=HTML, models=self._models.addresses)
        return self._models.find(self._models.names[0]).service.answer_batch([row])[0]

    def _find(self, request: Request) -> Served:
        return self._models.find(request.path_params["name"], request.path_params.get("version", ""))

    def _ready(self, request: Request) -> Mapping[str, Any]:
        return {"name": self._find(request).card.name, "ready": True}

    def _asker(self, explains: bool) -> _Endpoint:
        async def ask(request: Request) -> Answer:
            started, body = time.perf_counter(), b""
            model, path = self._models.below(**{"version": "", "below": "", **request.path_params})
            try:
                self._models.queue.admit()  # before megabytes are read for nothing
                body = await self._bodies.read(request)
                read = partial(read_row, request, body, path, explains)
                is_form = "form" in request.headers.get("content-type", "").lower()  # which takes long if it is large
                row = replace(await asyncio.to_thread(read) if is_form else read(), models=self._models.addresses)
                answer = await self._models.ask(model, row, request.receive)
            except RequestError as error:
                answer = error_answer(error)
            return self._models.reported(model, answer, len(body), time.perf_counter() - started)

        return ask


_DESCRIBING = Row(fields={}, describes=True)
_VERBS = ["GET", "POST", "PUT"]
_PROBES = ("/ping", "/v2/health/live", "/v2/health/ready")


def _opens_page(request: Request) -> bool:
    path = request.scope["path"]
    asks = request.method == "GET" and (path == "/" or path.startswith("/predictions/"))
    return asks and accepted(request.headers.get("accept", "")) == HTML


def _unrouted(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    message = f"{request.method} {shown(request.scope['path'])} is not answered; /openapi.json lists what is"
    headers = getattr(error, "headers", None) or {}
    return _response(refusal(status, "NotFound" if status == 404 else "BadRequest", message, headers=headers))


def _unasked(request: Request, answer: Answer) -> Response:
    """The response to a request that no model was asked about; its line has no time."""
    logger.info(request_line(answer, str(uuid.uuid4()), int(request.headers.get("content-length", 0)), 0))
    return _response(answer)


@cache
def _openapi() -> Any:
    return yaml.safe_load(_OPENAPI.read_text(encoding="utf-8"))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, {**answer.headers, "Content-Type": answer.content_type})


class Connection(H11Protocol):
    """Closes connections whose clients take too long, and answers what is no HTTP as other errors."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol.connection_made``; with half of the process's descriptors in use, it is closed."""
        super().connection_made(transport)
        if 2 * len(self.connections) > getrlimit(RLIMIT_NOFILE)[0]:
            transport.abort()
        self._next_look = self.loop.call_later(SLOWEST, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol.connection_lost``."""
        self._next_look.cancel()  # which would keep the connection's bodies in memory
        super().connection_lost(exc)

    def _look(self, before: Any) -> None:
        """Closes the connection if it has no new request since ``before``, or the client reads no further."""
        rests = before is None or before.response_complete or self.flow.write_paused
        if self.cycle is before and rests:
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(SLOWEST, self._look, self.cycle)

    def shutdown(self) -> None:
        """Closes the connection a moment later, so that a request on its way is answered."""
        if _CLOSING not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSING]
        close = super().shutdown
        self.loop.call_later(_ON_ITS_WAY, lambda: None if self.transport.is_closing() else close())

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be read as HTTP, and closes the connection."""
        body = refusal(400, "BadRequest", msg).body
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n".encode() + body)
        self.transport.close()


def serve(
    paths: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 8082,
    waiting: int = 32,
    token_file: Path | None = None,
    cors: Sequence[str] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    beside: Callable[[Models], AbstractAsyncContextManager[Any]] = lambda _: nullcontext(),
) -> None:
    """Serves archives until SIGTERM or SIGINT, and then answers what has arrived.

    ``paths`` are archives, and folders of them; ``beside`` is what else answers meanwhile, from the same models. A
    ModelError says why an archive cannot be served, an OSError that a port is taken or a file cannot be read.
    """
    logging.basicConfig(level=logging.INFO)
    keep_on_one_line()
    for library in ("python_multipart", "uvicorn"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what clients do wrong is in their answers
    token = token_file.read_text(encoding="utf-8").strip() if token_file else ""
    if token_file and not re.fullmatch("[!-~]+", token):
        raise ModelError(f"{token_file} holds no token, valid is a line of printable ASCII without spaces")
    if key and not certificate:
        raise ModelError(f"the key {key} is of no use without a certificate")
    with suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
    models = Models(paths, waiting, token)
    off: Any = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False, "server_header": False}
    # a password that no key has: without one, a key with a passphrase is asked for at the terminal
    used: Any = {"http": Connection, "ssl_certfile": certificate, "ssl_keyfile": key, "ssl_keyfile_password": "none"}
    at_once = max(1, min(_BACKLOG, getrlimit(RLIMIT_NOFILE)[0] // 8))
    used |= {"backlog": at_once, "timeout_graceful_shutdown": int(SLOWEST)}
    config = uvicorn.Config(Front(models).application(cors), **used, **off)
    with _about(f"the certificate {certificate} and its key cannot be used, valid are PEM files without a passphrase"):
        config.load()
    with _about(f"port {port} of {host} cannot be used"):
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    with listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sees to sockets of its own alone
        with _about(f"port {metrics_port} of {host}, for the metrics, cannot be used"):
            metrics: Any = prometheus_client.start_http_server(metrics_port, host, models.exposition.registry)[0]
        metrics.handle_error = lambda *_: None  # clients that go would be logged
        metrics.RequestHandlerClass.timeout = SLOWEST
        at = f"port {port} of {host}, metrics at port {metrics_port}"
        asyncio.run(_run(uvicorn.Server(config), listening, beside(models), f"{', '.join(models.names)} at {at}"))


@contextmanager
def _about(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{what}: {error.strerror or error}") from error


async def _run(server: uvicorn.Server, on: socket.socket, beside: AbstractAsyncContextManager[Any], ready: str) -> None:
    async with beside:
        logger.info("serving %s", ready)
        await server.serve([on])
