"""What one worker answers per second, profile by profile, and how many replicas a rate of requests needs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load import WrongAnswer, percentiles, post_for
from benchmarks.reliability.pictures import Drawn
from deploy.local_server import LocalServer

_JPEG = {"Content-Type": "image/jpeg"}
PROFILES: Mapping[str, Mapping[str, str]] = {
    "prediction": {**_JPEG, "X-Explain-Maps": "none"},
    "Grad-CAM": {**_JPEG, "X-Explain-Maps": "gradcam"},
    "three maps": _JPEG,
    "all maps": {**_JPEG, "X-Explain-Maps": "all"},
    "PNG sheet": {**_JPEG, "Accept": "image/png"},
}
CONCURRENCIES = (1, 2, 4, 8)  # below the queue, so that nothing is refused
UTILISATION = 0.7  # of a replica: waiting times grow without bound as it nears 1, and one replica may be down
RATES = (10, 50, 100, 500)  # requests per second that the table is made for


def measure_sizing(server: LocalServer, pool: Sequence[Drawn], seconds: float) -> list[dict[str, Any]]:
    """Loads a server with one profile after the other, at each concurrency.

    Raises:
        WrongAnswer: an answer that is not 200.
    """
    pictures, measured = [one.jpeg for one in pool], []
    address = f"{server.address}/predictions/{server.model}"
    for profile, headers in PROFILES.items():
        post_for(address, headers, pictures, 2, min(2.0, seconds / 2))  # warm up
        for concurrency in CONCURRENCIES:
            load = post_for(address, headers, pictures, concurrency, seconds)
            for _, one in load.answers:
                if one.saw != "200":
                    raise WrongAnswer(f"{profile} at concurrency {concurrency}: {one.saw} {one.body[:200]!r}")
            times, per_s = [one.ms for _, one in load.answers], round(load.per_s, 1)
            found = {"profile": profile, "concurrency": concurrency, "per_s": per_s, "requests": len(times)}
            measured.append(found | percentiles(times))
    return measured


def replicas(rate: float, per_s: float) -> int:
    """How many replicas that answer ``per_s`` a rate of requests needs: two at least, so that one may fail."""
    return max(2, math.ceil(rate / (per_s * UTILISATION)))
