"""The page about all networks, from their rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import fill
from tests.zoo.networks import GROUPS, group_of

Row = Mapping[str, Any]

CLOSE = 1e-4  # relative error that an explanation graph is held to
CLOSE_MAP = 1e-3  # of maps on [0, 1]
_GUIDED = "guided_backprop"


def render(content: Mapping[str, Any]) -> str:
    """Markdown of ``zoo.json``'s content."""
    rows: list[Row] = content["networks"]
    counts = Counter(row["cpu"] for row in rows if "cpu" in row)  # a run that went on elsewhere has several
    return fill(
        Path(__file__).with_name("page.md"),
        {"number": lambda value: "0" if value == 0 else "–" if math.isnan(value) else f"{value:.0e}"},
        rows=rows,
        groups={group: [row for row in rows if group_of(row["network"]) == group] for group in GROUPS},
        machine=content["machine"],
        **{"summary": summary, "explanation": explanation, "worst_error": worst_error},
        **{"close": CLOSE, "close_map": CLOSE_MAP},
        processors=" and ".join(f"{cpu} ({count} networks)" for cpu, count in counts.most_common()),
    )


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """How many networks have what; by its kind, how many have which graph of the explanation."""
    explained = [row for row in rows if "graphs" in row and worst_error(row) is not None]
    close = [row for row in explained if is_close(row)]
    guided = [its[_GUIDED] for _, graph in map(explanation, close) if (its := graph["errors"]).get(_GUIDED)]
    return {
        "measured": sum("graphs" in row for row in rows),
        "explained": len(explained),
        **{kind: sum(explanation(row)[0] == kind for row in explained) for kind in ("explanation", "saliency")},
        "close": len(close),
        "guided": len(guided),
        "exact": sum(its["graph"][0] <= CLOSE for its in guided),
        "as_torch": sum(CLOSE < its["graph"][0] <= its["torch"][0] for its in guided),
    }


def explanation(row: Row) -> tuple[str, Mapping[str, Any]]:
    """The kind of the whole explanation's graph, and what is known of it."""
    ((kind, graph),) = [one for one in row["graphs"].items() if one[0] in ("explanation", "saliency")]
    return kind, graph


def worst_error(row: Row) -> float | None:
    """Of the explanation graph, guided backprop aside; None if there is no such graph."""
    _, graph = explanation(row)
    if "refused" in graph:
        return None
    # of an output that was judged by its rounding, the lower quartile's
    outputs = [its for name, its in graph["errors"].items() if name != _GUIDED]
    return float(np.max([its["graph"][0] if isinstance(its, Mapping) else its for its in outputs]))  # NaN if any is


def is_close(row: Row) -> bool:
    """Whether all outputs that no gate can flip are as close as those of an exact graph: all but guided backprop."""
    error = worst_error(row)
    return error is not None and error <= CLOSE and row["engines"]["onnx"]["gradcam"] <= CLOSE_MAP
