"""Single requests as a client sees them, and clients that go on asking while something happens to the server."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.reliability.mixed_load import percentiles
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.profile import Asked, judge, request


@dataclass(frozen=True)
class Seen:
    """What came of one request."""

    started: float  # time.monotonic()
    ended: float
    saw: str  # the status, or the name of the exception that a client would meet
    wrong: str  # what is wrong with it, see judge
    body: bytes = b""

    @property
    def ms(self) -> float:
        """From the connection's start to the answer's last byte."""
        return (self.ended - self.started) * 1e3

    @property
    def right(self) -> bool:
        """Whether it is the answer that was asked for."""
        return self.wrong in ("", "unidentified")


Judge = Callable[[int, Mapping[str, str], bytes], str]


def send(
    address: str, path: str, body: bytes | None, headers: Mapping[str, str], judged: Judge, timeout: float = 90
) -> Seen:
    """One request over a connection of its own: a POST, or a GET where there is no body."""
    started = time.monotonic()
    parts = urlsplit(address)
    try:
        with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)) as connection:
            connection.request("GET" if body is None else "POST", path, body, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return Seen(started, time.monotonic(), type(error).__name__, f"no answer: {error!r}")
    ended = time.monotonic()
    wrong = judged(answer.status, dict(answer.getheaders()), content)
    return Seen(started, ended, str(answer.status), wrong, content)


def ask(address: str, model: str, asked: Asked, timeout: float = 90) -> Seen:
    """Posts a request of the profile and judges its answer."""
    return send(
        address,
        f"/predictions/{model}",
        asked.body,
        asked.headers,
        lambda status, headers, body: judge(asked, status, headers, body),
        timeout,
    )


def get(address: str, path: str, timeout: float = 10) -> Seen:
    """A GET that should be answered with 200."""
    return send(address, path, None, {}, lambda status, _, __: "" if status == 200 else f"status {status}", timeout)


def together(calls: Sequence[Callable[[], Seen]]) -> list[Seen]:
    """Calls all at the same moment, each in a thread of its own."""
    barrier, seen = threading.Barrier(len(calls)), list[Seen]()

    def one(call: Callable[[], Seen]) -> None:
        barrier.wait()
        seen.append(call())

    threads = [threading.Thread(target=one, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


@dataclass
class Clients:
    """Clients that ask for predictions, one request after the other, while the block runs."""

    address: str
    model: str
    pool: Sequence[Drawn]
    count: int = 4
    pause: float = 0.02  # seconds that each waits between two requests
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self._over, self._numbers = threading.Event(), itertools.count()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            number = next(self._numbers)
            asked = request(number, "prediction", "raw", self.pool[number % len(self.pool)])
            self.seen.append(ask(self.address, self.model, asked))
            self._over.wait(self.pause)

    def wait_until_back(self, since: float, timeout: float = 120) -> float | None:
        """Seconds from ``since`` to the first right answer to a request sent after it; None if none comes in time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended = [one.ended for one in list(self.seen) if one.started > since and one.right]
            if ended:
                return round(min(ended) - since, 2)
            time.sleep(0.02)
        return None

    def describe(self) -> dict[str, Any]:
        """What they saw, for a record."""
        return describe_seen(self.seen)


def describe_seen(seen: Sequence[Seen]) -> dict[str, Any]:
    """Counts of statuses and exceptions, answers that were another request's, times of the right answers."""
    return {
        "requests": len(seen),
        "saw": dict(sorted(Counter(one.saw for one in seen).items())),
        "crossed": sum(one.wrong.startswith("crossed") for one in seen),
        "wrong_examples": sorted({one.wrong for one in seen if not one.right})[:3],
        "right_ms": percentiles([one.ms for one in seen if one.right]),
    }


def refused_as_overload(one: Seen) -> bool:
    """Whether the queue was full."""
    return one.saw == "503"
