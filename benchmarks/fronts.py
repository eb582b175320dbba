"""TorchServe and the light front on one archive: rates, times, start, memory and installed size; ``fronts.json``."""

import json
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.load import post_for
from benchmarks.machine import describe_machine
from benchmarks.reliability.asking import Clients
from benchmarks.reliability.place import LIGHT, TORCHSERVE, Place
from benchmarks.results import Results, ratio, read_results, summarise
from benchmarks.rounds import turns
from benchmarks.served import JPEG, Served, measure_turns
from benchmarks.work import EXPLAIN, GRADCAM, PREDICT
from deploy.local_server import resident_memory
from handler.atomic_write import write_whole

FRONTS = {TORCHSERVE: "serve", LIGHT: "light"}  # with the extra that each needs
_HEADERS = {PREDICT: {**JPEG, "X-Explain-Maps": "none"}, GRADCAM: {**JPEG, "X-Explain-Maps": "gradcam"}, EXPLAIN: JPEG}
_TASKS = [Served(task, front, headers) for task, headers in _HEADERS.items() for front in FRONTS]
_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def measure_fronts(place: Place, path: Path, rounds: int, seconds: float, requests: int) -> None:
    """Measures what ``path``, which is ``fronts.json``, does not hold yet, and writes it there part by part.

    Each front and task has so many ``rounds`` of ``seconds`` of load at each concurrency; memory is looked at after
    ``requests`` at least.

    Raises:
        ServerError: a front does not start.
        WrongAnswer: an answer that is not what was asked for, or not what the other front answers.
    """
    parts: dict[str, Callable[[], Any]] = {
        "installed_mb": lambda: {front: installed(extra) for front, extra in FRONTS.items()},
        "start_s": lambda: _first_answers(place, (rounds + 1) // 2),
        "served": lambda: _served(place, rounds, seconds, requests),
    }
    results = read_results(path)
    for name in [name for name in parts if name not in results]:
        print(f"{name} of {' and '.join(FRONTS)} …", flush=True)
        results |= {name: parts[name](), "archive": place.archive.name, "machine": describe_machine()}
        write_whole(path, (json.dumps(results, indent=1) + "\n").encode())


def installed(extra: str) -> dict[str, float]:
    """MB of the files of each distribution that an extra of this project needs, by name."""
    project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
    own, found = {"": project["dependencies"], **project["optional-dependencies"]}, dict[str, float]()
    left, known = [(project["name"], ""), (project["name"], extra)], set[tuple[str, str]]()
    while left:
        if (one := left.pop()) in known:
            continue
        known.add(one)
        lines = own.get(one[1], [])
        if one[0] != project["name"]:
            its = distribution(one[0])
            files = [Path(str(file.locate())) for file in its.files or ()]
            found[its.name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
            lines = its.requires or []
        for need in map(Requirement, lines):
            if need.marker is None or need.marker.evaluate({"extra": one[1]}):
                left += [(need.name, part) for part in ("", *need.extras)]
    return dict(sorted(found.items(), key=lambda its: -its[1]))


def _first_answers(place: Place, rounds: int) -> dict[str, list[float]]:
    """Seconds of each start, until a prediction has come."""
    spent: dict[str, list[float]] = {front: [] for front in FRONTS}
    for number in range(rounds):
        for front in turns([*FRONTS], number):
            with replace(place, front=front).server(started=False) as server:
                started = time.monotonic()
                server.start()
                while not Clients(server=server, pool=place.pool).ask_next().right:
                    time.sleep(0.02)
                spent[front].append(time.monotonic() - started)
    return spent


def _served(place: Place, rounds: int, seconds: float, requests: int) -> dict[str, Any]:
    pictures = [one.jpeg for one in place.pool]
    with ExitStack() as stack:
        servers = {front: stack.enter_context(replace(place, front=front).server()) for front in FRONTS}
        addresses = {front: f"{server.address}/predictions/{place.model}" for front, server in servers.items()}
        measured, memory = measure_turns(_TASKS, addresses, pictures, rounds, seconds), {}
        for front, server in servers.items():
            sent = sum(one["requests"] for one in measured if one["contender"] == front)
            while sent < requests:
                sent += len(post_for(addresses[front], _HEADERS[PREDICT], pictures, 4, seconds).answers)
            memory[front] = {"requests": sent, "mib": resident_memory(server.pid) / 2**20}
    return {"measured": measured, "memory": memory}


def describe_fronts(results: Results) -> dict[str, Any]:
    """What a page tells of complete results: its rows, and each target with value, threshold and verdict."""
    by = {(one["task"], one["concurrency"], one["contender"]): one for one in results["served"]["measured"]}
    pairs = [(by[task, many, TORCHSERVE], one) for (task, many, front), one in by.items() if front == LIGHT]
    keys = ("rounds_per_s", "rounds_p99_ms")
    rows = [(first, its, *(ratio(its[key], first[key]).median for key in keys)) for first, its in pairs]
    starts = {front: summarise(its) for front, its in results["start_s"].items()}
    alone: dict[str, dict[str, float]] = {
        "seconds to the first right answer": {front: its.median for front, its in starts.items()},
        "MiB resident after the load": {front: its["mib"] for front, its in results["served"]["memory"].items()},
        "MB installed beside Python": {front: sum(its.values()) for front, its in results["installed_mb"].items()},
    }
    rates = {task: min(rate for _, one, rate, _ in rows if one["task"] == task) for task in (PREDICT, EXPLAIN)}
    targets: list[tuple[str, float, float, bool]] = [
        ("rate of predictions, times TorchServe's", rates[PREDICT], 1.5, True),
        ("rate of three maps, times TorchServe's", rates[EXPLAIN], 1.25, True),
        ("p99, times TorchServe's", max(p99 for *_, p99 in rows), 1.0, False),
        *((name, its[LIGHT], most, False) for (name, its), most in zip(alone.items(), (2, 350, 400), strict=True)),
    ]
    judged = [(*one, one[1] >= one[2] if one[3] else one[1] <= one[2]) for one in targets]
    return {**results, "rows": rows, "alone": alone, "targets": judged}
