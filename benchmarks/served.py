"""Requests per second and their times through real servers: TorchServe with our, a plain and the stock handler."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.load import Load, Seen, WrongAnswer, described_workers, percentiles, post_for
from benchmarks.machine import describe_machine
from benchmarks.results import summarise
from benchmarks.rounds import turns
from benchmarks.work import EXPLAIN, NAIVE, OURS, PREDICT, STOCK, Work
from deploy.local_server import LocalServer, temporary_server

CONCURRENCIES = (1, 4, 16)
_CONFIG = Path(__file__).parents[1] / "config.properties"
_PAUSE = 0.5  # seconds before each turn
_MAPS = ("gradcam", "guided_backprop", "guided_gradcam")


@dataclass(frozen=True, eq=False)
class Served:
    """A way to ask one of the servers."""

    task: str
    name: str  # of the archive
    headers: dict[str, str]


JPEG = {"Content-Type": "image/jpeg"}
SERVED_TASKS = (
    Served(EXPLAIN, OURS, JPEG),
    Served(EXPLAIN, NAIVE, JPEG),
    Served(PREDICT, OURS, {**JPEG, "X-Explain-Maps": "none"}),
    Served(PREDICT, STOCK, JPEG),
)


class _PlainServer(LocalServer):
    """One whose handler answers no readiness probe: the worker's state says when it can be asked."""

    def _is_ready(self) -> bool:
        workers = described_workers(self, 5)
        return bool(workers) and all(worker["status"] == "READY" for worker in workers)


@contextmanager
def _serving(store: Path, model: str) -> Iterator[str]:
    """Serves ``store/model.mar`` with this project's ``config.properties``; yields where clients post pictures."""
    # the frontend's metrics process would wake up every minute
    settings = {"model_store": str(store), "load_models": f"{model}.mar", "metric_time_interval": "3600"}
    with temporary_server(_CONFIG, model, store / "logs" / model, settings, started=False) as described:
        server = _PlainServer(**vars(described))
        server.start()
        yield f"{server.address}/predictions/{model}"


def measure_served(work: Work, rounds: int, seconds: float) -> dict[str, Any]:
    """Serves all archives and puts one after the other under load.

    Args:
        work: of the network that is served.
        rounds: turns of each handler and task at each concurrency.
        seconds: of load in a turn.

    Raises:
        WrongAnswer: any answer that is not what was asked for.
    """
    store = written_store(work)
    pictures = [path.read_bytes() for path in sorted(store.glob("*.jpg"))]
    with ExitStack() as stack:
        addresses = {name: stack.enter_context(_serving(store, name)) for name in (OURS, NAIVE, STOCK)}
        measured = measure_turns(SERVED_TASKS, addresses, pictures, rounds, seconds)
    return {"network": work.network, "machine": describe_machine(), "measured": measured}


def written_store(work: Work) -> Path:
    """The folder with the archives and the pictures, which are written first."""
    store = work.folder / "store"
    command = [sys.executable, "-m", "benchmarks.prepare", work.network, str(work.folder), str(store)]
    subprocess.run(command, check=True)
    return store


def measure_turns(
    tasks: Sequence[Served], addresses: Mapping[str, str], pictures: list[bytes], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Puts the servers at the addresses, which are named as the tasks are, under load in turns; see ``measure_served``.

    Raises:
        WrongAnswer: any answer that is not what was asked for, or finds another class than the others do.
    """
    expected, measured = _agreed_classes(tasks, addresses, pictures), []
    with tqdm(total=rounds * len(tasks) * len(CONCURRENCIES), desc="served") as bar:
        for concurrency in CONCURRENCIES:
            loads: dict[Served, list[Load]] = {asked: [] for asked in tasks}
            for number in range(rounds):
                for asked in turns(tasks, number):
                    bar.set_postfix_str(f"concurrency {concurrency}: {asked.name}, {asked.task}")
                    time.sleep(_PAUSE)
                    load_for = partial(post_for, addresses[asked.name], asked.headers, pictures, concurrency)
                    load_for(min(1.0, seconds / 4))  # warm up
                    load = load_for(seconds)
                    for picture, answer in load.answers:
                        if (found := top_class(asked, answer)) != expected[picture]:
                            raise WrongAnswer(f"{asked.name}: class {found}, expected {expected[picture]}")
                    loads[asked].append(load)
                    bar.update()
            measured += [_described(asked, concurrency, its) for asked, its in loads.items()]
    return measured


def _agreed_classes(tasks: Sequence[Served], addresses: Mapping[str, str], pictures: list[bytes]) -> list[int]:
    """The top class of each picture, which must be the same from every server."""
    found = []
    for asked in tasks:
        answers = [post_for(addresses[asked.name], asked.headers, [one], 1, 0.0).answers[0] for one in pictures]
        found.append([top_class(asked, one) for _, one in answers])
        if found[-1] != found[0]:
            raise WrongAnswer(f"{asked.name} ({asked.task}) finds {found[-1]}, but {tasks[0].name} finds {found[0]}")
    return found[0]


def top_class(asked: Served, answer: Seen) -> int:
    """The class with the highest probability.

    Raises:
        WrongAnswer: the pictures of an explanation are none.
    """
    content = json.loads(answer.body)
    if asked.name == STOCK:  # {"17": 0.4, …}, best first
        return int(next(iter(content)))
    if asked.task != PREDICT:
        maps = content if asked.name == NAIVE else content["explanations"][0]["maps"]
        for name in _MAPS if asked.task == EXPLAIN else _MAPS[:1]:
            data = maps[name] if asked.name == NAIVE else maps[name]["data"]
            if not base64.b64decode(data).startswith(b"\x89PNG"):
                raise WrongAnswer(f"{asked.name}: {name} is no PNG")
    return int(content["predictions"][0]["index"])


def _described(asked: Served, concurrency: int, loads: list[Load]) -> dict[str, Any]:
    rates, times = [load.per_s for load in loads], [answer.ms for load in loads for _, answer in load.answers]
    who = {"task": asked.task, "contender": asked.name, "concurrency": concurrency}
    figures = {f"{name}_ms": value for name, value in percentiles(times, digits=4).items() if name != "max"}
    slow = [percentiles([answer.ms for _, answer in load.answers], digits=4)["p99"] for load in loads]
    rounds = {"rounds_per_s": rates, "rounds_p99_ms": slow}
    return {**who, "per_s": summarise(rates).median, **rounds, **figures, "requests": len(times)}
