"""How fast memory grows: a robust slope with a confidence interval, and the largest one that is let pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

CONFIDENCE = 0.95
# Two reasons for 1 MiB a minute. Above it, a worker with 1.5 GiB to spare would not live a day. And at the soak's rate
# of several hundred requests a minute it is a few KiB a request: less than anything that a request holds (its upload
# is 30 KiB, its pixels 500, a map 100), so that one object kept per request exceeds it many times over. Allocators that
# keep freed memory for later do not: what they keep stops growing.
LARGEST = 1.0  # MiB per minute
_FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Slope:
    """MiB per minute."""

    value: float
    lower: float  # end of the confidence interval
    upper: float
    blocks: int  # that it was fitted through

    def exceeds(self, largest: float) -> bool:
        """Whether memory surely grows faster; a slope that is no number does."""
        return not (self.lower <= largest)


def memory_slope(seconds: Sequence[float], mib: Sequence[float], warm_up: float, block: float = 20.0) -> Slope:
    """The Theil-Sen slope through the medians of blocks of time after the warm-up.

    Samples that follow each other closely are nearly the same value, and an interval computed from them would be far
    too narrow; medians of blocks are less dependent.

    Args:
        seconds: of the samples, ascending.
        mib: the memory at these times.
        warm_up: seconds at the start that do not count: caches and allocators fill then.
        block: seconds.

    Raises:
        ValueError: fewer than five blocks are left.
    """
    times, values = np.asarray(seconds, float), np.asarray(mib, float)
    numbers = ((times - warm_up) // block).astype(int)
    kept = [number for number in np.unique(numbers) if number >= 0]
    if len(kept) < _FEWEST_BLOCKS:
        raise ValueError(f"{len(kept)} blocks of {block:g} s are left after the warm-up, needed are {_FEWEST_BLOCKS}")
    minutes = [np.median(times[numbers == number]) / 60 for number in kept]
    medians = [np.median(values[numbers == number]) for number in kept]
    slope, _, lower, upper = theilslopes(medians, minutes, CONFIDENCE)
    return Slope(float(slope), float(lower), float(upper), len(kept))
