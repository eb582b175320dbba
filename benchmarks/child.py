"""One contender's process: builds it, then does what the parent asks, one pickle after the other.

Between the questions it blocks on the pipe. It is started by ``rounds.py`` and has nothing in memory but its contender.
"""

import gc
import os
import pickle
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.contenders import CONTENDERS, Call
from benchmarks.machine import peak_memory
from benchmarks.work import Work, batches
from handler.explanation.evidence import Floats


def timed_round(
    call: Call, batches: Iterator[Floats], *, warm_up: int = 0, seconds: float = 0, least: int = 1
) -> list[float]:
    """Calls ``warm_up`` times untimed, then until ``seconds`` are used up, but at least ``least`` times.

    Returns:
        Milliseconds of each timed call.
    """
    for _ in range(warm_up):
        call(next(batches))
    spent: list[float] = []
    while len(spent) < least or sum(spent) < seconds * 1e3:
        batch = next(batches)
        started = time.perf_counter()
        call(batch)
        spent.append((time.perf_counter() - started) * 1e3)
    return spent


class _Contender:
    """What the parent may ask for, by the name of a method."""

    def __init__(self, work: Work, call: Call) -> None:
        self._pictures, self._call = work.pictures(), call
        self._size = 0  # of the batches that are handed out

    def trim(self) -> None:
        """Gives back to the system what was freed but is kept for the next call."""
        gc.collect()
        psutil.heap_trim()

    def outputs(self, batch: int) -> Any:
        """What a call returns for the first pictures."""
        return self._call(np.ascontiguousarray(self._pictures[:batch]))

    def round(self, batch: int, **how: Any) -> dict[str, Any]:
        """The times of a turn, see ``timed_round``, and the most memory up to now."""
        if batch != self._size:
            self._size, self._batches = batch, batches(self._pictures, batch)
        return {"ms": timed_round(self._call, self._batches, **how), "peak_mb": peak_memory() / 2**20}


def main() -> None:
    """Builds the contender, says so, and answers until the parent closes the pipe."""
    folder, task, name, threads = sys.argv[1:]
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not end up among the answers
    warnings.simplefilter("ignore")  # captum warns on every call
    work = Work.read(Path(folder))
    contender = _Contender(work, CONTENDERS[task, name](work, task, int(threads)))
    answer: Any = {"torch": "torch" in sys.modules}
    with suppress(EOFError):
        while True:
            pickle.dump(answer, channel)
            channel.flush()
            what, arguments = pickle.load(sys.stdin.buffer)
            answer = getattr(contender, what)(**arguments)


if __name__ == "__main__":
    main()
