"""The page about all networks, from their rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

CLOSE = 1e-4  # relative error that an explanation graph is held to
CLOSE_MAP = 1e-3  # of maps on [0, 1]
_GUIDED = "guided_backprop"
_HEAD = (
    *("network", "million weights", "pixels", "layer", "map", "guided backprop", "torch engine", "ONNX engine"),
    *("prediction graph", "Grad-CAM graph", "explanation graph", "error", "guided RMS error", "explain / predict"),
)
_INTRODUCTION = """# Every torchvision classifier

Made by `make zoo`; the figures are in [zoo.json](zoo.json). Weights are random, so drawn that activations have ordinary
magnitudes and most ReLUs are open (`benchmarks/zoo/weights.py`): deep random networks are chaotic otherwise, and
float32 itself would be far from float64. Pictures are those of the networks' own sizes, unless it is said below.

* **layer**: what `layer=auto` takes; **map**: its channels and cells.
* **guided backprop**: how many of the network's activations it reaches, or what is there instead of a ReLU: then it is
  refused with 422, and `saliency` is offered.
* **torch engine**, **ONNX engine**: against plain autograd in float32, written without this project's code, on two
  fresh pictures: the largest difference of Grad-CAM on [0, 1], then the relative RMS error of the guided gradient.
* **graphs**: size and time to export and verify, on one core of the machine below. An explanation graph holds guided
  backprop where there is a ReLU, else saliency.
* **error**: of the explanation graph against PyTorch over fresh pictures at batch 1, 3 and 8 (above 448 pixels: fewer
  than 8): the largest difference of scores, activations, gradients, Grad-CAM and saliency, as a part of the largest
  value.
* **guided RMS error**: of the guided gradient, against float64: the lower quartile of the pictures and the worst; in
  brackets those of PyTorch's own float32. Gates whose input is within rounding of zero flip in either. A letter r marks
  a gradient or a Grad-CAM that was judged in the same way, because such a gate lies right behind the layer.
* **explain / predict**: time of the explanation graph by that of the prediction graph in ONNX Runtime, one picture.
"""


def render(content: Mapping[str, Any]) -> str:
    """Markdown of ``zoo.json``'s content."""
    rows: list[Row] = content["networks"]
    machine = content["machine"]
    lines = [
        _INTRODUCTION,
        summary(rows),
        "",
        *_table(_HEAD, [_line(row) for row in rows if "graphs" in row]),
        "",
        *_refusals(rows),
        f"Measured on {machine['cores']} cores of {_processors(rows)}, {machine['memory_gb']} GB, "
        f"Python {machine['python']}, {', '.join(f'{name} {its}' for name, its in machine['packages'].items())}.",
        "",
    ]
    return "\n".join(lines)


def _processors(rows: Sequence[Row]) -> str:
    """The rows of a run that went on elsewhere come from several machines."""
    counts = Counter(row["cpu"] for row in rows if "cpu" in row)
    return " and ".join(f"{cpu} ({count} networks)" for cpu, count in counts.most_common())


def summary(rows: Sequence[Row]) -> str:
    """How many networks have what."""
    measured = [row for row in rows if "graphs" in row]
    explained = [row for row in measured if worst_error(row) is not None]
    close = [row for row in explained if is_close(row)]
    holds = Counter(explanation(row)[0] for row in explained)
    guided = [its[_GUIDED] for _, graph in map(explanation, close) if (its := graph["errors"]).get(_GUIDED)]
    exact = sum(its["graph"][0] <= CLOSE for its in guided)
    as_torch = sum(CLOSE < its["graph"][0] <= its["torch"][0] for its in guided)
    return (
        f"{len(rows)} networks: {len(measured)} measured, {len(explained)} with an explanation graph "
        f"({holds['explanation']} with guided backprop, {holds['saliency']} with saliency). Of {len(close)} of these "
        f"scores, activations, gradients, Grad-CAM and saliency are within {CLOSE:g} of PyTorch's (where a letter r "
        f"stands, of float64's, by the lower quartile), and maps on [0, 1] within {CLOSE_MAP:g}. {len(guided)} of them "
        f"have guided backprop: of {exact} its lower quartile, too, is within {CLOSE:g} of float64; of {as_torch} more "
        f"it is further away, but no further than PyTorch's own float32; of the other {len(guided) - exact - as_torch} "
        f"it is further than that, and within four times of it."
    )


def explanation(row: Row) -> tuple[str, Mapping[str, Any]]:
    """The kind of the whole explanation's graph, and what is known of it."""
    ((kind, graph),) = [one for one in row["graphs"].items() if one[0] in ("explanation", "saliency")]
    return kind, graph


def worst_error(row: Row) -> float | None:
    """Of the explanation graph, guided backprop aside; None if there is no such graph."""
    _, graph = explanation(row)
    if "refused" in graph:
        return None
    errors = [_error(its) for name, its in graph["errors"].items() if name != _GUIDED]
    return math.nan if any(math.isnan(one) for one in errors) else max(errors)


def is_close(row: Row) -> bool:
    """Whether all outputs that no gate can flip are as close as those of an exact graph: all but guided backprop."""
    error = worst_error(row)
    return error is not None and error <= CLOSE and row["engines"]["onnx"]["gradcam"] <= CLOSE_MAP


def _error(its: Any) -> float:
    """Of one output; where it was judged by its rounding, the lower quartile's."""
    return float(its["graph"][0] if isinstance(its, Mapping) else its)


def _line(row: Row) -> list[str]:
    channels, height, width = row["map"]
    kind, graph = explanation(row)
    engines = row["engines"]
    return [
        row["network"],
        f"{row['parameters'] / 1e6:.1f}",
        str(row["side"]),
        f"`{row['layer']}`",
        f"{channels} × {height} × {width}",
        _guided(row["guided"]),
        _engine(engines["torch"]),
        _engine(engines["onnx"]) if "onnx" in engines else "–",
        _graph(row["graphs"]["prediction"]),
        _graph(row["graphs"]["gradcam"]),
        _graph(graph),
        _errors(row),
        _rounding(graph),
        f"{row['times'][kind] / row['times']['prediction']:.2f}" if _both(row, kind) else "–",
    ]


def _engine(errors: Mapping[str, float | None]) -> str:
    guided = errors["guided"]
    return _number(errors["gradcam"] or 0) + ("" if guided is None else f", {_number(guided)}")


def _both(row: Row, kind: str) -> bool:
    return {kind, "prediction"} <= set(row.get("times", {}))


def _guided(its: Mapping[str, str]) -> str:
    if "coverage" in its:
        return its["coverage"].removesuffix(" activations")
    return "only " + its["refused"].partition("this one has ")[2].partition(";")[0]


def _graph(its: Mapping[str, Any]) -> str:
    return "refused" if "refused" in its else f"{its['bytes'] / 1e6:.1f} MB, {its['seconds']:.0f} s"


def _errors(row: Row) -> str:
    error = worst_error(row)
    if error is None:
        return "–"
    rounded = any(
        isinstance(its, Mapping) for name, its in explanation(row)[1]["errors"].items() if "guided" not in name
    )
    return _number(error) + (" r" if rounded else "")


def _rounding(graph: Mapping[str, Any]) -> str:
    its = graph.get("errors", {}).get(_GUIDED)
    if its is None:
        return "–"
    (quartile, worst), (own, own_worst) = its["graph"], its["torch"]
    return f"{_number(quartile)}, {_number(worst)} ({_number(own)}, {_number(own_worst)})"


def _number(value: float) -> str:
    return "0" if value == 0 else "–" if math.isnan(value) else f"{value:.0e}"


def _refusals(rows: Sequence[Row]) -> list[str]:
    lines = [f"* {row['network']}: not run, it {row['skipped']}" for row in rows if "skipped" in row]
    lines += [f"* {row['network']}: its process died, {row['died']}" for row in rows if "died" in row]
    lines += [
        f"* {row['network']}: measured with pictures of {row['side']} pixels; those of its own weights have "
        f"{row['own_side']}"
        for row in rows
        if row.get("own_side", row.get("side")) != row.get("side")
    ]
    far = [row for row in rows if "onnx" in row.get("engines", {}) and row["engines"]["onnx"]["gradcam"] > CLOSE_MAP]
    lines += [
        f"* {row['network']}: on one of its two pictures the ONNX engine's Grad-CAM differs from "
        f"PyTorch's by {_number(row['engines']['onnx']['gradcam'])}, as it does where a gate behind the layer is "
        "within rounding of zero"
        for row in far
    ]
    for row in rows:
        for kind, graph in row.get("graphs", {}).items():
            if "refused" in graph:
                lines.append(f"* {row['network']}, {kind} graph: {graph['refused'].splitlines()[0]}")
    return ["## What there is not, and why", "", *lines, ""] if lines else []


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *lines]
    return ["| " + " | ".join(row) + " |" for row in rows]
