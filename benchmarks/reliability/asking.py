"""Single requests as a client sees them, and clients that go on asking while something happens to the server."""

import http.client
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from benchmarks.load import Seen, Server, percentiles, send, send_once
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.profile import Asked, judge, request

Value = TypeVar("Value")


def post(connection: http.client.HTTPConnection, model: str, asked: Asked) -> Seen:
    """Posts a request of the profile and judges its answer."""
    return send(connection, f"/predictions/{model}", asked.body, asked.headers, partial(judge, asked))


def ask(server: Server, asked: Asked) -> Seen:
    """Posts a request of the profile over a connection of its own."""
    judged = partial(judge, asked)
    return send_once(server.address, f"/predictions/{server.model}", asked.body, asked.headers, judged)


def get(server: Server, path: str, timeout: float = 10) -> Seen:
    """A GET that should be answered with 200, over a connection of its own."""
    return send_once(
        server.address, path, None, {}, lambda status, *_: "" if status == 200 else f"status {status}", timeout
    )


def ready(server: Server, timeout: float = 10) -> Seen:
    """The answer to the readiness probe."""
    return get(server, f"/predictions/{server.model}/1.0/healthz", timeout)


def until(found: Callable[[], Value], timeout: float, every: float = 0.1) -> Value:
    """What ``found`` returns as soon as that is true, or what it returns when the seconds are over."""
    deadline = time.monotonic() + timeout
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(every)
    return value


@dataclass(kw_only=True)
class Clients:
    """Clients that ask for predictions, each request over a new connection."""

    server: Server
    pool: Sequence[Drawn]
    seen: list[Seen] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def ask_next(self) -> Seen:
        """Sends the next request."""
        number = next(self._numbers)
        self.seen.append(ask(self.server, request(number, "prediction", "raw", self.pool[number % len(self.pool)])))
        return self.seen[-1]

    @property
    def right(self) -> list[Seen]:
        """The right answers so far."""
        return [one for one in list(self.seen) if one.right]

    def wait_until_back(self, since: float, timeout: float = 120) -> float | None:
        """Seconds from ``since`` to the first right answer to a request sent after it; None if none comes in time."""
        back = until(lambda: [one.ended for one in self.right if one.started > since], timeout, 0.02)
        return round(min(back) - since, 2) if back else None

    def settle(self, answers: int = 20, timeout: float = 60) -> None:
        """Waits until there are so many more right answers.

        Raises:
            TimeoutError: they have not come.
        """
        wanted = len(self.right) + answers
        if not until(lambda: len(self.right) >= wanted, timeout, 0.05):
            raise TimeoutError(f"no {answers} right answers in {timeout:g} s: {describe_seen(self.seen)}")


def describe_seen(seen: Sequence[Seen]) -> dict[str, Any]:
    """Counts of statuses and exceptions, answers that were another request's, times of the right answers."""
    return {
        "requests": len(seen),
        "saw": dict(sorted(Counter(one.saw for one in seen).items())),
        "crossed": sum(one.wrong.startswith("crossed") for one in seen),
        "wrong_examples": sorted({one.wrong for one in seen if not one.right})[:3],
        "right_ms": percentiles([one.ms for one in seen if one.right]),
    }
