"""Single requests as a client sees them, and clients in threads, each of which sends one request after the other."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from deploy.light_server import LightServer
from deploy.local_server import DIRECT, LocalServer

Result = TypeVar("Result")
Server = LocalServer | LightServer
Judge = Callable[[int, Mapping[str, str], bytes], str]  # of status, headers and body; says what is wrong, "" if nothing


@dataclass(frozen=True, kw_only=True)
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

    @property
    def refused(self) -> bool:
        """Whether the queue was full."""
        return self.saw == "503"


def send(
    connection: http.client.HTTPConnection, path: str, body: bytes | None, headers: Mapping[str, str], judged: Judge
) -> Seen:
    """One request over a connection: a POST, or a GET where there is no body."""
    started = time.monotonic()
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()  # the next request opens it anew
        return Seen(started=started, ended=time.monotonic(), saw=type(error).__name__, wrong=f"no answer: {error!r}")
    ended = time.monotonic()
    wrong = judged(answer.status, dict(answer.getheaders()), content)
    return Seen(started=started, ended=ended, saw=str(answer.status), wrong=wrong, body=content)


def send_once(
    address: str, path: str, body: bytes | None, headers: Mapping[str, str], judged: Judge, timeout: float = 90
) -> Seen:
    """One request over a connection of its own."""
    with closing(connection_to(address, timeout)) as connection:
        return send(connection, path, body, headers, judged)


def described_workers(server: LocalServer, timeout: float) -> list[dict[str, Any]]:
    """The model's workers, as the management address describes them."""
    with DIRECT.open(f"{server.properties['management_address']}/models/{server.model}", timeout=timeout) as answer:
        workers: list[dict[str, Any]] = json.load(answer)[0]["workers"]
    return workers


class WrongAnswer(Exception):
    """An answer that no client would want, so that its time counts for nothing."""


@dataclass(frozen=True)
class Load:
    """One turn of load."""

    answers: list[tuple[int, Seen]]  # with the place of the picture in the list
    seconds: float  # from the first request to the last answer

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return len(self.answers) / self.seconds


def post_for(
    address: str, headers: Mapping[str, str], pictures: Sequence[bytes], concurrency: int, seconds: float
) -> Load:
    """Keeps ``concurrency`` requests under way for so many seconds, each with the next picture; one each at least.

    Raises:
        WrongAnswer: an answer that is not 200, or none.
    """
    turn, answers, started = itertools.count(), list[tuple[int, Seen]](), time.monotonic()

    def client() -> None:
        with closing(connection_to(address)) as connection:
            while True:
                place = next(turn) % len(pictures)
                seen = send(connection, urlsplit(address).path, pictures[place], headers, lambda *_: "")
                if seen.saw != "200":
                    raise WrongAnswer(f"{address} answered {dict(headers)} with {seen.saw}: {seen.body[:300]!r}")
                answers.append((place, seen))
                if seen.ended >= started + seconds:
                    return

    in_threads([client] * concurrency)
    return Load(answers, time.monotonic() - started)


def connection_to(address: str, timeout: float = 120) -> http.client.HTTPConnection:
    """A connection that opens with its first request, and stays open as long as the server lets it."""
    parts = urlsplit(address)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)


def in_threads(calls: Sequence[Callable[[], Result]], stop: Callable[[], object] = lambda: None) -> list[Result]:
    """Makes all calls at the same moment, each in its own thread, and returns their results.

    If a call fails or the program is interrupted, ``stop`` is called, which should make the others end.

    Raises:
        Exception: what the first call that fails raises.
    """
    barrier = threading.Barrier(len(calls))

    def together(call: Callable[[], Result]) -> Result:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(together, call) for call in calls]
        try:
            return [one.result() for one in running]
        except BaseException:
            stop()
            raise


@contextmanager
def repeating(step: Callable[[], object], every: float, threads: int = 1) -> Iterator[None]:
    """Calls ``step`` again and again while the block runs, in so many threads, each with pauses of so many seconds."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            step()
            over.wait(every)

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run) for _ in range(threads)]
        try:
            yield
        finally:
            over.set()
        for one in running:
            one.result()


def percentiles(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """The usual ones and the largest, rounded; empty where there are no values."""
    if not values:
        return {}
    found = np.percentile(values, (50, 95, 99, 100), method="inverted_cdf")
    return {name: round(float(one), digits) for name, one in zip(("p50", "p95", "p99", "max"), found, strict=True)}
