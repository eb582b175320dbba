"""How fast memory grows, by Theil and Sen's robust slope, and how fast it may: in a soak and under hostile input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from benchmarks.reliability.memory import MIB, Sample

_CONFIDENCE = 0.95
# Two reasons for 1 MiB a minute. Above it, a worker with 1.5 GiB to spare would not live a day. And at the soak's rate
# of several hundred requests a minute it is a few KiB a request: less than anything that a request holds (its upload
# is 30 KiB, its pixels 500, a map 100), so that one object kept per request exceeds it many times over. Allocators that
# keep freed memory for later do not: what they keep stops growing.
LARGEST = 1.0  # MiB per minute
_BLOCK, _FEWEST_BLOCKS = 20.0, 5  # seconds

# Under hostile input there is no trend if the slope is below STEEPEST, or adds up to less than LEAST over all inputs
# after the warm-up. An input keeps some 10 kB busy: kept alive even once in twenty-five it would be seen over 200,000.
# LEAST is what glibc's arenas may still stretch by, and Java's heap, which takes what -Xmx1g allows it before it
# collects in earnest: half of that. In a short run LEAST decides.
_STEEPEST = 400.0  # bytes per input
LEAST = {"worker": 64 * MIB, "java": 512 * MIB}  # bytes
_WARM_UP = 0.3  # of the inputs; arenas, caches and the heap grow to their working size
# What a process ever held is below its cap. The worker's is what it takes at rest plus the largest valid picture three
# times over; Java's is its heap (-Xmx1g) plus what it needs beside it.
_CAPS = {"worker": 1_000 * MIB, "java": 1_600 * MIB}  # bytes; the worker's beyond what it has at rest
_MOST_POINTS = 200  # in the estimate of the slope, which is quadratic


def judge_soak(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """The slope of the workers' memory during a soak, in MiB per minute, and whether it grows.

    A third of the seconds at the start, but at most five minutes, do not count. The line goes through the medians of
    blocks of time: samples that follow each other closely are nearly the same value, and an interval computed from them
    would be far too narrow. Memory grows if the interval's lower end is above ``LARGEST``; a slope that is no number
    does, too. The Java process is not judged by a slope: its heap fills up to -Xmx before it is cleaned, which is no
    leak.

    Raises:
        ValueError: fewer than five blocks are left.
    """
    warm_up = min(300.0, seconds / 3)
    times, values = np.array([one.s for one in samples]), np.array([one.workers for one in samples])
    numbers = ((times - warm_up) // _BLOCK).astype(int)
    kept = [number for number in np.unique(numbers) if number >= 0]
    if len(kept) < _FEWEST_BLOCKS:
        raise ValueError(f"{len(kept)} blocks of {_BLOCK:g} s are left after the warm-up, needed are {_FEWEST_BLOCKS}")
    minutes, medians = ([np.median(of[numbers == one]) for one in kept] for of in (times / 60, values))
    slope, _, lower, upper = theilslopes(medians, minutes, _CONFIDENCE)
    return {
        "value": round(float(slope), 3),
        "lower": round(float(lower), 3),
        "upper": round(float(upper), 3),
        "blocks": len(kept),
        "confidence": _CONFIDENCE,
        "warm_up_s": warm_up,
        "largest": LARGEST,
        "grows": not bool(lower <= LARGEST),
    }


def judge_inputs(name: str, samples: Sequence[tuple[int, int]], peak: int, at_rest: int) -> dict[str, Any]:
    """Whether the memory of "worker" or "java" stayed flat under hostile input: neither a trend nor a peak too high.

    Args:
        name: of the process.
        samples: inputs so far, resident bytes.
        peak: the most bytes that it ever held.
        at_rest: the most bytes that it held before the first input.
    """
    late = [one for one in samples if one[0] >= _WARM_UP * samples[-1][0]]
    inputs, values = zip(*late[:: max(1, len(late) // _MOST_POINTS)], strict=True)
    slope = float(theilslopes(values, inputs).slope) if len(set(inputs)) > 1 else 0.0
    growth = slope * (late[-1][0] - late[0][0])
    cap = _CAPS[name] + (at_rest if name == "worker" else 0)
    return {
        **{"start": samples[0][1], "end": samples[-1][1], "peak": peak, "cap": cap},
        **{"slope": round(slope, 1), "growth": round(growth), "least": LEAST[name]},
        "flat": (slope < _STEEPEST or growth < LEAST[name]) and peak < cap,
    }
