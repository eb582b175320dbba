"""One hostile request, and how it is sent.

It is sent as the bytes it is: a client library would refuse or repair it.
"""

import http.client
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

Pair = tuple[bytes, bytes]
_FRAMED, _UNFRAMED = 60, 3  # seconds to wait for an answer to what is HTTP, and to what is none
_LARGEST_ANSWER = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A request as it goes onto the wire; Host and Content-Length are added there."""

    kind: str  # what was bent: "picture/PNG/flip", "json", …
    body: bytes = b""
    headers: list[Pair] = field(default_factory=list)
    path: bytes = b"/predictions/{model}"  # {model} is replaced by the served model's name
    method: bytes = b"POST"
    promised: int | None = None  # Content-Length that is sent, where it is not the body's
    framed: bool = True  # False: no HTTP that can be told apart, so that the server may also wait, or just close


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back. Status 0: the connection was closed, or nothing came in time, without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    complete: bool = False  # as many bytes as its header promised
    seconds: float = 0.0


def typed(content_type: bytes) -> Pair:
    """The header that says so."""
    return b"Content-Type", content_type


def send(address: str, model: str, hostile: Hostile) -> Reply:
    """Sends one request over a connection of its own and waits for each piece of the answer.

    Raises:
        ConnectionRefusedError: nobody listens any more.
    """
    parts, started = urlsplit(address), time.perf_counter()
    timeout = _FRAMED if hostile.framed else _UNFRAMED
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout) as connection:
        with suppress(OSError):  # refused before it was read; the answer may lie there all the same
            connection.sendall(octets(hostile, model))
            if hostile.promised is not None:
                connection.shutdown(socket.SHUT_WR)
        reply = _receive(connection, hostile.method)
    return replace(reply, seconds=time.perf_counter() - started)


def octets(hostile: Hostile, model: str) -> bytes:
    """What goes onto the wire."""
    path = hostile.path.replace(b"{model}", model.encode())
    length = len(hostile.body) if hostile.promised is None else hostile.promised
    headers = [(b"Host", b"localhost"), (b"Content-Length", b"%d" % length), *hostile.headers]
    lines = [b"%s %s HTTP/1.1" % (hostile.method, path), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + hostile.body


def _receive(connection: socket.socket, method: bytes) -> Reply:
    with http.client.HTTPResponse(connection, method=method.decode("latin-1")) as answer:
        try:
            answer.begin()
        except (OSError, http.client.HTTPException):  # closed, nothing in time, or no HTTP
            return Reply(status=0)
        headers, body = {name.lower(): value for name, value in answer.getheaders()}, b""
        with suppress(OSError, http.client.HTTPException):
            body = answer.read(_LARGEST_ANSWER)
    promised = 0 if method == b"HEAD" else int(headers.get("content-length", -1))
    status = answer.status if answer.version == 11 else 0
    return Reply(status=status, headers=headers, body=body, complete=len(body) == promised)
