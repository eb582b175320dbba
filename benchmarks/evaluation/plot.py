"""The plots of ``quality.json``: what each way to make a map is worth, and what is left of it in a random network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.evaluation.measure import STAGES
from benchmarks.evaluation.report import MEASURES, ranks

_GOOD, _PLAIN, _BASE = "#2f5c9e", "#8fb0dc", "#c0c0c0"


def plot(content: Mapping[str, Any], docs: Path) -> None:
    """Writes ``quality.png`` and ``quality-randomised.png``."""
    matplotlib.use("Agg")
    subjects = content["subjects"]
    shown = [measure for measure in MEASURES if measure.ranked]
    largest = max(len(subject["ways"]) for subject in subjects.values())
    figure = Figure(figsize=(2.1 * len(shown) + 2, (0.2 * largest + 1) * len(subjects)), layout="constrained")
    grid: Any = figure.subplots(len(subjects), len(shown), squeeze=False)
    for row, subject in zip(grid, subjects.values(), strict=True):
        for axes, measure in zip(row, shown, strict=True):
            _bars(axes, subject, measure.key, f"{measure.title} ({'higher' if measure.higher else 'lower'} is better)")
        row[0].set_yticks(range(len(subject["ways"])), [way["title"] for way in subject["ways"].values()], fontsize=7)
        row[0].set_ylabel(subject["title"].partition(" on ")[0], fontsize=8)
    figure.savefig(docs / "quality.png", dpi=80)
    figure = Figure(figsize=(5 * len(subjects), 5.5), layout="constrained")
    panels: Any = figure.subplots(1, len(subjects), squeeze=False, sharey=True)
    for axes, subject in zip(panels[0], subjects.values(), strict=True):
        _cascade(axes, subject)
    figure.savefig(docs / "quality-randomised.png", dpi=80)


def _bars(axes: Axes, subject: Mapping[str, Any], key: str, title: str) -> None:
    """A bar for each way; the best third is dark, baselines are grey."""
    ways = subject["ways"]
    places = ranks(subject, key)
    values = [way.get(key, np.nan) for way in ways.values()]
    colours = [
        _BASE if way["baseline"] else _GOOD if places.get(name, np.inf) <= len(places) / 3 else _PLAIN
        for name, way in ways.items()
    ]
    axes.barh(range(len(values)), values, color=colours)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title.replace(" (", "\n("), fontsize=8)


def _cascade(axes: Axes, subject: Mapping[str, Any]) -> None:
    """A line for each way; the names of those that change least in a random network stand at their ends."""
    ends = sorted(subject["ways"].values(), key=lambda way: -(way["randomised"][-1] or 0))
    for way in ends:
        stages = STAGES if len(way["randomised"]) == len(STAGES) else (STAGES[0], STAGES[-1])
        named = way in ends[:6]
        style: dict[str, Any] = {"label": way["title"]} if named else {"color": _BASE, "zorder": 0}
        axes.plot(stages, np.array(way["randomised"], float), marker=".", **style)
    axes.set_ylim(-1.05, 1.05)
    axes.set_title(subject["title"], fontsize=9)
    axes.set_xlabel(
        "share of layers with random weights, from the logits down\n(0: the layer of the logits alone)", fontsize=8
    )
    axes.set_ylabel("Spearman's correlation with the trained network's map", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False,
        fontsize=7,
        loc="lower left",
        title="the six that change least; the others are grey",
        title_fontsize=7,
    )
