"""Measures contenders side by side: each in a process of its own, one at a time, in rounds whose order changes.

Before that their outputs on the same pictures are compared with ours (torch): whether they did the same work.
"""

import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.contenders import CONTENDERS, OURS_TORCH, Outputs, Who, agrees, differences
from benchmarks.machine import describe_machine
from benchmarks.results import summarise
from benchmarks.work import TASKS, Work

One = TypeVar("One")
WHO = sorted(CONTENDERS, key=lambda who: TASKS.index(who[0]))
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

    def __init__(self, work: Work, who: Who, threads: int) -> None:
        self._log = work.folder / f"{'-'.join(who).replace(' ', '-')}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "benchmarks.child", str(work.folder), *who, str(threads)]
        started, pipe = time.perf_counter(), subprocess.PIPE
        with self._log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, env=environment)
        self.known: dict[str, Any] = {"holds_torch": self._answer()["torch"]}  # of the contender, for the results
        self.known["load_s"] = time.perf_counter() - started

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


def warm_disk(work: Work) -> None:
    """Starts each library once before any loading is measured: a first start reads its files from the disk."""
    for who in {name: (task, name) for task, name in WHO}.values():
        Child(work, who, 1).close()


def measure_settings(
    work: Work, threads: int, rounds: Mapping[int, int], seconds: float, limit: float, tell: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Measures batch sizes in ascending order, because a process's peak memory only grows.

    Args:
        work: of the network.
        threads: that every contender may use.
        rounds: batch size to the largest number of rounds.
        seconds: of timed calls in a contender's turn; a turn has one call at least.
        limit: seconds for all rounds of a batch size, see ``affordable``.
        tell: is told what runs.

    Yields:
        Each batch size with its part of the results.
    """
    with ExitStack() as stack:
        running: dict[Who, Child] = {}
        for who in WHO:  # one after the other, so that each one's loading is measured alone
            tell(f"loading {who[1]}, {who[0]}")
            running[who] = Child(work, who, threads)
            stack.callback(running[who].close)
        tell("comparing outputs")
        outputs: dict[Who, Outputs] = {who: one.ask("outputs", batch=min(rounds)) for who, one in running.items()}
        for who, one in running.items():
            found = differences(outputs[who], outputs[who[0], OURS_TORCH])
            one.known |= {"differences": found, "agrees": agrees(found)}
        for batch in sorted(rounds):
            contenders = measure(running, batch, rounds[batch], seconds, limit, tell)
            setting = {"network": work.network, "batch": batch, "threads": threads}
            yield batch, {**setting, "machine": describe_machine(), "contenders": contenders}


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
) -> list[dict[str, Any]]:
    """Measures all contenders at one batch size, with the arguments of ``measure_settings``.

    Returns:
        For each contender the median of each round and their summary, how many calls were timed, its peak memory, and
        the most processor time that all others together used, as a share of a turn.
    """
    calls = {}  # seconds of one
    for who, child in running.items():
        tell(f"warming up {who[1]}, {who[0]}")
        _make_room([other for other in running.values() if other is not child])
        first = child.ask("round", batch=batch)["ms"][0] / 1e3
        calls[who] = min(first, child.ask("round", batch=batch)["ms"][0] / 1e3 if first < 5 else first)
    rounds = affordable(rounds, sum(_PAUSE + max(seconds, its) for its in calls.values()), limit)
    turns_of: dict[Who, list[dict[str, Any]]] = {who: [] for who in running}
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
            turn = running[who].ask("round", batch=batch, warm_up=warm_up, seconds=seconds)
            used = sum(child.cpu_seconds() for child in others) - before
            turns_of[who].append({**turn, "neighbours_cpu": used / (time.perf_counter() - started)})
    return [_described(who, its, running[who].known) for who, its in turns_of.items()]


def _described(who: Who, turns: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> dict[str, Any]:
    medians = [statistics.median(one["ms"]) for one in turns]
    return {
        **{"task": who[0], "contender": who[1]},
        **{"median_ms": summarise(medians).median, "quartiles_ms": summarise(medians).quartiles, "rounds_ms": medians},
        "calls": sum(len(one["ms"]) for one in turns),
        "peak_mb": turns[-1]["peak_mb"],
        "neighbours_cpu": max(one["neighbours_cpu"] for one in turns),
        **known,
    }


def _make_room(others: Sequence[Child]) -> set[Child]:
    """Where memory is short, has idle processes give back what they keep for their next call; returns those."""
    memory = psutil.virtual_memory()
    if memory.available > _SHORT * memory.total:
        return set()
    for child in others:
        child.ask("trim")
    return set(others)
