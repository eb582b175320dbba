"""Whether the memory of the worker and of the Java server stays where it is.

Memory is flat if both hold, for each of the two processes:

* no trend: the median of all slopes between two samples (Theil-Sen, which single peaks do not move), over what comes
  after the warm-up, is below ``STEEPEST`` bytes per input, or adds up to less than ``LEAST`` over all these inputs. An
  input keeps some 10 kB busy: kept alive even once in twenty-five it would be seen over 200,000. ``LEAST`` is what
  glibc's arenas may still stretch by, and Java's heap, which takes what -Xmx1g allows it before it collects in earnest:
  half of that. In a short run ``LEAST`` decides.
* a cap: what a process ever held (VmHWM) is below its limit. The worker's is what it takes at rest plus the largest
  valid picture three times over; Java's is its heap (-Xmx1g) plus what it needs beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import theilslopes

from benchmarks.reliability.memory import MIB

STEEPEST = 400.0  # bytes per input
LEAST = {"worker": 64 * MIB, "java": 512 * MIB}  # bytes
WARM_UP = 0.3  # of the inputs; arenas, caches and the heap grow to their working size
CAPS = {"worker": 1_000 * MIB, "java": 1_600 * MIB}  # bytes ever resident; the worker's beyond what it has at rest
_MOST_POINTS = 200  # in the estimate of the slope, which is quadratic


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
    late = [one for one in samples if one[0] >= WARM_UP * samples[-1][0]]
    inputs, values = zip(*late[:: max(1, len(late) // _MOST_POINTS)], strict=True)
    slope = float(theilslopes(values, inputs).slope) if len(set(inputs)) > 1 else 0.0
    growth = slope * (late[-1][0] - late[0][0])
    cap = CAPS[name] + (at_rest if name == "worker" else 0)
    return Memory(samples[0][1], samples[-1][1], peak, slope, growth, LEAST[name], cap)
