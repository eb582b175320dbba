"""Sends a server mixed load, bursts larger than its queue, or one profile after the other; counts the answers."""

import itertools
import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection
from typing import Any

from benchmarks.load import Seen, Server, connection_to, in_threads, percentiles, post_for
from benchmarks.reliability.asking import ask, post
from benchmarks.reliability.memory import Sample, describe_samples, watched_memory
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.profile import FORMS, Asked, mixed, request

BURST = 64  # requests: four times TorchServe's queue, and twice the light front's
RETRY_PAUSE = 0.1  # seconds, on average, before a request that met a full queue is sent again
_MOST_RETRIES = 5000
_SEED = 5
_SLOWEST = "all maps"  # so that the queue does not empty while a burst arrives
PROFILES: Mapping[str, Mapping[str, str]] = {  # for sizing
    "prediction": {"X-Explain-Maps": "none"},
    "Grad-CAM": {"X-Explain-Maps": "gradcam"},
    "three maps": {},
    "all maps": {"X-Explain-Maps": "all"},
    "PNG sheet": {"Accept": "image/png"},
}
CONCURRENCIES = (1, 2, 4, 8)  # of sizing: below the queue, so that nothing is refused


@dataclass(frozen=True)
class Outcome:
    """What came of one request, which is sent again until it meets no full queue."""

    asked: Asked
    seen: Seen  # the request that was answered
    refusals: Sequence[Seen] = ()  # each answer 503 before

    @property
    def ms_with_retries(self) -> float:
        """From the first attempt to the answer's last byte."""
        return (self.seen.ended - (*self.refusals, self.seen)[0].started) * 1e3


def measure_load(
    server: Server,
    pool: Sequence[Drawn],
    *,
    requests: int | None = None,
    seconds: float,
    concurrency: int,
    pause: float = 0.0,
) -> tuple[dict[str, Any], list[Sample]]:
    """Puts a server under the mixed load for so many seconds at most, or until so many requests are answered.

    Each client sends one request after the other, with a pause of so many seconds between them.

    Returns:
        What a record says of it, and the samples of its memory.
    """
    numbers, outcomes, over = itertools.count(), list[Outcome](), threading.Event()
    most, deadline = requests or math.inf, time.monotonic() + seconds

    def client() -> None:
        with closing(connection_to(server.address)) as connection:
            while not over.wait(pause) and time.monotonic() < deadline and (number := next(numbers)) < most:
                outcomes.append(_answered(connection, server.model, mixed(number, pool, _SEED)))

    with watched_memory(server) as samples:
        in_threads([client] * concurrency, stop=over.set)
    found = summarise_outcomes(outcomes, requests)
    memory, good = describe_samples(samples), nothing_lost_or_crossed(found)
    return {"concurrency": concurrency, "outcomes": found, "memory": memory, "as_expected": good}, samples


def _answered(connection: HTTPConnection, model: str, asked: Asked) -> Outcome:
    """Keeps no bodies: an hour's would fill the memory."""
    refusals = list[Seen]()
    while (seen := post(connection, model, asked)).refused and len(refusals) < _MOST_RETRIES:
        refusals.append(seen)
        time.sleep(random.uniform(0.5, 1.5) * RETRY_PAUSE)
    return Outcome(replace(asked, body=b"", upload=b""), replace(seen, body=b""), refusals)


def summarise_outcomes(outcomes: Sequence[Outcome], requests: int | None = None) -> dict[str, Any]:
    """Counts what was lost, crossed, wrong and refused, and the percentiles of the answers' times.

    ``requests`` should have been answered; None: as many as there are numbers up to the highest.
    """
    numbers = Counter(one.asked.number for one in outcomes)
    statuses = Counter(one.seen.saw if one.seen.saw.isdigit() else "0" for one in outcomes)
    expected = requests if requests is not None else max(numbers, default=-1) + 1
    wrong = [one for one in outcomes if not one.seen.right]
    crossed = sum(one.seen.wrong.startswith("crossed") for one in wrong)
    refusals = [seen.ms for one in outcomes for seen in one.refusals]
    kinds: dict[str, list[float]] = defaultdict(list)
    for one in outcomes:
        kinds[one.asked.kind].append(one.seen.ms)
    return {
        "requests": expected,
        "answered": len(numbers),
        "lost": expected - len(numbers) + statuses["0"],
        "answered_twice": sum(count > 1 for count in numbers.values()),
        "crossed": crossed,
        "wrong": len(wrong) - crossed,
        "wrong_examples": [f"{one.asked.kind}, {one.asked.form}: {one.seen.wrong}" for one in wrong[:5]],
        "unidentified": sum(one.seen.wrong == "unidentified" for one in outcomes),
        "statuses": dict(sorted(statuses.items())),
        "forms": dict(sorted(Counter(one.asked.form for one in outcomes).items())),
        "refused_then_answered": sum(bool(one.refusals) for one in outcomes),
        "retries": len(refusals),
        "refusal_ms": percentiles(refusals),
        "ms": percentiles([one.seen.ms for one in outcomes]),
        "ms_with_retries": percentiles(
            [(one.seen.ended - (*one.refusals, one.seen)[0].started) * 1e3 for one in outcomes]
        ),
        "kinds": {kind: {"requests": len(times), **percentiles(times)} for kind, times in sorted(kinds.items())},
    }


def nothing_lost_or_crossed(summary: Mapping[str, Any]) -> bool:
    """Whether every request got exactly one answer, the right one, which says that it is its own."""
    return not any(summary[key] for key in ("lost", "answered_twice", "crossed", "wrong", "unidentified"))


def bursts(server: Server, pool: Sequence[Drawn], rounds: int = 5, size: int = BURST) -> dict[str, Any]:
    """Sends bursts and describes the refused and the answered requests: how many, and how fast they learn it."""
    seen: list[Seen] = []
    for start in range(0, rounds * size, size):
        numbers = range(start, start + size)
        asked = [request(number, _SLOWEST, FORMS[number % 3], pool[number % len(pool)]) for number in numbers]
        seen += in_threads([partial(ask, server, one) for one in asked])
    refused, answered = [one.ms for one in seen if one.refused], [one.ms for one in seen if one.right]
    return {
        "bursts": rounds,
        "requests_each": size,
        "answered": len(answered),
        "answered_ms": percentiles(answered),
        "refused": len(refused),
        "refused_ms": percentiles(refused),
        "neither": len(seen) - len(refused) - len(answered),
        "neither_examples": sorted({one.wrong for one in seen if not one.right and not one.refused})[:3],
    }


def measure_sizing(server: Server, pool: Sequence[Drawn], seconds: float) -> list[dict[str, Any]]:
    """Loads a server with one profile after the other, at each concurrency.

    Raises:
        WrongAnswer: an answer that is not 200.
    """
    pictures, measured = [one.jpeg for one in pool], []
    address = f"{server.address}/predictions/{server.model}"
    for profile, options in PROFILES.items():
        headers = {"Content-Type": "image/jpeg", **options}
        post_for(address, headers, pictures, 2, min(2.0, seconds / 2))  # warm up
        for concurrency in CONCURRENCIES:
            load = post_for(address, headers, pictures, concurrency, seconds)
            found = {"profile": profile, "concurrency": concurrency, "per_s": round(load.per_s, 1)}
            found |= {"requests": len(load.answers), **percentiles([one.ms for _, one in load.answers])}
            measured.append(found)
    return measured
