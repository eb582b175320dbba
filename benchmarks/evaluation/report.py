"""The page about the maps' quality, from ``quality.json``."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from benchmarks.page import fill
from examples.efficientnet_lite0.photographs import known_photographs
from handler.explanation.methods import METHODS


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
        **{"measures": MEASURES, "mean_ranks": mean_ranks, "blind": blind},
        photographs=known_photographs(),
    )


def ranks(subject: Mapping[str, Any], key: str, among: Collection[str] | None = None) -> dict[str, float]:
    """The place of each way by a measure, best first from 1; equal values share the mean place. Baselines have none."""
    (measure,) = (one for one in MEASURES if one.key == key)
    ways = {name: way for name, way in subject["ways"].items() if not way["baseline"] and key in way}
    values = {name: way[key] for name, way in ways.items() if among is None or name in among}
    # float32 decides the digits behind the fourth: formulas that are equal on a network share their places
    places = scipy.stats.rankdata(np.array(list(values.values())).round(4) * (-1 if measure.higher else 1))
    return dict(zip(values, places.tolist(), strict=True))


def mean_ranks(subject: Mapping[str, Any]) -> dict[str, float]:
    """The mean place of each method of one pass that looks at the class, over the ranked measures, best first."""
    one_pass = {name for name, method in METHODS.items() if not method.passes} - set(blind(subject))
    tables = [table for its in MEASURES if its.ranked and (table := ranks(subject, its.key, one_pass))]
    means = {name: float(np.mean([table[name] for table in tables])) for name in tables[0]}
    return dict(sorted(means.items(), key=lambda one: one[1]))


def blind(subject: Mapping[str, Any]) -> list[str]:
    """The ways whose maps stay the same when the logits' layer is random: they do not look at the class."""
    ways = {name: way["randomised"][0] or 0 for name, way in subject["ways"].items() if not way["baseline"]}
    return [name for name, like in ways.items() if like > _SAME]
