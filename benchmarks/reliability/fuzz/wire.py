"""Sends requests as the bytes they are: a client library would refuse or repair them."""

import re
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.reliability.fuzz.input import Hostile

_UNFRAMED = 3  # seconds to wait for an answer to what is no HTTP
_LARGEST_ANSWER = 32 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """What came back. Status 0: the connection was closed, or nothing came in time, without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    complete: bool = False  # as many bytes as its header promised
    seconds: float = 0.0


def send(address: str, model: str, hostile: Hostile, patience: float = 60) -> Reply:
    """Sends one request over a connection of its own and waits ``patience`` seconds for each piece of the answer.

    Raises:
        ConnectionRefusedError: nobody listens any more.
    """
    parts, started = urlsplit(address), time.perf_counter()
    timeout = patience if hostile.framed else _UNFRAMED
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout) as connection:
        try:
            connection.sendall(_bytes(hostile, model))
            if hostile.promised is not None:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before it was read; the answer may lie there all the same
        reply = _receive(connection, hostile.method == b"HEAD")
    return Reply(*reply, seconds=time.perf_counter() - started)


def _bytes(hostile: Hostile, model: str) -> bytes:
    path = hostile.path.replace(b"{model}", model.encode())
    length = len(hostile.body) if hostile.promised is None else hostile.promised
    headers = [(b"Host", b"localhost"), (b"Content-Length", b"%d" % length), *hostile.headers]
    lines = [b"%s %s HTTP/1.1" % (hostile.method, path), *(b"%s: %s" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + hostile.body


def _receive(connection: socket.socket, bodiless: bool) -> tuple[int, dict[str, str], bytes, bool]:
    """The first answer that is not 100 Continue."""
    data, closed = b"", False
    while len(data) < _LARGEST_ANSWER:
        data = re.sub(rb"^HTTP/1\.1 100 [^\r]*\r\n\r\n", b"", data)
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            status, headers = _parse(head)
            length = 0 if bodiless else int(headers.get("content-length", -1))
            if closed or 0 <= length <= len(body):
                return status, headers, body[:length] if length >= 0 else body, 0 <= length <= len(body)
        if closed:
            break
        try:
            piece = connection.recv(1 << 20)
        except OSError:  # reset, or nothing came in time
            piece = b""
        data, closed = data + piece, not piece
    return 0, {}, data, False


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
    pairs = (line.partition(":") for line in lines)
    return int(found[1]) if found else 0, {name.strip().lower(): value.strip() for name, _, value in pairs}
