"""Resident memory of a running server over time: TorchServe's Java frontend, and what computes the answers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.load import Server, described_workers, repeating
from deploy.light_server import LightServer

MIB = 2**20
_MOST_POINTS = 120  # of a series in a record


@dataclass(frozen=True, kw_only=True)
class Sample:
    """At one moment."""

    s: float  # seconds since the watch began
    java: float  # MiB; 0 for a front without Java
    workers: float  # MiB, all together; the light front is its only worker
    pids: tuple[int, ...]  # of the workers


def worker_processes(server: Server) -> list[psutil.Process]:
    """The Python processes of a server that compute answers; none if it does not run."""
    try:
        process = psutil.Process(server.pid or -1)
        if isinstance(server, LightServer):
            return [process]
        children = process.children(recursive=True)
        return [one for one in children if any("model_service_worker" in word for word in one.cmdline())]
    except (psutil.Error, ValueError):
        return []


def named_worker(server: Server) -> psutil.Process:
    """The model's only worker: as the management address names it, or the light front itself."""
    if isinstance(server, LightServer):
        return psutil.Process(server.pid)
    (worker,) = described_workers(server, 60)
    return psutil.Process(worker["pid"])


@contextmanager
def watched_memory(server: Server, every: float = 1.0) -> Iterator[list[Sample]]:
    """Takes a sample every so many seconds while the block runs."""
    samples, started = list[Sample](), time.monotonic()

    def sample() -> None:
        with suppress(psutil.Error, ValueError):  # a process ended between two lines
            workers = {one.pid: one.memory_info().rss / MIB for one in worker_processes(server)}
            process = psutil.Process(server.pid or -1)
            java = 0.0 if process.pid in workers else process.memory_info().rss / MIB
            seconds, pids = time.monotonic() - started, tuple(sorted(workers))
            samples.append(Sample(s=seconds, java=java, workers=sum(workers.values()), pids=pids))

    with repeating(sample, every):
        yield samples


def most_held(samples: Sequence[Sample]) -> dict[str, int]:
    """The most MiB of TorchServe's Java, and of what computes."""
    found = describe_samples(samples)
    return {f"{name}_max_mib": found[f"{name}_mib"]["max"] for name in ("java", "workers") if f"{name}_mib" in found}


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """For a record: the largest values, whether the workers stayed the same ones, and a thinned series."""
    if not samples:
        return {}
    series = {"java_mib": [one.java for one in samples], "workers_mib": [one.workers for one in samples]}
    series = {key: its for key, its in series.items() if any(its)}
    every = slice(None, None, -(-len(samples) // _MOST_POINTS))
    thinned = {key: [round(one, 1) for one in its[every]] for key, its in series.items()}
    return {
        **{key: dict(first=round(its[0]), last=round(its[-1]), max=round(max(its))) for key, its in series.items()},
        "same_workers": len({one.pids for one in samples}) == 1,
        "series": {"s": [round(one.s) for one in samples[every]], **thinned},
    }
