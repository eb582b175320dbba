"""The plot of ``results.json``: how long an explanation takes, network by network, and what a server answers."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contenders import CAPTUM, EAGER, INDUCTOR, OPENVINO, OURS_ONNX, OURS_TORCH, PYTORCH_GRAD_CAM, TORCHCAM
from benchmarks.results import Results, read_results, setting_key
from benchmarks.work import EXPLAIN, NAIVE, NETWORKS, OURS, PREDICT, STOCK

_COLOURS = {
    PYTORCH_GRAD_CAM: "#c44e52",
    CAPTUM: "#dd8452",
    TORCHCAM: "#937860",
    EAGER: "#8c8c8c",
    INDUCTOR: "#55a868",
    OPENVINO: "#b8cf8f",
    OURS_TORCH: "#8fb0dc",
    OURS_ONNX: "#2f5c9e",
    OURS: "#2f5c9e",
    NAIVE: "#c44e52",
    STOCK: "#8c8c8c",
}
_SERVED_NAMES = {OURS: "ours", NAIVE: "plain handler around pytorch-grad-cam", STOCK: "stock image_classifier"}


def plot(results: Path) -> None:
    """Writes ``results.png`` beside ``results.json``."""
    matplotlib.use("Agg")
    found = read_results(results)
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplot_mosaic([["time", "time"], ["explain", "predict"]])
    _times(axes["time"], found)
    _rates(axes["explain"], found, EXPLAIN, "Served explanations (prediction and three PNG pictures)")
    _rates(axes["predict"], found, PREDICT, "Served predictions")
    figure.savefig(results.with_name("results.png"), dpi=110)


def _times(axes: Axes, results: Results) -> None:
    """Grouped bars: an explanation by each contender, and PyTorch's bare prediction, for each network."""
    bars: dict[str, dict[str, float]] = {name: {} for name in _COLOURS}
    for network in NETWORKS:
        for one in results.get("settings", {}).get(setting_key(network, 1, 2), {}).get("contenders", []):
            if one["task"] == EXPLAIN or one["contender"] == EAGER:
                bars[one["contender"]][network] = one["median_ms"]
    networks = [network for network in NETWORKS if any(network in its for its in bars.values())]
    rows = {name: [its.get(one) for one in networks] for name, its in bars.items() if its}
    _grouped(axes, rows, networks, {EAGER: f"{EAGER}: prediction only"})
    axes.set_yscale("log")
    times = [time for its in bars.values() for time in its.values()] or [1.0]
    axes.set_ylim(min(times) / 2, max(times) * 4)  # room for the legend
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_ylabel("milliseconds (log scale)")
    axes.set_title("Prediction, Grad-CAM and guided backprop of one 224x224 picture, 2 threads (lower is better)")


def _rates(axes: Axes, results: Results, task: str, title: str) -> None:
    measured: list[dict[str, Any]] = results.get("served", {}).get("measured", [])
    rates = {(one["contender"], one["concurrency"]): one["per_s"] for one in measured if one["task"] == task}
    levels = sorted({level for _, level in rates})
    names = {name for name, _ in rates}
    rows = {name: [rates.get((name, level)) for level in levels] for name in _SERVED_NAMES if name in names}
    _grouped(axes, rows, [str(level) for level in levels], _SERVED_NAMES)
    axes.set_xlabel("requests at once")
    axes.set_ylabel("requests per second")
    axes.set_title(f"{title} (higher is better)")


def _grouped(axes: Axes, rows: dict[str, list[float | None]], ticks: list[str], labels: dict[str, str]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.22)  # room for the legend
    if not rows:
        return
    heights = [np.array(row, float) for row in rows.values()]  # None: NaN, which is no bar
    names, colours = [labels.get(name, name) for name in rows], [_COLOURS[name] for name in rows]
    bars: Any = axes.grouped_bar(
        heights, labels=names, colors=colours, tick_labels=ticks, group_spacing=1, bar_spacing=0.05
    )
    for one in bars.bar_containers:
        axes.bar_label(one, fmt=lambda value: f"{value:.0f}" if value >= 10 else f"{value:.1f}", fontsize=8, padding=1)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=len(rows))
