"""The page about all networks, from their rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.soundness import contracts
from tests.soundness.networks import GROUPS
from tests.soundness.verdict import VERDICTS

Row = Mapping[str, Any]
_INTRODUCTION = f"""# No wrong map

`make soundness` makes this page; the figures are in [soundness.json](soundness.json). Each network is loaded as a
user's would be (`MODEL=`, or `ARCH=` with a checkpoint), with random weights that keep every layer lively. Its answers
are compared with a reference that shares no code with them: plain autograd in float64, one picture at a time, with
batch norms spelled out and hooks of its own. The verdicts are **right**: every contract holds; **refused**: the product
says in one line why it does not serve the network; **wrong**: a contract is broken, or an odd
network is not treated as its author expects; **traceback**: anything else was raised, or the process died.

Relative RMS errors of scores and activations may be {contracts.FLOORS["scores"]:g}, of the gradient at the layer
{contracts.FLOORS["gradient"]:g}, of the gradient at the picture {contracts.FLOORS["pixels"]:g} (a ReLU whose input is
within rounding of zero flips), or {contracts.TIMES_OWN} times the error of plain float32 on the worst of the same
pictures, and never more than {contracts.AT_MOST:g}.
"""
HOW = {  # each contract is checked
    "scores": "several finite logits; a single score, and scores that are probabilities already, are refused.",
    "evidence": "three pictures are compared, each alone: scores, activation and gradient at the layer that the "
    "product chose, and the guided gradient (the plain one where there is no ReLU), for the top class and one more.",
    "rows": "the same for every row in batches of 2 and 3, in other orders and beside other pictures; the pictures' "
    "own activations and scores must differ.",
    "differences": "central differences in float64, along random directions at the layer's cells and at the picture, "
    "equal the reference's gradients: they hold the reference itself to account.",
    "lively": "the gradient at the cells is not zero.",
    "last": "the layer runs as often as the product says. All of the picture's gradient goes through its cells, and no "
    "later module with weights through which all of it goes, too, is a map by the contract `place`. Where "
    "tokens stand beside the cells, as class tokens do, neither is asked for; the share of the gradient that goes "
    "around the cells is in the figures (`bypass`).",
    "place": "a faint textured square is moved over two pictures, 4 × 4 places from edge to edge: the cells that "
    "change follow it up and down, left and right, are neither mirrored nor transposed; none leaves them unchanged, "
    "nor does an edge of the picture, a sixteenth of its side wide.",
    "guided": "the ReLUs that are called guided are as many as a replacement of all their spellings finds, and "
    "coverage is told of no fewer activations than the autograd graph has pointwise non-linearities.",
    "graphs": "the ONNX graphs' answers, at batch 1, 2 and 3, against the same reference.",
}


def render(content: Mapping[str, Any]) -> str:
    """Markdown of ``soundness.json``'s content."""
    rows: Sequence[Row] = content["networks"]
    machine = content["machine"]
    lines = [_INTRODUCTION, *_counts(rows), "", "## How each contract is checked", ""]
    lines += [f"* **{name}** ({_checked(rows, name)} networks): {how}" for name, how in HOW.items()]
    for verdict, title in (("wrong", "What is wrong"), ("traceback", "Tracebacks"), ("refused", "What is refused")):
        its = [row for row in rows if row["verdict"] == verdict]
        if its:
            lines += ["", f"## {title}", "", *(f"* {_name(row)}: {_said(row)}" for row in its)]
    excused = [row for row in rows if "excused" in row]
    if excused:
        lines += ["", "## What a network is let off, because it does not hold of the network itself", ""]
        lines += [f"* {_name(row)}: {row['excused']}" for row in excused]
    noted = [
        (row, note)
        for row in rows
        if row["verdict"] == "right"
        for note in row.get("notes", ())
        if not note.startswith("no graphs")  # of networks with many modules, see above
    ]
    if noted:
        lines += ["", "## Right, without some of the graphs", "", *(f"* {_name(row)}: {note}" for row, note in noted)]
    lines += [
        "",
        "## Right",
        "",
        "| network | pixels | layer | map | guided backprop |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [_line(row) for row in rows if row["verdict"] == "right"]
    packages = ", ".join(f"{name} {its}" for name, its in machine["packages"].items())
    return "\n".join([*lines, "", f"Made with Python {machine['python']}, {packages}.", ""])


def _counts(rows: Sequence[Row]) -> list[str]:
    counts = Counter((row["group"], row["verdict"]) for row in rows)
    groups = [group for group in GROUPS if any(row["group"] == group for row in rows)]
    lines = [f"| networks | {' | '.join(VERDICTS)} | all |", "| --- " * (len(VERDICTS) + 2) + "|"]
    for group in groups:
        its = [counts[group, verdict] for verdict in VERDICTS]
        lines.append(f"| {group} | {' | '.join(map(str, its))} | {sum(its)} |")
    totals = [sum(counts[group, verdict] for group in groups) for verdict in VERDICTS]
    return [*lines, f"| all | {' | '.join(map(str, totals))} | {sum(totals)} |"]


def _checked(rows: Sequence[Row], name: str) -> int:
    return sum(name in row.get("checks", ()) for row in rows)


def _name(row: Row) -> str:
    return f"`{row['network']}` ({row['group']})"


def _said(row: Row) -> str:
    if row["verdict"] == "wrong":
        return "; ".join(row["wrong"])
    return str(row["traceback" if row["verdict"] == "traceback" else "refusal"]).splitlines()[0]


def _line(row: Row) -> str:
    coverage = row["checks"]["guided"].get("coverage") or "no ReLU"
    shape = " × ".join(map(str, row["map"]))
    return (
        f"| {row['network']} | {row['side']} | `{row['layer']}` | {shape} | {coverage.removesuffix(' activations')} |"
    )
