"""Sends hostile requests from several threads and notes what comes of them."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil

from benchmarks.load import in_threads, repeating
from benchmarks.machine import peak_memory
from benchmarks.reliability.fuzz.judge import judge
from benchmarks.reliability.fuzz.requests import request
from benchmarks.reliability.fuzz.wire import Hostile, Reply, send
from benchmarks.reliability.memory import named_worker
from benchmarks.reliability.slope import judge_inputs
from deploy.local_server import LocalServer

Done = Callable[[], object]
_SAMPLED_EVERY = 0.25  # seconds


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be: an answer, a worker that is another, memory that grows."""

    fault: str
    number: int | None = None  # of the request; None where it is no single one's
    hostile: Hostile | None = None
    reply: Reply | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the record has it; the request itself is kept in a file of its own."""
        answer = self.reply and {
            "status": self.reply.status,
            "body": self.reply.body[:500].decode("utf-8", "replace"),
            "seconds": round(self.reply.seconds, 2),
        }
        kind = self.hostile and self.hostile.kind
        return {"fault": self.fault, "number": self.number, "kind": kind, "answer": answer}


def fuzz(
    server: LocalServer, seed: int, numbers: range, threads: int = 4, most: int = 1, done: Done = lambda: None
) -> tuple[dict[str, Any], list[Finding]]:
    """Sends the requests of these numbers; stops when there are ``most`` findings, or another worker.

    There are fewer threads than places in the queue: with its queue full the server would answer 503. ``done`` is
    called after each request.

    Returns:
        What was tried and came back, for a record; and what must not be.
    """
    run, started = _Run(server, seed, iter(numbers), most, done), time.perf_counter()
    with repeating(run.watch, _SAMPLED_EVERY):
        in_threads([run.client] * threads, stop=run.over.set)
    seconds = round(time.perf_counter() - started, 1)
    return {"seconds": seconds, **_counted(run.tried), **run.conclude()}, run.findings


class _Tried(NamedTuple):
    seconds: float
    number: int
    kind: str
    status: int  # 0: no answer need be
    defect: str | None  # TorchServe's, by name


class _Run:
    def __init__(self, server: LocalServer, seed: int, numbers: Iterator[int], most: int, done: Done) -> None:
        self._server, self._seed, self._numbers, self._most, self._done = server, seed, numbers, most, done
        self._address, self._worker = server.address, named_worker(server)
        self._processes = {"worker": self._worker, "java": psutil.Process(server.pid)}
        self._at_rest = peak_memory(self._worker.pid)
        self._samples: dict[str, list[tuple[int, int]]] = {name: [] for name in self._processes}
        self.tried, self.findings, self.over = list[_Tried](), list[Finding](), threading.Event()

    def client(self) -> None:
        """One thread's requests."""
        while not self.over.is_set() and (number := next(self._numbers, None)) is not None:
            hostile = request(self._seed, number)
            try:
                reply = send(self._address, self._server.model, hostile)
            except OSError:
                self._add(Finding(fault="the server cannot be reached", number=number, hostile=hostile))
                return
            kind, verdict = "/".join(hostile.kind.split("/")[:2]), judge(hostile, reply)
            self.tried.append(_Tried(reply.seconds, number, kind, reply.status, verdict.defect))
            if verdict.fault:
                self._add(Finding(fault=verdict.fault, number=number, hostile=hostile, reply=reply))
            self._done()

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        if len(self.findings) >= self._most or finding.hostile is None:
            self.over.set()

    def watch(self) -> None:
        """Samples memory, and stops the run as soon as a process is gone."""
        for name, process in self._processes.items():
            if resident := _resident(process):
                self._samples[name].append((len(self.tried), resident))
            elif not self.over.is_set():
                self._add(Finding(fault=f"{name} is not the process it was"))

    def conclude(self) -> dict[str, Any]:
        """Looks once more whether the processes are the same, and whether memory stayed flat."""
        self.watch()
        memory, same = {}, False
        try:
            peaks = {name: peak_memory(one.pid) for name, one in self._processes.items()}
            same = named_worker(self._server) == self._worker
            memory = {name: judge_inputs(name, its, peaks[name], self._at_rest) for name, its in self._samples.items()}
        except (OSError, ValueError, psutil.Error) as error:
            self._add(Finding(fault=f"the server does not tell its worker any more: {error}"))
        if memory and not same:
            self._add(Finding(fault="another worker answers"))
        for name, its in memory.items():
            if not its["flat"]:
                self._add(Finding(fault=f"memory of {name} is not flat: {its}"))
        return {"worker": {"pid": self._worker.pid, "same_throughout": same}, "memory": memory}


def _resident(process: psutil.Process) -> int:
    """Bytes of memory; none where the process has ended."""
    try:
        return process.memory_info().rss if process.is_running() else 0
    except psutil.Error:
        return 0


def _counted(tried: Sequence[_Tried]) -> dict[str, Any]:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for one in tried:
        kinds[one.kind][str(one.status)] += 1
    slowest = max(tried, default=_Tried(0.0, 0, "", 0, None))
    return {
        "inputs": len(tried),
        "by_kind": {kind: {"inputs": its.total(), "statuses": _by_name(its)} for kind, its in sorted(kinds.items())},
        "statuses": _by_name(sum(kinds.values(), Counter[str]())),
        "torchserve_defects": _by_name(Counter(one.defect for one in tried if one.defect)),
        "slowest": {"seconds": round(slowest.seconds, 2), "number": slowest.number},
    }


def _by_name(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
