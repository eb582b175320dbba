"""Measures one network at one number of threads, batch size after batch size, all contenders side by side.

Before that their outputs on the same pictures are compared with ours (torch): whether they did the same work.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.contenders import CONTENDERS, OURS_TORCH, Outputs
from benchmarks.results import describe_setting
from benchmarks.rounds import Child, Who, children, measure
from benchmarks.work import TASKS, Work
from handler.explanation.evidence import Floats
from handler.explanation.maps import combine, scale

WHO = sorted(CONTENDERS, key=lambda who: TASKS.index(who[0]))
TOLERANCE = 1e-3  # of the largest value: Grad-CAM and scores differ by float32 rounding only
# of guided pixels: where rounding decides the sign of an activation a gate flips, and the pixels behind it differ
SHARE_BEYOND, MOST = 0.1, 0.05


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
        seconds: of timed calls in a contender's turn; a turn has one call at least.
        limit: seconds for all rounds of a batch size, see ``affordable``.
        tell: is told what runs.

    Yields:
        Each batch size with its part of the results.
    """
    with children(work, WHO, threads, tell) as running:
        tell("comparing outputs")
        outputs: dict[Who, Outputs] = {who: one.ask("outputs", batch=min(rounds)) for who, one in running.items()}
        known: dict[Who, dict[str, Any]] = {}
        for who, one in running.items():
            found = differences(outputs[who], outputs[who[0], OURS_TORCH])
            known[who] = {"load_s": one.load_s, "holds_torch": one.holds_torch}
            known[who] |= {"differences": found, "agrees": agrees(found)}
        for batch in sorted(rounds):
            measured = measure(running, batch, rounds[batch], seconds, limit, tell)
            yield batch, describe_setting(work.network, batch, threads, measured, known)


def differences(found: Outputs, expected: Outputs) -> dict[str, float]:
    """The largest difference of each output, as a share of the largest expected value.

    Maps are compared on [0, 1] at the size that ``found`` has, because libraries scale and upsample them. Of the guided
    gradient the entry is the 90th percentile, and ``guided_most`` the largest.
    """
    result = {"logits": _largest(found.logits, expected.logits)}
    if found.gradcam is not None and expected.gradcam is not None:
        height, width = found.gradcam.shape[1:]
        scaled = np.stack([combine([one], height, width) for one in expected.gradcam])  # as pytorch-grad-cam does
        result["gradcam"] = _largest(np.stack([scale(one) for one in found.gradcam]), scaled)
    if found.guided is not None and expected.guided is not None:
        shares = np.abs(found.guided - expected.guided) / np.abs(expected.guided).max()
        result["guided"] = float(np.quantile(shares, 1 - SHARE_BEYOND))
        result["guided_most"] = float(shares.max())
    return result


def agrees(found: dict[str, float]) -> bool:
    """Whether differences are those of rounding; not a number is a difference."""
    limits = {"guided_most": MOST}
    return all(value <= limits.get(name, TOLERANCE) for name, value in found.items())


def _largest(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
