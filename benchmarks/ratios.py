"""The arithmetic: medians, quartiles, ratios of rounds measured side by side, and the ratios that must be reached."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contenders import CAPTUM, EAGER, OURS_ONNX, OURS_TORCH, PYTORCH_GRAD_CAM
from benchmarks.work import EXPLAIN, GRADCAM, PREDICT

OURS, NAIVE, STOCK = "ours", "naive", "stock"  # servers


@dataclass(frozen=True)
class Summary:
    """Of several values."""

    median: float
    quartiles: tuple[float, float]  # the lower and the upper one


def summarise(values: Sequence[float]) -> Summary:
    """Median and quartiles; a single value is its own quartiles."""
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Summary(median, (lower, upper))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """The median of the ratios of each round; a round's values were measured one shortly after the other.

    Raises:
        ValueError: not equally many rounds.
    """
    return summarise([above / below for above, below in zip(numerators, denominators, strict=True)])


@dataclass(frozen=True)
class Target:
    """A ratio of ``results.json`` and what it must reach."""

    key: str
    above: tuple[str, str]  # task and contender of the numerator
    below: tuple[str, str]  # of the denominator
    threshold: float
    at_least: bool  # whether more is better
    served: bool = False  # requests per second of servers, not milliseconds of calls


TARGETS = (
    Target("explain_speedup_vs_pytorch_grad_cam", (EXPLAIN, PYTORCH_GRAD_CAM), (EXPLAIN, OURS_ONNX), 8.0, True),
    Target("explain_speedup_vs_captum", (EXPLAIN, CAPTUM), (EXPLAIN, OURS_ONNX), 4.0, True),
    Target("explain_over_onnx_predict", (EXPLAIN, OURS_ONNX), (PREDICT, OURS_ONNX), 2.4, False),
    Target("explain_over_torch_forward", (EXPLAIN, OURS_ONNX), (PREDICT, EAGER), 1.0, False),
    Target("gradcam_over_onnx_predict", (GRADCAM, OURS_ONNX), (PREDICT, OURS_ONNX), 1.08, False),
    Target("predict_speedup_vs_torch_eager", (PREDICT, EAGER), (PREDICT, OURS_ONNX), 2.3, True),
    Target("torch_engine_speedup_vs_pytorch_grad_cam", (EXPLAIN, PYTORCH_GRAD_CAM), (EXPLAIN, OURS_TORCH), 2.3, True),
    Target("served_explain_speedup_vs_naive", (EXPLAIN, OURS), (EXPLAIN, NAIVE), 5.0, True, served=True),
    Target("served_predict_speedup_vs_stock", (PREDICT, OURS), (PREDICT, STOCK), 1.5, True, served=True),
)
