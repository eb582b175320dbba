"""Sends hostile requests from several threads and notes what comes of them."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks.load import in_threads, repeating
from benchmarks.machine import peak_memory
from benchmarks.reliability.fuzz.judge import judge
from benchmarks.reliability.fuzz.memory import Memory, describe
from benchmarks.reliability.fuzz.requests import request
from benchmarks.reliability.fuzz.wire import Hostile, Reply, send
from benchmarks.reliability.memory import named_worker
from deploy.local_server import LocalServer

_SAMPLED_EVERY = 0.25  # seconds


@dataclass(frozen=True)
class Finding:
    """Something that must not be: an answer, a worker that is another, memory that grows."""

    fault: str
    number: int | None = None  # of the request; None where it is no single one's
    hostile: Hostile | None = None
    reply: Reply | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the report has it; the request itself is kept in a file of its own."""
        answer = self.reply and {
            "status": self.reply.status,
            "body": self.reply.body[:500].decode("utf-8", "replace"),
            "seconds": round(self.reply.seconds, 2),
        }
        kind = self.hostile and self.hostile.kind
        return {"fault": self.fault, "number": self.number, "kind": kind, "answer": answer}


@dataclass
class Outcome:
    """What was tried, what came back, and what must not be."""

    by_kind: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # 0: no answer need be
    defects: Counter[str] = field(default_factory=Counter)  # TorchServe's, by name
    findings: list[Finding] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)  # seconds, number
    seconds: float = 0.0

    @property
    def statuses(self) -> Counter[int]:
        """Of all kinds."""
        return sum(self.by_kind.values(), Counter[int]())


def fuzz(
    server: LocalServer,
    seed: int,
    numbers: range,
    threads: int = 4,
    most: int = 1,
    done: Callable[[], object] = lambda: None,
) -> Outcome:
    """Sends the requests of these numbers; stops when there are ``most`` findings, or another worker.

    Args:
        server: a running one.
        seed: of the requests.
        numbers: which of the seed's requests.
        threads: connections at once; with its queue full the server would answer 503.
        most: findings to stop at.
        done: called after each request.
    """
    run, started = _Run(server, seed, iter(numbers), most, done), time.perf_counter()
    with repeating(run.watch, _SAMPLED_EVERY):
        in_threads([run.client] * threads, stop=run.over.set)
    run.outcome.seconds = time.perf_counter() - started
    run.conclude()
    return run.outcome


class _Run:
    def __init__(
        self, server: LocalServer, seed: int, numbers: Iterator[int], most: int, done: Callable[[], object]
    ) -> None:
        self._server, self._seed, self._numbers, self._most, self._done = server, seed, numbers, most, done
        self._address, self._lock = server.address, threading.Lock()
        self._processes = {"worker": named_worker(server), "java": psutil.Process(server.pid)}
        self._at_rest = {name: peak_memory(one.pid) for name, one in self._processes.items()}
        self._samples: dict[str, list[tuple[int, int]]] = {name: [] for name in self._processes}
        self.outcome, self.over = Outcome(), threading.Event()

    def client(self) -> None:
        """One thread's requests."""
        while not self.over.is_set():
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            hostile = request(self._seed, number)
            try:
                reply = send(self._address, self._server.model, hostile)
            except OSError:
                self._add(Finding("the server cannot be reached", number, hostile))
                return
            with self._lock:
                self._note(number, hostile, reply)
            self._done()

    def _note(self, number: int, hostile: Hostile, reply: Reply) -> None:
        kind, verdict, outcome = "/".join(hostile.kind.split("/")[:2]), judge(hostile, reply), self.outcome
        outcome.by_kind[kind][reply.status] += 1
        outcome.slowest = max(outcome.slowest, (reply.seconds, number))
        if verdict.defect:
            outcome.defects[verdict.defect] += 1
        if verdict.fault:
            self._add(Finding(verdict.fault, number, hostile, reply))

    def _add(self, finding: Finding) -> None:
        self.outcome.findings.append(finding)
        if len(self.outcome.findings) >= self._most or finding.hostile is None:
            self.over.set()

    def watch(self) -> None:
        """Samples memory, and stops the run as soon as a process is gone."""
        try:
            self._sample()
            gone = [name for name, one in self._processes.items() if not _runs(one)]
        except psutil.Error:
            gone = ["worker or java"]
        if gone and not self.over.is_set():
            self._add(Finding(f"{gone[0]} is not the process it was"))

    def _sample(self) -> None:
        with self._lock:
            inputs = self.outcome.statuses.total()
        for name, process in self._processes.items():
            self._samples[name].append((inputs, process.memory_info().rss))

    def conclude(self) -> None:
        """Looks once more whether the processes are the same, and whether memory stayed flat."""
        try:
            self._sample()
            peaks = {name: peak_memory(one.pid) for name, one in self._processes.items()}
            same = named_worker(self._server) == self._processes["worker"]
        except (OSError, ValueError, psutil.Error) as error:
            self._add(Finding(f"the server does not tell its worker any more: {error}"))
            return
        if not same:
            self._add(Finding("another worker answers"))
        for name, samples in self._samples.items():
            memory = self.outcome.memory[name] = describe(name, samples, peaks[name], self._at_rest[name])
            if not memory.flat:
                self._add(Finding(f"memory of {name} is not flat: {memory}"))


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
