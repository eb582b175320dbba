"""Runs the mixed load with locust in a process of its own and counts what came back."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ratios import percentile

_LOCUST_FILE = Path(__file__).with_name("locust_user.py")
_ROOT = Path(__file__).parents[2]
Outcome = Mapping[str, Any]  # one line that locust_user.py writes


@dataclass(frozen=True)
class Job:
    """What the locust process is told, as a file."""

    model: str
    pool: str  # folder of the pictures
    outcomes: str  # the file that it writes
    requests: int  # at most
    seconds: float  # at most
    concurrency: int
    seed: int = 5
    pause: float = 0.0  # seconds that each client waits between two requests
    retry_pause: float = 0.1  # seconds, on average, before a request that met a full queue is sent again
    most_retries: int = 5000

    @classmethod
    def read(cls, path: Path) -> "Job":
        """From a file of ``write``."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class LoadError(Exception):
    """Locust did not run to its end; the message is what it said."""


def run_mixed(address: str, job: Job) -> list[dict[str, Any]]:
    """Puts a server under load and returns every request's outcome.

    Raises:
        LoadError: locust failed.
    """
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        told = Path(folder) / "job.json"
        job.write(told)
        command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(_LOCUST_FILE)]
        command += ["--host", address, "-u", str(job.concurrency), "-r", str(job.concurrency)]
        # the clients stop by themselves at job.seconds; locust then ends and lets what is under way finish
        command += ["--run-time", f"{int(job.seconds) + 2}s", "--stop-timeout", "180"]
        environment = {**os.environ, "RELIABILITY_JOB": str(told), "PYTHONPATH": str(_ROOT)}
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not Path(job.outcomes).is_file():
        raise LoadError(f"locust ended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = Path(job.outcomes).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summarise_outcomes(outcomes: Sequence[Outcome], requests: int | None = None) -> dict[str, Any]:
    """Counts what was lost, crossed, wrong and refused, and the percentiles of the answers' times.

    Args:
        outcomes: of a load.
        requests: that should have been answered; None for as many as there are numbers up to the highest.
    """
    numbers = Counter(one["number"] for one in outcomes)
    expected = requests if requests is not None else max(numbers, default=-1) + 1
    wrong = [one for one in outcomes if one["wrong"] not in ("", "unidentified")]
    crossed = [one for one in wrong if one["wrong"].startswith("crossed")]
    refusals = [ms for one in outcomes for ms in one["refusals_ms"]]
    return {
        "requests": expected,
        "answered": len(numbers),
        "lost": expected - len(numbers) + sum(one["status"] == 0 for one in outcomes),
        "answered_twice": sum(count > 1 for count in numbers.values()),
        "crossed": len(crossed),
        "wrong": len(wrong) - len(crossed),
        "wrong_examples": [f"{one['kind']}, {one['form']}: {one['wrong']}" for one in wrong[:5]],
        "unidentified": sum(one["wrong"] == "unidentified" for one in outcomes),
        "statuses": dict(sorted(Counter(str(one["status"]) for one in outcomes).items())),
        "forms": dict(sorted(Counter(one["form"] for one in outcomes).items())),
        "refused_then_answered": sum(bool(one["refusals_ms"]) for one in outcomes),
        "retries": len(refusals),
        "refusal_ms": percentiles(refusals),
        "ms": percentiles([one["ms"] for one in outcomes]),
        "ms_with_retries": percentiles([one["ms_with_retries"] for one in outcomes]),
        "kinds": _by_kind(outcomes),
    }


def nothing_lost_or_crossed(summary: Mapping[str, Any]) -> bool:
    """Whether every request got exactly one answer, the right one, which says that it is its own."""
    return not any(summary[key] for key in ("lost", "answered_twice", "crossed", "wrong", "unidentified"))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The usual ones and the largest, empty where there are no values."""
    if not values:
        return {}
    found = {f"p{percent}": round(percentile(values, percent), 1) for percent in (50, 95, 99)}
    return {**found, "max": round(max(values), 1)}


def _by_kind(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    kinds: dict[str, list[float]] = {}
    for one in outcomes:
        kinds.setdefault(one["kind"], []).append(one["ms"])
    return {kind: {"requests": len(times), **percentiles(times)} for kind, times in sorted(kinds.items())}
