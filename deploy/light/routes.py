"""Answers HTTP requests about models, and the only file that knows Starlette.

Requests are answered at TorchServe's addresses, and at those of KServe's protocols V1 and V2. ``openapi.yaml`` beside
this file describes the addresses.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.light import limits
from deploy.light.forms import read_fields
from deploy.light.models import SERVER, ClientGone, Models, Served
from handler.errors import RequestError, TooLarge, TooSlow, Unauthorized, Unavailable
from handler.page.compose import page_answer
from handler.protocol.answer import HTML, PROBE, Answer, error_answer, json_answer, refusal
from handler.protocol.kserve import JSON_SIZE
from handler.protocol.options import shown
from handler.protocol.request import accepted, gunzipped, named_once
from handler.protocol.row import Row, header_options
from handler.telemetry.request_log import request_line

logger = logging.getLogger(__name__)
_VERBS = ["GET", "POST", "PUT"]
PROBES = ("/ping", "/v2/health/live", "/v2/health/ready")  # answered without a token
_DESCRIBING = Row(fields={}, describes=True)
_OPENAPI = Path(__file__).with_name("openapi.yaml")
_Told = Answer | Mapping[str, Any]  # a mapping is the content of a JSON answer
_Endpoint = Callable[[Request], _Told | Awaitable[_Told]]


@dataclass
class Bodies:
    """The bodies that arrive, whose bytes together are bounded."""

    arrived: int = 0  # bytes, of all bodies that are not whole yet

    async def read(self, request: Request) -> bytes:
        """A request's body; raises TooLarge above MOST_BYTES, TooSlow, and Unavailable for too many at once."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.SLOWEST):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    self.arrived += len(part)
                    if size > limits.MOST_BYTES:
                        raise TooLarge(f"the body has more than {limits.MOST_BYTES} bytes, valid are at most as many")
                    if self.arrived > limits.MOST_ARRIVED:
                        raise Unavailable("too many large bodies arrive at the same time; ask again later")
            return b"".join(parts)
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive in {limits.SLOWEST:.0f} seconds") from error
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
                if request.scope["path"] not in PROBES:  # of which no header says a part, as of ``request.url``
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
