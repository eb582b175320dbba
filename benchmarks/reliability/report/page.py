"""``docs/RELIABILITY.md`` and ``docs/reliability.json`` from the records of load, soak, faults and fuzz."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import fill
from benchmarks.reliability.place import read_records

Records = Mapping[str, Mapping[str, Any]]
_LIGHT = "light-"  # begins the names of the light front's records
UTILISATION = 0.7  # of a replica: waiting times grow without bound as it nears 1, and one replica may be down
RATES = (10, 50, 100, 500)  # requests per second that the table of replicas is made for


def write_report(records: Path, docs: Path) -> Path:
    """Writes both files into the folder ``docs`` and returns the page's path.

    What was recorded elsewhere, and is in the folder's ``reliability.json``, stays until it is measured anew.
    """
    docs.mkdir(parents=True, exist_ok=True)
    known = docs / "reliability.json"
    found = {**(json.loads(known.read_bytes()) if known.is_file() else {}), **read_records(records)}
    known.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path = docs / "RELIABILITY.md"
    path.write_text(render(found), encoding="utf-8")
    return path


def render(records: Records) -> str:
    """The page: ``page.md`` with the records filled in; what was not measured says so."""
    light = {name.removeprefix(_LIGHT): one for name, one in records.items() if name.startswith(_LIGHT)}
    torchserve = {name: one for name, one in records.items() if not name.startswith(_LIGHT)}
    return fill(
        Path(__file__).with_name("page.md"),
        {"cell": lambda text: " ".join(text.replace("|", "\\|").split())},  # text that does not end a cell
        fronts={"TorchServe": _of_front(torchserve), "the light front": _of_front(light, " FRONT=light")},
        runs=_runs(records),
        **{"rates": RATES, "utilisation": UTILISATION, "replicas": replicas},
    )


def _of_front(records: Records, choice: str = "") -> dict[str, Any]:
    """What the page tells of a front; ``choice`` is how `make` is told to measure it."""
    settings = records.get("load", records.get("sizing", {})).get("settings", {})
    return {
        "choice": choice,
        **{name: records.get(name) for name in ("load", "overload", "sizing", "fuzz")},
        "soaks": [one for name, one in records.items() if name.startswith("soak-")],
        "faults": [one for name, one in records.items() if name.startswith("fault-")],
        "settings": ", ".join(f"`{key}={value}`" for key, value in settings.items()),
    }


def _runs(records: Records) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Command and machine to the names of their records, and when they were measured."""
    runs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, record in records.items():
        machine = record.get("machine", {})
        on = f"{machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, {machine.get('memory_gb', '?')} GB"
        runs.setdefault((record.get("command", "?"), on), []).append((name, record.get("measured_at", "")))
    return runs


def replicas(rate: float, per_s: float) -> int:
    """How many replicas that answer ``per_s`` a rate of requests needs: two at least, so that one may fail."""
    return max(2, math.ceil(rate / (per_s * UTILISATION)))
