"""Clients that are too many, too slow or too large."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from benchmarks.reliability.asking import Seen, ask, describe_seen, refused_as_overload, send, together
from benchmarks.reliability.burst import SIZE, bursts
from benchmarks.reliability.faults.scenario import Finding, Place, settle
from benchmarks.reliability.memory import MemoryWatch
from benchmarks.reliability.pictures import largest_upload
from benchmarks.reliability.profile import request
from deploy.local_server import LocalServer

_SLOW, _UPLOADS = 40, 40  # clients
_SLOW_S = 10.0  # seconds that they take


def full_queue(place: Place) -> Finding:
    """Bursts of four times the queue."""
    with place.server() as server:
        found = bursts(server, place.pool, rounds=3)
        over = time.monotonic()
        back = _next_right(server, place, over)
    told_at_once = bool(found["refused"]) and found["refused_ms"]["p95"] < found["answered_ms"]["p50"]
    saw = {"200": found["answered"], "503": found["refused"]}
    return Finding(
        f"three bursts of {SIZE} requests at the same moment on a queue of {server_queue(place)}",
        "as many as the queue holds are answered, the others get 503 before those are; nothing else happens",
        told_at_once and not found["neither"],
        {"requests": 3 * SIZE, "saw": saw, "right_ms": found["answered_ms"], "refused_ms": found["refused_ms"]},
        back,
        found,
    )


def server_queue(place: Place) -> str:
    """The length of the queue, from the settings."""
    return next(
        line.partition("=")[2]
        for line in place.config.read_text(encoding="utf-8").splitlines()
        if line.startswith("job_queue_size=")
    )


def slow_upload(place: Place) -> Finding:
    """Connections that send their picture byte by byte."""
    headers = "Content-Type: image/jpeg\r\nContent-Length: 100000\r\nX-Explain-Maps: none\r\n"
    return _among_slow(place, headers, b"\xff\xd8", _drip, f"{_SLOW} connections that send one byte every half second")


def slow_reader(place: Place) -> Finding:
    """Connections that ask for megabytes and hardly read."""
    jpeg = place.pool[0].jpeg
    headers = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
    headers += "X-Explain-Maps: guided_backprop,guided_gradcam\r\nX-Explain-Encoding: npy\r\n"
    return _among_slow(
        place, headers, jpeg, _sip, f"{_SLOW} connections that ask for 3 MB and read 1 KB every half second"
    )


def largest_uploads(place: Place) -> Finding:
    """All at the same moment."""
    with place.server() as server:
        upload = largest_upload(int(server.properties["max_request_size"]))
        headers = {"Content-Type": "image/bmp", "X-Explain-Maps": "none"}
        path, own = f"/predictions/{server.model}", hashlib.sha256(upload).hexdigest()

        def judged(status: int, _: Mapping[str, str], body: bytes) -> str:
            if status != 200:
                return f"status {status}: {body[:100]!r}"
            return "" if json.loads(body).get("image", {}).get("sha256", own) == own else "crossed"

        with MemoryWatch(server, every=0.1) as memory:
            seen = together([partial(send, server.address, path, upload, headers, judged)] * _UPLOADS)
        over = time.monotonic()
        back = _next_right(server, place, over)
    others = {one.saw for one in seen if not one.right and not refused_as_overload(one)}
    return Finding(
        f"{_UPLOADS} uploads of {len(upload)} bytes at the same moment (max_request_size {2**20 * 10})",
        "200 or, the queue being full, 503; the server does not run out of memory",
        not others and any(one.right for one in seen) and back is not None,
        {**describe_seen(seen), "refused_ms": _times(seen)},
        back,
        {
            "java_max_mib": memory.describe()["java_mib"]["max"],
            "worker_max_mib": memory.describe()["workers_mib"]["max"],
        },
    )


def _times(seen: list[Seen]) -> dict[str, float]:
    times = sorted(one.ms for one in seen if refused_as_overload(one))
    return {"p50": round(times[len(times) // 2], 1), "max": round(times[-1], 1)} if times else {}


def _next_right(server: LocalServer, place: Place, since: float, tries: int = 100) -> float | None:
    """Seconds from ``since`` until a client that asks again and again is answered."""
    for number in range(tries):
        one = ask(server.address, server.model, request(number, "prediction", "raw", place.pool[0]))
        if one.right:
            return round(one.ended - since, 2)
        time.sleep(0.1)
    return None


def _among_slow(
    place: Place, headers: str, start: bytes, slowly: Callable[[socket.socket, threading.Event], None], did: str
) -> Finding:
    """Ordinary clients beside slow ones."""
    over = threading.Event()
    with place.server() as server:
        with place.clients(server) as alone:
            settle(alone, 60)
        head = f"POST /predictions/{server.model} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode("ascii")
        slow = [_connected(server.address) for _ in range(_SLOW)]
        threads = [threading.Thread(target=slowly, args=(one, over), daemon=True) for one in slow]
        with MemoryWatch(server, every=0.5) as memory, place.clients(server) as beside:
            for one, thread in zip(slow, threads, strict=True):
                one.sendall(head + start)
                thread.start()
            time.sleep(_SLOW_S)
            still_open = sum(_open(one) for one in slow)
        ended = time.monotonic()
        over.set()
        for one, thread in zip(slow, threads, strict=True):
            thread.join()
            one.close()
        back = _next_right(server, place, ended)
    failed = {one.saw for one in beside.seen if not one.right}
    return Finding(
        f"{did}, for {_SLOW_S:.0f} s, beside four ordinary clients",
        "the ordinary clients are answered as before (503 only while the slow ones' requests fill the queue)",
        failed <= {"503"} and any(one.right for one in beside.seen) and back is not None,
        beside.describe(),
        back,
        {
            "alone_ms": alone.describe()["right_ms"],
            "slow_connections": _SLOW,
            "still_open_at_the_end": still_open,
            "java_max_mib": memory.describe()["java_mib"]["max"],
        },
    )


def _connected(address: str) -> socket.socket:
    parts = urlsplit(address)
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(10)
    one.connect((str(parts.hostname), parts.port))
    return one


def _drip(one: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):
        while not over.wait(0.5):
            one.sendall(b"\xff")


def _sip(one: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):
        while not over.wait(0.5):
            one.recv(1024)


def _open(one: socket.socket) -> bool:
    """Whether the server has not closed its end."""
    try:
        one.setblocking(False)
        return one.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        one.settimeout(10)
