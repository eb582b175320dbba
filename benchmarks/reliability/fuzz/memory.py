"""Watches the worker and the Java server from outside: the same processes, and memory that stays where it is.

Memory is flat if both hold, for each of the two processes:

* no trend: the median of all slopes between two samples (Theil-Sen, which single peaks do not move), over what comes
  after the warm-up, is below ``STEEPEST`` bytes per input, or adds up to less than ``LEAST`` over all these inputs. An
  input keeps some 10 kB busy: kept alive even once in twenty-five it would be seen over 200,000. ``LEAST`` is what
  glibc's arenas may still stretch by, and Java's heap, which takes what -Xmx1g allows it before it collects in earnest:
  half of that. In a short run ``LEAST`` decides.
* a cap: what a process ever held (VmHWM) is below its limit. The worker's is what it takes at rest plus the largest
  valid picture three times over; Java's is its heap (-Xmx1g) plus what it needs beside it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEEPEST = 400.0  # bytes per input
LEAST = {"worker": 64 * 2**20, "java": 512 * 2**20}  # bytes
WARM_UP = 0.3  # of the inputs; arenas, caches and the heap grow to their working size
CAPS = {"worker": 1_000 * 2**20, "java": 1_600 * 2**20}  # bytes ever resident; the worker's beyond what it has at rest
_MOST_POINTS = 200  # in the estimate of the slope, which is quadratic


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one with the same number."""

    pid: int
    started: int  # clock ticks after the machine's start

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Looks it up.

        Raises:
            OSError: there is none.
        """
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return cls(pid, int(fields[19]))

    def memory(self, name: str = "VmRSS") -> int:
        """Bytes resident now, or ever (``VmHWM``).

        Raises:
            OSError: it has ended.
        """
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
        if not found:  # it has ended, but its parent has not asked yet
            raise ProcessLookupError(f"process {self.pid} holds no memory any more")
        return found[0]


@dataclass(frozen=True)
class Memory:
    """One process's memory over a run, in bytes."""

    start: int
    end: int
    peak: int
    slope: float  # bytes per input, after the warm-up
    growth: float  # slope times the inputs after the warm-up
    least: int  # growth that means nothing
    cap: int  # of the peak

    @property
    def flat(self) -> bool:
        """Whether neither trend nor peak is above its limit."""
        return (self.slope < STEEPEST or self.growth < self.least) and self.peak < self.cap


def describe(name: str, samples: Sequence[tuple[int, int]], peak: int, at_rest: int) -> Memory:
    """Sums up the samples of (inputs so far, resident bytes) of "worker" or "java"."""
    inputs = samples[-1][0]
    late = [one for one in samples if one[0] >= WARM_UP * inputs] or list(samples)
    slope = slope_of(late)
    cap = CAPS[name] + (at_rest if name == "worker" else 0)
    growth = slope * (late[-1][0] - late[0][0])
    return Memory(samples[0][1], samples[-1][1], peak, slope, growth, LEAST[name], cap)


def slope_of(samples: Sequence[tuple[int, int]]) -> float:
    """Theil and Sen's slope; 0 for fewer than two places."""
    some = samples[:: max(1, len(samples) // _MOST_POINTS)]
    slopes = [
        (there[1] - here[1]) / (there[0] - here[0])
        for place, here in enumerate(some)
        for there in some[place + 1 :]
        if there[0] != here[0]
    ]
    return statistics.median(slopes) if slopes else 0.0
