"""Runs contenders side by side: each in a process of its own, one at a time, in rounds whose order changes."""

import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.work import Work

Who = tuple[str, str]  # task and contender
One = TypeVar("One")
_PAUSE = 0.15  # seconds before each turn: the spinning threads of the one before have gone to sleep by then
_SHORT = 0.4  # of the machine's memory: idle processes give back what they do not need if less is available
_LONG = 1.0  # seconds: a call that takes longer is its own warm-up


class ChildError(Exception):
    """A contender's process ended; the message is the end of what it wrote to stderr."""

    def __init__(self, log: Path, code: int) -> None:
        said = log.read_text(encoding="utf-8")[-1500:]
        super().__init__(f"{log} (exit code {code}): {said}")
        self.brief = f"{log.stem}, exit code {code}"


class Child:
    """The parent's end of one contender's process."""

    def __init__(self, work: Work, who: Who, threads: int, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "benchmarks.child", str(work.folder), *who, str(threads)]
        self._log = log
        started = time.perf_counter()
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
            )
        self.holds_torch: bool = self._answer()["torch"]
        self.load_s = time.perf_counter() - started

    def ask(self, what: str, **arguments: Any) -> Any:
        """Calls a method of the contender's and waits for what it returns, see ``child.py``.

        Raises:
            ChildError: the process ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then it has no answer either
            pickle.dump((what, arguments), self._process.stdin)
            self._process.stdin.flush()
        return self._answer()

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """Ends the process by closing its pipe."""
        self._process.communicate(timeout=60)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError as error:
            raise ChildError(self._log, self._process.wait()) from error


@contextmanager
def children(
    work: Work, contenders: Sequence[Who], threads: int, tell: Callable[[str], None]
) -> Iterator[dict[Who, Child]]:
    """Starts the contenders' processes one after the other, so that each one's loading is measured alone."""
    with ExitStack() as stack:
        started = {}
        for task, name in contenders:
            tell(f"loading {name}, {task}")
            log = work.folder / f"{task}-{name.replace(' ', '-')}.log"
            started[task, name] = Child(work, (task, name), threads, log)
            stack.callback(started[task, name].close)
        yield started


@dataclass(kw_only=True)
class Measured:
    """One contender's rounds."""

    rounds_ms: list[float] = field(default_factory=list)  # the median of each
    calls: int = 0  # timed
    peak_mb: float = 0.0
    neighbours_cpu: float = 0.0  # the most processor time that all others together used, as a share of a turn

    def add(self, ms: list[float], peak_mb: float, neighbours_cpu: float) -> None:
        """Adds a round."""
        self.rounds_ms.append(statistics.median(ms))
        self.calls += len(ms)
        self.peak_mb = peak_mb
        self.neighbours_cpu = max(self.neighbours_cpu, neighbours_cpu)


def turns(contenders: Sequence[One], number: int) -> list[One]:
    """The order of a round: there and back again, and then starting with the next contender."""
    start = number // 2 % len(contenders)
    order = [*contenders[start:], *contenders[:start]]
    return order[::-1] if number % 2 else order


def affordable(rounds: int, seconds: float, limit: float) -> int:
    """How many rounds of so many seconds fit into ``limit``: at most ``rounds``, and 3 if that is more than 3."""
    return min(rounds, max(3, int(limit / seconds)))


def measure(
    running: Mapping[Who, Child], batch: int, rounds: int, seconds: float, limit: float, tell: Callable[[str], None]
) -> dict[Who, Measured]:
    """Measures all contenders at one batch size; the arguments are those of ``measure_settings``."""
    found = {who: Measured() for who in running}
    calls = {}  # seconds of one
    for who, child in running.items():
        tell(f"warming up {who[1]}, {who[0]}")
        _make_room([other for other in running.values() if other is not child])
        first = child.ask("round", batch=batch)["ms"][0] / 1e3
        calls[who] = min(first, child.ask("round", batch=batch)["ms"][0] / 1e3 if first < 5 else first)
    rounds = affordable(rounds, sum(_PAUSE + max(seconds, its) for its in calls.values()), limit)
    trimmed: set[Child] = set()
    for number in range(rounds):
        for who in turns(list(running), number):
            tell(f"round {number + 1} of {rounds}: {who[1]}, {who[0]}")
            time.sleep(_PAUSE)
            others = [child for other, child in running.items() if other != who]
            trimmed |= _make_room(others)
            before, started = sum(child.cpu_seconds() for child in others), time.perf_counter()
            warm_up = int(running[who] in trimmed) if calls[who] > _LONG else 2
            trimmed.discard(running[who])
            answer = running[who].ask("round", batch=batch, warm_up=warm_up, seconds=seconds)
            used = sum(child.cpu_seconds() for child in others) - before
            found[who].add(answer["ms"], answer["peak_mb"], used / (time.perf_counter() - started))
    return found


def _make_room(others: Sequence[Child]) -> set[Child]:
    """Where memory is short, has idle processes give back what they keep for their next call; returns those."""
    memory = psutil.virtual_memory()
    if memory.available > _SHORT * memory.total:
        return set()
    for child in others:
        child.ask("trim")
    return set(others)
