"""Posts pictures from several threads, each over one connection that stays open."""

import http.client
import itertools
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.ratios import percentile


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

    def percentile_ms(self, percent: int) -> float:
        """Of the answers' times."""
        return percentile([answer.ms for answer in self.answers], percent)


def post_for(
    address: str, headers: Mapping[str, str], pictures: Sequence[bytes], concurrency: int, seconds: float
) -> Load:
    """Keeps ``concurrency`` requests under way for so many seconds, each with the next picture; one each at least.

    Raises:
        OSError: the server cannot be reached.
    """
    turn, failures = itertools.count(), list[Exception]()
    collected: list[list[Answer]] = [[] for _ in range(concurrency)]
    started = time.perf_counter()

    def client(answers: list[Answer]) -> None:
        try:
            with closing(_Connection(address, headers)) as connection:
                while not answers or time.perf_counter() < started + seconds:
                    place = next(turn) % len(pictures)
                    answers.append(connection.post(place, pictures[place]))
        except Exception as error:  # a thread's exception would only be printed
            failures.append(error)

    threads = [threading.Thread(target=client, args=(answers,)) for answers in collected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    if failures:
        raise failures[0]
    return Load([answer for answers in collected for answer in answers], spent)


class _Connection:
    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._path, self._headers = parts.path, headers

    def post(self, place: int, picture: bytes) -> Answer:
        started = time.perf_counter()
        self._connection.request("POST", self._path, picture, dict(self._headers))
        answer = self._connection.getresponse()
        body = answer.read()
        return Answer(place, answer.status, body, (time.perf_counter() - started) * 1e3)

    def close(self) -> None:
        self._connection.close()
