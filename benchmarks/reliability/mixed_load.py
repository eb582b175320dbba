"""Sends a server the mixed load, or bursts larger than its queue, and counts the answers."""

import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any

from benchmarks.load import Seen, connection_to, in_threads, percentiles
from benchmarks.reliability.asking import ask, post, together
from benchmarks.reliability.memory import Sample, describe_samples, watched_memory
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.profile import FORMS, Asked, mixed, request
from deploy.local_server import LocalServer

BURST = 64  # requests: four times the queue
_SLOWEST = "all maps"  # so that the queue does not empty while a burst arrives


@dataclass(frozen=True, kw_only=True)
class Job:
    """How much load."""

    requests: int | None  # at most; None: as many as there is time for
    seconds: float  # at most
    concurrency: int
    seed: int = 5
    pause: float = 0.0  # seconds that each client waits between two requests
    retry_pause: float = 0.1  # seconds, on average, before a request that met a full queue is sent again
    most_retries: int = 5000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one request, which is sent again until it meets no full queue."""

    number: int
    kind: str
    form: str
    status: int  # 0: no answer
    wrong: str  # see judge
    ms: float  # of the request that was answered
    ms_with_retries: float
    refusals_ms: list[float]  # of each answer 503 before


def measure_load(server: LocalServer, pool: Sequence[Drawn], job: Job) -> tuple[dict[str, Any], list[Sample]]:
    """Puts a server under load.

    Returns:
        What a record says of it, and the samples of its memory.
    """
    with watched_memory(server) as samples:
        outcomes = run_mixed(server, pool, job)
    found = summarise_outcomes(outcomes, job.requests)
    memory, good = describe_samples(samples), nothing_lost_or_crossed(found)
    return {"concurrency": job.concurrency, "outcomes": found, "memory": memory, "as_expected": good}, samples


def run_mixed(server: LocalServer, pool: Sequence[Drawn], job: Job) -> list[Outcome]:
    """Puts a server under load and returns every request's outcome."""
    numbers, outcomes, over = itertools.count(), list[Outcome](), threading.Event()
    most, deadline = job.requests or math.inf, time.monotonic() + job.seconds

    def client() -> None:
        with closing(connection_to(server.address)) as connection:
            while not over.wait(job.pause) and time.monotonic() < deadline and (number := next(numbers)) < most:
                outcomes.append(_answered(connection, server.model, mixed(number, pool, job.seed), job))

    in_threads([client] * job.concurrency, stop=over.set)
    return outcomes


def _answered(connection: HTTPConnection, model: str, asked: Asked, job: Job) -> Outcome:
    refusals_ms = list[float]()
    first = seen = post(connection, model, asked)
    while seen.refused and len(refusals_ms) < job.most_retries:
        refusals_ms.append(seen.ms)
        time.sleep(random.uniform(0.5, 1.5) * job.retry_pause)
        seen = post(connection, model, asked)
    status, both = int(seen.saw) if seen.saw.isdigit() else 0, (seen.ended - first.started) * 1e3
    return Outcome(
        number=asked.number,
        kind=asked.kind,
        form=asked.form,
        status=status,
        wrong=seen.wrong,
        ms=seen.ms,
        ms_with_retries=both,
        refusals_ms=refusals_ms,
    )


def summarise_outcomes(outcomes: Sequence[Outcome], requests: int | None = None) -> dict[str, Any]:
    """Counts what was lost, crossed, wrong and refused, and the percentiles of the answers' times.

    ``requests`` should have been answered; None: as many as there are numbers up to the highest.
    """
    numbers = Counter(one.number for one in outcomes)
    expected = requests if requests is not None else max(numbers, default=-1) + 1
    wrong = [one for one in outcomes if one.wrong not in ("", "unidentified")]
    crossed = [one for one in wrong if one.wrong.startswith("crossed")]
    refusals = [ms for one in outcomes for ms in one.refusals_ms]
    kinds: dict[str, list[float]] = {kind: [] for kind in sorted({one.kind for one in outcomes})}
    for one in outcomes:
        kinds[one.kind].append(one.ms)
    return {
        "requests": expected,
        "answered": len(numbers),
        "lost": expected - len(numbers) + sum(one.status == 0 for one in outcomes),
        "answered_twice": sum(count > 1 for count in numbers.values()),
        "crossed": len(crossed),
        "wrong": len(wrong) - len(crossed),
        "wrong_examples": [f"{one.kind}, {one.form}: {one.wrong}" for one in wrong[:5]],
        "unidentified": sum(one.wrong == "unidentified" for one in outcomes),
        "statuses": dict(sorted(Counter(str(one.status) for one in outcomes).items())),
        "forms": dict(sorted(Counter(one.form for one in outcomes).items())),
        "refused_then_answered": sum(bool(one.refusals_ms) for one in outcomes),
        "retries": len(refusals),
        "refusal_ms": percentiles(refusals),
        "ms": percentiles([one.ms for one in outcomes]),
        "ms_with_retries": percentiles([one.ms_with_retries for one in outcomes]),
        "kinds": {kind: {"requests": len(times), **percentiles(times)} for kind, times in kinds.items()},
    }


def nothing_lost_or_crossed(summary: Mapping[str, Any]) -> bool:
    """Whether every request got exactly one answer, the right one, which says that it is its own."""
    return not any(summary[key] for key in ("lost", "answered_twice", "crossed", "wrong", "unidentified"))


def bursts(server: LocalServer, pool: Sequence[Drawn], rounds: int = 5, size: int = BURST) -> dict[str, Any]:
    """Sends bursts and describes the refused and the answered requests: how many, and how fast they learn it."""
    seen: list[Seen] = []
    for start in range(0, rounds * size, size):
        numbers = range(start, start + size)
        asked = [request(number, _SLOWEST, FORMS[number % 3], pool[number % len(pool)]) for number in numbers]
        seen += together([partial(ask, server, one) for one in asked])
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
