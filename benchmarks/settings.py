"""Measures one network at one number of threads, batch size after batch size, all contenders side by side."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.agreement import agreement
from benchmarks.contenders import CONTENDERS
from benchmarks.results import describe_setting
from benchmarks.rounds import Child, children, measure
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
        known = {who: {"load_s": one.load_s, "holds_torch": one.holds_torch} for who, one in running.items()}
        tell("comparing outputs")
        for who, found in agreement(running, min(rounds)).items():
            known[who] |= found
        for batch in sorted(rounds):
            measured = measure(running, batch, rounds[batch], seconds, limit, tell)
            yield batch, describe_setting(work.network, batch, threads, measured, known)
