"""``results.json``, and the ratios of rounds measured side by side that must be reached.

The file is written part by part, each part whole, so that a run can be stopped and taken up again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import CAPTUM, EAGER, INDUCTOR, OURS_ONNX, OURS_TORCH, PYTORCH_GRAD_CAM, Who
from benchmarks.work import (
    EXPLAIN,
    EXPLAIN_OF_FIVE,
    GRADCAM,
    GRADCAM_OF_FIVE,
    KEY_NETWORK,
    NAIVE,
    OURS,
    PREDICT,
    STOCK,
)
from handler.atomic_write import write_whole

Results = dict[str, Any]
PATH = Path(__file__).with_name("results.json")


def setting_key(network: str, batch: int, threads: int) -> str:
    """The name of a setting among the results."""
    return f"{network}, batch {batch}, threads {threads}"


KEY_SETTING = setting_key(KEY_NETWORK, 1, 2)


class Summary(NamedTuple):
    """Of several values."""

    median: float
    quartiles: list[float]  # the lower and the upper one


def summarise(values: Sequence[float]) -> Summary:
    """Median and quartiles; a single value is its own quartiles."""
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    return Summary(median, [lower, upper])


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """The median of the ratios of each round; a round's values were measured one shortly after the other.

    Raises:
        ValueError: not equally many rounds.
    """
    return summarise([above / below for above, below in zip(numerators, denominators, strict=True)])


class Target(NamedTuple):
    """A ratio of ``results.json`` and what it must reach."""

    key: str
    above: tuple[str, str]  # task and contender of the numerator
    below: tuple[str, str]  # of the denominator
    threshold: float
    at_least: bool  # whether more is better
    served: bool = False  # requests per second of servers, not milliseconds of calls


TARGETS = (
    Target("explain_speedup_vs_pytorch_grad_cam", (EXPLAIN, PYTORCH_GRAD_CAM), (EXPLAIN, OURS_ONNX), 9.0, True),
    Target("explain_speedup_vs_captum", (EXPLAIN, CAPTUM), (EXPLAIN, OURS_ONNX), 4.0, True),
    Target("explain_speedup_vs_inductor", (EXPLAIN, INDUCTOR), (EXPLAIN, OURS_ONNX), 1.5, True),
    Target("explain_over_gradcam", (EXPLAIN, OURS_ONNX), (GRADCAM, OURS_ONNX), 2.1, False),
    Target("explain_over_torch_forward", (EXPLAIN, OURS_ONNX), (PREDICT, EAGER), 1.0, False),
    Target("gradcam_over_onnx_predict", (GRADCAM, OURS_ONNX), (PREDICT, OURS_ONNX), 1.08, False),
    Target("gradcam_of_five_classes_over_one", (GRADCAM_OF_FIVE, OURS_ONNX), (GRADCAM, OURS_ONNX), 1.3, False),
    Target("explain_of_five_classes_over_one", (EXPLAIN_OF_FIVE, OURS_ONNX), (EXPLAIN, OURS_ONNX), 3.4, False),
    Target("predict_speedup_vs_torch_eager", (PREDICT, EAGER), (PREDICT, OURS_ONNX), 2.3, True),
    Target("torch_engine_speedup_vs_pytorch_grad_cam", (EXPLAIN, PYTORCH_GRAD_CAM), (EXPLAIN, OURS_TORCH), 2.3, True),
    Target("served_explain_speedup_vs_naive", (EXPLAIN, OURS), (EXPLAIN, NAIVE), 6.0, True, served=True),
    Target("served_predict_speedup_vs_stock", (PREDICT, OURS), (PREDICT, STOCK), 2.2, True, served=True),
)


def read_results(path: Path) -> Results:
    """What was measured so far; nothing where there is no file."""
    found: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_results(path: Path, results: Results) -> None:
    """Adds the target ratios and writes the file, whole or not at all."""
    details = target_details(results)
    content = {key: detail["value"] for key, detail in details.items()}
    content |= {key: results[key] for key in sorted(results) if key not in details} | {"targets": details}
    rounded = json.loads(json.dumps(content), parse_float=lambda text: float(f"{float(text):.5g}"))
    write_whole(path, (json.dumps(rounded, indent=1) + "\n").encode())


def target_details(results: Results) -> dict[str, dict[str, Any]]:
    """Each target's value, quartiles and threshold, and whether and by how much it was missed.

    Of a served target that is the concurrency with the smallest ratio.
    """
    calls = _rounds(results.get("settings", {}).get(KEY_SETTING, {}).get("contenders", []), "rounds_ms")
    served = _rounds(results.get("served", {}).get("measured", []), "rounds_per_s")
    details = {}
    for target in TARGETS:
        measured = [its for its in (served if target.served else calls) if {target.above, target.below} <= set(its)]
        ratios = [ratio(its[target.above], its[target.below]) for its in measured]
        found = min(ratios, key=lambda one: one.median, default=None)
        detail: dict[str, Any] = {"threshold": target.threshold, "at_least": target.at_least}
        if found:
            lacking = (found.median - target.threshold) / target.threshold * (-1 if target.at_least else 1)
            detail |= {"value": found.median, "quartiles": found.quartiles}
            detail |= {"reached": lacking <= 0, "missed_by": max(0.0, lacking)}
        details[target.key] = dict.fromkeys(("value", "quartiles", "reached", "missed_by")) | detail
    return details


def _rounds(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[Who, list[float]]]:
    """The rounds of all contenders side by side, of servers once for each concurrency."""
    groups: dict[int | None, dict[Who, list[float]]] = {}
    for one in rows:
        groups.setdefault(one.get("concurrency"), {})[one["task"], one["contender"]] = one[name]
    return list(groups.values())
