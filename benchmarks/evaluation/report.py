"""The page about the maps' quality, from ``quality.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.page import fill
from examples.efficientnet_lite0.photographs import known_photographs
from handler.protocol.options import Options


class Measure(NamedTuple):
    """A column of the tables."""

    key: str
    title: str
    higher: bool = True  # is better
    ranked: bool = True  # counts for the mean rank


MEASURES = (
    Measure("pointing", "pointing game", ranked=False),
    Measure("exact_pointing", "peak in the box"),
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

_SAME = 0.999  # Spearman's correlation


def render(content: Mapping[str, Any]) -> str:
    """Markdown of ``quality.json``'s content."""
    return fill(
        Path(__file__).with_name("page.md"),
        {"figure": lambda value: "–" if value is None else f"{value:.3f}"},
        **content,
        **{"measures": MEASURES, "default": Options().method, "mean_ranks": mean_ranks, "blind": blind},
        photographs=known_photographs(),
    )


def ranks(subject: Mapping[str, Any], key: str) -> dict[str, float]:
    """The place of each way by a measure, best first from 1; equal values share the mean place. Baselines have none."""
    (measure,) = (one for one in MEASURES if one.key == key)
    values = {name: way[key] for name, way in subject["ways"].items() if not way["baseline"] and key in way}
    signed = np.array(list(values.values())) * (-1 if measure.higher else 1)
    places = (signed[:, None] > signed).sum(axis=1) + ((signed[:, None] == signed).sum(axis=1) + 1) / 2
    return dict(zip(values, places.tolist(), strict=True))


def mean_ranks(subject: Mapping[str, Any]) -> dict[str, float]:
    """The mean place of each way that looks at the class, over the ranked measures, best first."""
    tables = [table for measure in MEASURES if measure.ranked and (table := ranks(subject, measure.key))]
    means = {
        name: float(np.mean([table[name] for table in tables])) for name in tables[0] if name not in blind(subject)
    }
    return dict(sorted(means.items(), key=lambda one: one[1]))


def blind(subject: Mapping[str, Any]) -> list[str]:
    """The ways whose maps stay the same when the logits' layer is random: they do not look at the class."""
    return [
        name for name, way in subject["ways"].items() if not way["baseline"] and (way["randomised"][0] or 0) > 0.999
    ]
