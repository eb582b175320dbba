"""``RESULTS.md``, made from ``results.json`` and, where there is one, ``notes.md``: nothing in it is typed by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import EAGER, OURS_ONNX
from benchmarks.fronts import describe_fronts
from benchmarks.page import fill
from benchmarks.results import KEY_SETTING, Results, ratio, read_results
from benchmarks.work import EXPLAIN, EXPLAIN_OF_FIVE, GRADCAM, GRADCAM_OF_FIVE, KEY_NETWORK, PREDICT

TASK_NAMES = {
    PREDICT: "prediction",
    GRADCAM: "Grad-CAM",
    EXPLAIN: "prediction, Grad-CAM and guided backprop",
    GRADCAM_OF_FIVE: "Grad-CAM of five classes",
    EXPLAIN_OF_FIVE: "prediction, Grad-CAM and guided backprop of five classes",
}
Column = tuple[int, int]  # threads and batch


def write_report(results: Path) -> None:
    """Writes ``RESULTS.md`` beside ``results.json``."""
    notes, fronts = results.with_name("notes.md"), read_results(results.with_name("fronts.json"))
    text = render(read_results(results), notes.read_text(encoding="utf-8") if notes.is_file() else "", fronts)
    results.with_name("RESULTS.md").write_text(text, encoding="utf-8")


def render(results: Results, notes: str = "", fronts: Results | None = None) -> str:
    """The page as Markdown: ``results_page.md`` with the results filled in; ``fronts`` are those of ``fronts.json``."""
    settings = results.get("settings", {})
    key, cells = settings.get(KEY_SETTING, {}), dict[tuple[str, str, str], dict[Column, dict[str, Any]]]()
    beside = key.get("contenders", [])  # each with its time by that of our ONNX engine in the same task
    ours = {one["task"]: one["rounds_ms"] for one in beside if one["contender"] == OURS_ONNX}
    contenders = [(setting, one) for setting in settings.values() for one in setting["contenders"]]
    for setting, one in contenders:
        row = cells.setdefault((setting["network"], one["task"], one["contender"]), {})
        row[setting["threads"], setting["batch"]] = one
    return fill(
        Path(__file__).with_name("results_page.md"),
        {"column": lambda its: f"{its[0]} thr., batch {its[1]}"},
        **{"notes": notes.strip(), "names": TASK_NAMES, "cells": cells, "served": results.get("served")},
        **{"eager": EAGER, "ours": OURS_ONNX, "key_network": KEY_NETWORK, "compared": "settings" in results},
        machine=(key or results.get("served") or {}).get("machine"),
        targets=results.get("targets", {}),
        key_rows=[(one, ratio(one["rounds_ms"], ours[one["task"]]).median) for one in beside],
        columns=sorted({column for row in cells.values() for column in row}),
        fronts=describe_fronts(fronts) if fronts and "served" in fronts else None,
        left_out=results.get("left_out", {}),
        differing=list(dict.fromkeys(_difference(*both) for both in contenders if not both[1]["agrees"])),
    )


def _difference(setting: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {value:.1g}" for name, value in one["differences"].items())
    return f"{setting['network']}, {one['contender']}, {TASK_NAMES[one['task']]}: {found}"
