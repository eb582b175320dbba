"""One contender's process: builds it, then does what the parent asks, one JSON line after the other.

Between the lines it blocks on the pipe. It is started by ``rounds.py`` and has nothing in memory but its contender.
"""

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.contenders import CONTENDERS, Call, Outputs
from benchmarks.machine import peak_memory
from benchmarks.work import Work, batches
from handler.explanation.evidence import Floats


def timed_round(call: Call, batches: Iterator[Floats], *, warm_up: int, seconds: float, least: int) -> list[float]:
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


def save_outputs(outputs: Outputs, path: Path) -> None:
    """Writes what a call returned as an ``npz``."""
    arrays = {key: value for key, value in vars(outputs).items() if value is not None}
    np.savez(path, **arrays)


class _Process:
    def __init__(self, work: Work, call: Call) -> None:
        self._pictures, self._call = work.pictures(), call
        self._size = 0  # of the batches that are handed out

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "trim":
            gc.collect()
            psutil.heap_trim()  # gives back to the system what was freed but is kept for the next call
            return {}
        if command["do"] == "outputs":
            first = np.ascontiguousarray(self._pictures[: command["batch"]])
            save_outputs(self._call(first), Path(command["path"]))
            return {}
        if command["batch"] != self._size:
            self._size, self._batches = command["batch"], batches(self._pictures, command["batch"])
        how = {key: command[key] for key in ("warm_up", "seconds", "least")}
        return {"ms": timed_round(self._call, self._batches, **how), "peak_mb": peak_memory() / 2**20}


def main() -> None:
    """Builds the contender, says so, and answers until the parent closes the pipe."""
    folder, task, name, threads = sys.argv[1:]
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not end up among the answers
    warnings.simplefilter("ignore")  # captum warns on every call

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    work = Work.read(Path(folder))
    process = _Process(work, CONTENDERS[task, name](work, task, int(threads)))
    say({"torch": "torch" in sys.modules})
    for line in sys.stdin:
        say(process.do(json.loads(line)))


if __name__ == "__main__":
    main()
