"""Clients that are too many, too slow or too large."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.load import in_threads, percentiles, repeating, send_once
from benchmarks.reliability.asking import describe_seen
from benchmarks.reliability.faults.scenario import Finding, scenario
from benchmarks.reliability.memory import most_held, watched_memory
from benchmarks.reliability.mixed_load import BURST, bursts
from benchmarks.reliability.pictures import largest_upload
from benchmarks.reliability.place import Place
from benchmarks.reliability.profile import request

SLOW, UPLOADS, GONE = 40, 40, 150  # clients
SECONDS = 10  # that the slow ones take


_AT_ONCE = "as many as the queue holds are answered, the others get 503 before those are; nothing else happens"


@scenario(_AT_ONCE, light=_AT_ONCE)
def full_queue(place: Place) -> Finding:
    """Three bursts of {requests_each} requests at the same moment on a queue of {queue}."""
    with place.server() as server:
        found = bursts(server, place.pool, rounds=3)
        back = place.back(server, time.monotonic())
        queue = server.properties["job_queue_size"]
    told_at_once = found["refused_ms"].get("p95", np.inf) < found["answered_ms"].get("p50", 0.0)
    sees = {"requests": 3 * BURST, "saw": {"200": found["answered"], "503": found["refused"]}}
    sees |= {"right_ms": found["answered_ms"], "refused_ms": found["refused_ms"]}
    return Finding(
        as_expected=told_at_once and not found["neither"], sees=sees, back_s=back, detail={"queue": queue, **found}
    )


_AS_BEFORE = "the ordinary clients are answered as before (503 only while the slow ones' requests fill the queue)"


@scenario(_AS_BEFORE, light=_AS_BEFORE)
def slow_upload(place: Place) -> Finding:
    """{SLOW} connections that send one byte every half second for {SECONDS} s, beside four ordinary clients."""
    headers = "Content-Type: image/jpeg\r\nContent-Length: 100000\r\nX-Explain-Maps: none\r\n"
    return _among_slow(place, headers, b"\xff\xd8", lambda one: one.sendall(b"\xff"))


@scenario(_AS_BEFORE, light=_AS_BEFORE)
def slow_reader(place: Place) -> Finding:
    """{SLOW} connections that ask for 3 MB and read 1 KB every half second for {SECONDS} s, beside ordinary clients."""
    jpeg = place.pool[0].jpeg
    headers = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
    headers += "X-Explain-Maps: guided_backprop,guided_gradcam\r\nX-Explain-Encoding: npy\r\n"
    return _among_slow(place, headers, jpeg, lambda one: one.recv(1024))


_LARGEST = "200 or, the queue being full, 503; the server does not run out of memory"


@scenario(_LARGEST, light=_LARGEST)
def largest_uploads(place: Place) -> Finding:
    """{UPLOADS} uploads of {bytes} bytes at the same moment (max_request_size {limit})."""
    with place.server() as server:
        limit = int(server.properties["max_request_size"])
        upload = largest_upload(limit)
        headers = {"Content-Type": "image/bmp", "X-Explain-Maps": "none"}
        own = hashlib.sha256(upload).hexdigest()

        def judged(status: int, _: Mapping[str, str], body: bytes) -> str:
            if status != 200:
                return f"status {status}: {body[:100]!r}"
            return "" if json.loads(body).get("image", {}).get("sha256", own) == own else "crossed"

        path = f"/predictions/{server.model}"
        with watched_memory(server, every=0.1) as samples:
            seen = in_threads([partial(send_once, server.address, path, upload, headers, judged)] * UPLOADS)
        back = place.back(server, time.monotonic())
    others = {one.saw for one in seen if not one.right and not one.refused}
    good = not others and any(one.right for one in seen) and back is not None
    sees = {**describe_seen(seen), "refused_ms": percentiles([one.ms for one in seen if one.refused])}
    detail = {"bytes": len(upload), "limit": limit, **most_held(samples)}
    return Finding(as_expected=good, sees=sees, back_s=back, detail=detail)


@scenario(light="nothing is computed for those who have gone: the others are answered within a second, as before")
def gone_clients(place: Place) -> Finding:
    """{GONE} requests for all maps, three every tenth of a second, whose clients go at once, beside four others."""
    asked = request(0, "all maps", "raw", place.pool[0])
    headers = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
    with place.server() as server, place.clients(server) as clients:
        head = f"POST /predictions/{server.model} HTTP/1.1\r\nHost: localhost\r\n{headers}"
        head += f"Content-Length: {len(asked.body)}\r\n\r\n"
        clients.settle(60)
        for number in range(GONE):
            with _connected(server.address) as one:
                one.sendall(head.encode("ascii") + asked.body)
            time.sleep(0.1 if number % 3 == 2 else 0)
        ended = time.monotonic()
        back = clients.wait_until_back(ended)
        clients.settle()
    sees = describe_seen(clients.seen)
    good = all(one.right for one in clients.seen) and sees["right_ms"]["max"] < 1000
    return Finding(as_expected=good, sees=sees, back_s=back)


def _among_slow(place: Place, headers: str, start: bytes, slowly: Callable[[socket.socket], object]) -> Finding:
    """Ordinary clients beside slow ones."""
    with place.server() as server, ExitStack() as connections:
        with place.clients(server) as alone:
            alone.settle(60)
        head = f"POST /predictions/{server.model} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("ascii")
        slow = [connections.enter_context(_connected(server.address)) for _ in range(SLOW)]

        def go_on() -> None:
            for one in slow:
                with suppress(OSError):
                    slowly(one)

        with watched_memory(server, every=0.5) as samples, place.clients(server) as beside:
            for one in slow:
                one.sendall(head + start)
                one.setblocking(False)
            with repeating(go_on, 0.5):
                time.sleep(SECONDS)
                ports = {one.getsockname()[1] for one in slow}
                held = [one for one in psutil.Process().net_connections("tcp") if one.laddr.port in ports]
                still_open = sum(one.status == psutil.CONN_ESTABLISHED for one in held)
            ended = time.monotonic()
        connections.close()
        back = place.back(server, ended)
    failed = {one.saw for one in beside.seen if not one.right}
    good = failed <= {"503"} and any(one.right for one in beside.seen) and back is not None
    detail = {
        "alone_ms": describe_seen(alone.seen)["right_ms"],
        "slow_connections": SLOW,
        "still_open_at_the_end": still_open,
        **most_held(samples),
    }
    return Finding(as_expected=good, sees=describe_seen(beside.seen), back_s=back, detail=detail)


def _connected(address: str) -> socket.socket:
    parts = urlsplit(address)
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(10)
    one.connect((str(parts.hostname), parts.port))
    return one
