"""Resident memory of a running server over time: the Java frontend, and the workers together."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil

from deploy.local_server import LocalServer

_MIB = 2**20
_MOST_POINTS = 120  # of a series in a record


@dataclass(frozen=True)
class Sample:
    """At one moment."""

    s: float  # seconds since the watch began
    java: float  # MiB
    workers: float  # MiB, all together
    pids: tuple[int, ...]  # of the workers


def worker_processes(server: LocalServer) -> list[psutil.Process]:
    """The Python workers of a server; none if it does not run."""
    if server.pid is None:
        return []
    try:
        children = psutil.Process(server.pid).children(recursive=True)
        return [one for one in children if any("model_service_worker" in word for word in one.cmdline())]
    except psutil.Error:
        return []


@dataclass
class MemoryWatch:
    """Samples while the block runs."""

    server: LocalServer
    every: float = 1.0  # seconds
    samples: list[Sample] = field(default_factory=list)

    def __enter__(self) -> "MemoryWatch":
        self._over = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            sample = self._sample()
            if sample is not None:
                self.samples.append(sample)
            self._over.wait(self.every)

    def _sample(self) -> Sample | None:
        try:
            java = psutil.Process(self.server.pid or -1).memory_info().rss / _MIB
            workers = worker_processes(self.server)
            rss = sum(one.memory_info().rss for one in workers) / _MIB
        except (psutil.Error, ValueError):  # a process ended between two lines
            return None
        return Sample(time.monotonic() - self._started, java, rss, tuple(sorted(one.pid for one in workers)))

    def describe(self) -> dict[str, Any]:
        """For a record: the largest values, whether the workers stayed the same ones, and a thinned series."""
        return describe_samples(self.samples)


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """See ``MemoryWatch.describe``."""
    if not samples:
        return {}
    thinned = samples[:: -(-len(samples) // _MOST_POINTS)]
    return {
        "java_mib": {"first": round(samples[0].java), "last": round(samples[-1].java)}
        | {"max": round(max(one.java for one in samples))},
        "workers_mib": {"first": round(samples[0].workers), "last": round(samples[-1].workers)}
        | {"max": round(max(one.workers for one in samples))},
        "same_workers": len({one.pids for one in samples}) == 1,
        "series": {
            "s": [round(one.s) for one in thinned],
            "java_mib": [round(one.java) for one in thinned],
            "workers_mib": [round(one.workers, 1) for one in thinned],
        },
    }
