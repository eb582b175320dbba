"""Clients in threads, each of which sends one request after the other."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What came back for one picture."""

    picture: int  # place of the picture in the list
    status: int
    body: bytes
    ms: float


@dataclass(frozen=True)
class Load:
    """One turn of load."""

    answers: list[Answer]
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
        OSError: the server cannot be reached.
    """
    turn, answers, started = itertools.count(), list[Answer](), time.perf_counter()

    def client() -> None:
        with closing(connection_to(address)) as connection:
            connection.connect()
            while True:
                place, sent = next(turn) % len(pictures), time.perf_counter()
                connection.request("POST", urlsplit(address).path, pictures[place], dict(headers))
                answer = connection.getresponse()
                body, now = answer.read(), time.perf_counter()
                answers.append(Answer(place, answer.status, body, (now - sent) * 1e3))
                if now >= started + seconds:
                    return

    in_threads([client] * concurrency)
    return Load(answers, time.perf_counter() - started)


def connection_to(address: str, timeout: float = 120) -> http.client.HTTPConnection:
    """A connection that opens with its first request, and stays open as long as the server lets it."""
    parts = urlsplit(address)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)


def in_threads(calls: Sequence[Callable[[], Result]], stop: Callable[[], object] = lambda: None) -> list[Result]:
    """Calls all, each in a thread of its own, and returns what they return.

    Args:
        calls: what to call.
        stop: is called if a call fails or the program is interrupted: it should make the others end.

    Raises:
        Exception: what the first call that fails raises.
    """
    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(call) for call in calls]
        try:
            return [one.result() for one in running]
        except BaseException:
            stop()
            raise


@contextmanager
def repeating(step: Callable[[], object], every: float, threads: int = 1) -> Iterator[None]:
    """Calls ``step`` again and again while the block runs.

    Args:
        step: what to do.
        every: seconds of pause between two calls.
        threads: that do it side by side.
    """
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
