"""Measures one network at one number of threads, batch size after batch size, all contenders side by side."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.agreement import agrees, differences, read_outputs
from benchmarks.contenders import CONTENDERS, OURS_TORCH
from benchmarks.results import describe_setting
from benchmarks.rounds import Child, Who, children, measure
from benchmarks.work import TASKS, Work

WHO = sorted(CONTENDERS, key=lambda who: TASKS.index(who[0]))


def warm_disk(work: Work) -> None:
    """Starts each library once before any loading is measured: a first start reads its files from the disk."""
    for who in {name: (task, name) for task, name in WHO}.values():
        Child(work, who, 1, work.folder / "warming.log").close()


def measure_settings(
    work: Work, threads: int, rounds: Mapping[int, int], seconds: float, limit: float, tell: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Measures batch sizes in ascending order, because a process's peak memory only grows.

    Args:
        work: of the network.
        threads: that every contender may use.
        rounds: batch size to the largest number of rounds.
        seconds: of timed calls in a turn.
        limit: seconds for a batch size, beyond which it has fewer rounds.
        tell: is told what runs.

    Yields:
        Each batch size with its part of the results.
    """
    with children(work, WHO, threads, tell) as running:
        loading = {who: {"load_s": one.load_s, "holds_torch": one.holds_torch} for who, one in running.items()}
        tell("comparing outputs")
        agreement = _agreement(running, min(rounds))
        for batch in sorted(rounds):
            measured = measure(running, batch, rounds[batch], seconds, limit, tell)
            yield batch, describe_setting(work.network, batch, threads, measured, loading, agreement)


def _agreement(running: Mapping[Who, Child], batch: int) -> dict[Who, dict[str, Any]]:
    """Each contender's outputs against ours (torch), on the same pictures."""
    outputs = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (who, child) in enumerate(running.items()):
            path = f"{folder}/{place}.npz"
            child.ask(do="outputs", batch=batch, path=path)
            outputs[who] = read_outputs(path)
    found = {who: differences(one, outputs[who[0], OURS_TORCH]) for who, one in outputs.items()}
    return {who: {"differences": one, "agrees": agrees(one)} for who, one in found.items()}
