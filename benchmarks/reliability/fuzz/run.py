"""Sends hostile requests from several threads and notes what comes of them.

The record ``fuzz.json`` holds every process's memory as ``judge_inputs`` describes it, and::

    {"seed": int, "first": int, "threads": int, "inputs": int, "seconds": float,
     "by_kind": {kind: {"inputs": int, "statuses": {status: int}}},       "0": closed unanswered, where that is right
     "statuses": {status: int}, "torchserve_defects": {name: int},        its own 500s, see defects.toml
     "worker": {"pid": int, "same_throughout": bool}, "slowest": {"seconds": float, "number": int},
     "findings": [{"fault": str, "number": int | null, "kind": str | null, "answer": {…} | null, "file": str | null}]}

A finding's request lies in the folder ``findings`` beside it, byte for byte; its seed and its number send it again:
``--seed 20 --first 4711 --inputs 1``.
"""

import argparse
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Never

import psutil
from tqdm import tqdm

from benchmarks.load import Server, in_threads, repeating
from benchmarks.machine import peak_memory
from benchmarks.reliability.fuzz.judge import judge
from benchmarks.reliability.fuzz.requests import request
from benchmarks.reliability.fuzz.wire import Hostile, Reply, octets, send
from benchmarks.reliability.memory import MIB, named_worker
from benchmarks.reliability.place import Place
from benchmarks.reliability.slope import judge_inputs
from deploy.local_server import LocalServer
from handler.atomic_write import write_whole

_SAMPLED_EVERY = 0.25  # seconds


def measure_fuzz(place: Place, options: argparse.Namespace) -> bool:
    """Sends the requests of these numbers, records what came of them, and says whether nothing was found."""
    with place.server() as server:
        fuzzing = Fuzzing(server, options.seed, place.records / "findings", options.most)
        found = fuzzing.send_all(range(options.first, options.first + options.inputs), options.threads)
    place.record("fuzz", {"seed": options.seed, "first": options.first, "threads": options.threads, **found})
    told = {f"{found['inputs']} inputs in {found['seconds']:.0f} s": found["statuses"]}
    for name, one in found["memory"].items():
        start, end, peak = (f"{one[key] / MIB:.0f}" for key in ("start", "end", "peak"))
        told[f"memory of {name}"] = f"{start} to {end} MB, at most {peak}, {one['slope']:+.0f} bytes/input"
    told |= {"TorchServe's own 500s": found["torchserve_defects"], "findings": len(found["findings"])}
    print("\n".join(f"{name}: {its or 'none'}" for name, its in told.items()))
    return not found["findings"]


class _Tried(NamedTuple):
    seconds: float
    number: int
    kind: str
    status: int  # 0: no answer need be
    defect: str | None  # TorchServe's, by name


class Fuzzing:
    """One run: what was sent and came back, and what must not be: a bad answer, another worker, growing memory."""

    def __init__(self, server: Server, seed: int, folder: Path, most: int = 1) -> None:
        """Ends when there are ``most`` findings, whose requests go into the folder."""
        self._server, self._seed, self._folder, self._most = server, seed, folder, most
        self._worker = named_worker(server)
        self._processes = {"worker": self._worker}
        if isinstance(server, LocalServer):
            self._processes["java"] = psutil.Process(server.pid)
        self._at_rest = peak_memory(self._worker.pid)
        self._samples: dict[str, list[tuple[int, int]]] = {name: [] for name in self._processes}
        self._findings, self._over = list[dict[str, Any]](), threading.Event()
        self.tried = list[_Tried]()

    def send_all(self, numbers: Sequence[int], threads: int = 4) -> dict[str, Any]:
        """Sends the requests of these numbers and returns what a record says of them.

        There are fewer threads than places in the queue: with its queue full the server would answer 503.
        """
        left, started = iter(numbers), time.perf_counter()

        def client() -> None:
            while not self._over.is_set() and (number := next(left, None)) is not None:
                self._try(number)

        with tqdm(total=len(numbers), unit="input", disable=None) as bar:
            with repeating(partial(self._watch, bar), _SAMPLED_EVERY):
                in_threads([client] * threads, stop=self._over.set)
            seconds = round(time.perf_counter() - started, 1)
            memory = self._conclude(bar)
        return {"seconds": seconds, **_counted(self.tried), **memory, "findings": self._findings}

    def _try(self, number: int) -> None:
        hostile = request(self._seed, number)
        try:
            reply = send(self._server.address, self._server.model, hostile)
        except OSError:
            self._over.set()
            self._find("the server cannot be reached", number, hostile)
            return
        kind, verdict = "/".join(hostile.kind.split("/")[:2]), judge(hostile, reply)
        self.tried.append(_Tried(reply.seconds, number, kind, reply.status, verdict.defect))
        if verdict.fault:
            self._find(verdict.fault, number, hostile, reply)

    def _find(
        self, fault: str, number: int | None = None, hostile: Hostile | None = None, reply: Reply | None = None
    ) -> None:
        """Notes a finding; without a request where it is no single one's."""
        found = {"fault": fault, "seed": self._seed, "number": number, "kind": hostile and hostile.kind}
        file = hostile and self._folder / f"{self._seed}-{number}.http"
        answer = reply and {
            "status": reply.status,
            "body": reply.body[:500].decode("utf-8", "replace"),
            "seconds": round(reply.seconds, 2),
        }
        if hostile and file:
            write_whole(file, octets(hostile, self._server.model))
        self._findings.append({**found, "answer": answer, "file": file and str(file)})
        print(f"finding: {self._findings[-1]}", file=sys.stderr)
        if len(self._findings) >= self._most or not hostile:
            self._over.set()

    def _watch(self, bar: "tqdm[Never]") -> None:
        """Samples memory, and stops the run as soon as a process is gone."""
        bar.update(len(self.tried) - bar.n)
        for name, process in self._processes.items():
            with suppress(psutil.Error):
                if process.is_running() and (resident := process.memory_info().rss):
                    self._samples[name].append((len(self.tried), resident))
                    continue
            if not self._over.is_set():
                self._find(f"{name} is not the process it was")

    def _conclude(self, bar: "tqdm[Never]") -> dict[str, Any]:
        """Looks once more whether the processes are the same, and whether memory stayed flat."""
        self._watch(bar)
        memory, same = {}, False
        try:
            peaks = {name: peak_memory(one.pid) for name, one in self._processes.items()}
            same = named_worker(self._server) == self._worker
            memory = {name: judge_inputs(name, its, peaks[name], self._at_rest) for name, its in self._samples.items()}
        except (OSError, ValueError, psutil.Error) as error:
            self._find(f"the server does not tell its worker any more: {error}")
        if memory and not same:
            self._find("another worker answers")
        for name, its in memory.items():
            if not its["flat"]:
                self._find(f"memory of {name} is not flat: {its}")
        return {"worker": {"pid": self._worker.pid, "same_throughout": same}, "memory": memory}


def _counted(tried: Sequence[_Tried]) -> dict[str, Any]:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for one in sorted(tried, key=lambda its: (its.kind, its.status)):  # so that the record's names are in their order
        kinds[one.kind][str(one.status)] += 1
    slowest = max(tried, default=_Tried(0.0, 0, "", 0, None))
    return {
        "inputs": len(tried),
        "by_kind": {kind: {"inputs": its.total(), "statuses": its} for kind, its in kinds.items()},
        "statuses": dict(sum(kinds.values(), Counter())),
        "torchserve_defects": dict(Counter(one.defect for one in tried if one.defect)),
        "slowest": {"seconds": round(slowest.seconds, 2), "number": slowest.number},
    }
