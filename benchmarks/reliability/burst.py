"""A burst larger than the queue: how many are refused, and how fast they learn it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.reliability.asking import Seen, ask, percentiles, together
from benchmarks.reliability.pictures import Drawn
from benchmarks.reliability.profile import FORMS, request
from deploy.local_server import LocalServer

SIZE = 64  # requests of a burst: four times the queue
_KIND = "all maps"  # the slowest ones, so that the queue does not empty while the burst arrives


def bursts(server: LocalServer, pool: Sequence[Drawn], rounds: int = 5, size: int = SIZE) -> dict[str, Any]:
    """Sends bursts and describes the refused and the answered requests."""
    seen: list[Seen] = []
    for number in range(rounds):
        asked = [
            request(number * size + place, _KIND, FORMS[place % 3], pool[place % len(pool)]) for place in range(size)
        ]
        seen += together([partial(ask, server, one) for one in asked])
    refused, answered = [one.ms for one in seen if one.refused], [one.ms for one in seen if one.right]
    return {
        "bursts": rounds,
        "requests_each": size,
        "answered": len(answered),
        "answered_ms": percentiles(answered),
        "refused": len(refused),
        "refused_ms": percentiles(refused),
        "neither": len(seen) - len(refused) - len(answered),
        "neither_examples": sorted({one.wrong for one in seen if not one.right and not one.refused})[:3],
    }
