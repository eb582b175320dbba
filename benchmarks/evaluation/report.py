"""The page about the maps' quality, from ``quality.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.evaluation.subjects import known_photographs
from benchmarks.page import fill
from handler.protocol.options import Options


class Measure(NamedTuple):
    """A column of the tables."""

    key: str
    title: str
    higher: bool = True  # is better
    ranked: bool = True  # counts for the mean rank


MEASURES = (
    Measure("pointing", "pointing game"),
    Measure("exact_pointing", "peak in the box", ranked=False),
    Measure("mass", "mass in the box"),
    Measure("own_share", "own object"),
    Measure("deletion", "deletion AUC", higher=False),
    Measure("insertion", "insertion AUC"),
    Measure("drop", "average drop", higher=False, ranked=False),
    Measure("increase", "increase", ranked=False),
    Measure("adcc", "ADCC"),
    Measure("road", "ROAD"),
    Measure("single_deletion", "single deletion"),
)
DEFAULT = Options().method


def render(content: Mapping[str, Any]) -> str:
    """Markdown of ``quality.json``'s content."""
    return fill(
        Path(__file__).with_name("page.md"),
        {"figure": lambda value: "–" if value is None else f"{value:.3f}"},
        **content,
        **{"measures": MEASURES, "default": DEFAULT, "mean_ranks": mean_ranks, "photographs": known_photographs()},
    )


def ranks(subject: Mapping[str, Any], key: str) -> dict[str, float]:
    """The place of each way by a measure, best first from 1; equal values share the mean place. Baselines have none."""
    (measure,) = (one for one in MEASURES if one.key == key)
    values = {name: way[key] for name, way in subject["ways"].items() if not way["baseline"] and key in way}
    signed = np.array(list(values.values())) * (-1 if measure.higher else 1)
    places = (signed[:, None] > signed).sum(axis=1) + ((signed[:, None] == signed).sum(axis=1) + 1) / 2
    return dict(zip(values, places.tolist(), strict=True))


def mean_ranks(subject: Mapping[str, Any]) -> dict[str, float]:
    """The mean place of each way over the ranked measures that the network's pictures allow, best first."""
    tables = [ranks(subject, measure.key) for measure in MEASURES if measure.ranked]
    means = {name: float(np.mean([table[name] for table in tables if table])) for name in tables[0]}
    return dict(sorted(means.items(), key=lambda one: one[1]))
