"""Whether contenders that are compared did the same work: their outputs on the same pictures, against ours (torch)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.contenders import OURS_TORCH, Outputs
from benchmarks.rounds import Child, Who
from handler.explanation.evidence import Floats
from handler.explanation.maps import combine, scale

TOLERANCE = 1e-3  # of the largest value: Grad-CAM and scores differ by float32 rounding only
# of guided pixels: where rounding decides the sign of an activation a gate flips, and the pixels behind it differ
SHARE_BEYOND, MOST = 0.1, 0.05


def agreement(running: Mapping[Who, Child], batch: int) -> dict[Who, dict[str, Any]]:
    """Each contender's differences on so many pictures, and whether it agrees."""
    outputs: dict[Who, Outputs] = {who: child.ask("outputs", batch=batch) for who, child in running.items()}
    found = {who: differences(one, outputs[who[0], OURS_TORCH]) for who, one in outputs.items()}
    return {who: {"differences": one, "agrees": agrees(one)} for who, one in found.items()}


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
