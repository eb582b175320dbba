"""A low load for long, and whether the workers' memory grows meanwhile."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.reliability.memory import Sample, describe_samples, watched_memory
from benchmarks.reliability.mixed_load import Job, nothing_lost_or_crossed, run_mixed, summarise_outcomes
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.slope import CONFIDENCE, LARGEST, memory_slope
from deploy.local_server import LocalServer

CONCURRENCY = 2
_PAUSE = 0.1  # seconds between two requests of a client
_NO_END = 10**9  # requests


def soak(server: LocalServer, pool: Sequence[Drawn], seconds: float) -> dict[str, Any]:
    """Loads a server for so many seconds; describes the answers, the memory and its slope.

    Raises:
        ValueError: too short for a slope.
    """
    with watched_memory(server, every=2.0) as samples:
        found = run_mixed(server, pool, Job(_NO_END, seconds, CONCURRENCY, pause=_PAUSE))
    summary = summarise_outcomes(found)
    return {
        "seconds": seconds,
        "concurrency": CONCURRENCY,
        "per_s": round(len(found) / seconds, 1),
        "outcomes": summary,
        "memory": describe_samples(samples),
        "slope": judge_samples(samples, seconds),
        "as_expected": nothing_lost_or_crossed(summary),
    }


def judge_samples(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """The slope of the workers' memory in MiB per minute, and whether it is let pass.

    A third of the seconds at the start, but at most five minutes, do not count. The Java process is not judged by a
    slope: its heap fills up to -Xmx before it is cleaned, which is no leak.
    """
    warm_up = min(300.0, seconds / 3)
    slope = memory_slope([one.s for one in samples], [one.workers for one in samples], warm_up)
    return {
        **{key: round(value, 3) for key, value in asdict(slope).items()},
        "confidence": CONFIDENCE,
        "warm_up_s": warm_up,
        "largest": LARGEST,
        "grows": slope.exceeds(LARGEST),
    }
