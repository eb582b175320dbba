"""``docs/RELIABILITY.md`` and ``docs/reliability.json`` from the records of load, soak, faults and fuzz."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import fill
from benchmarks.reliability.place import read_records
from benchmarks.reliability.sizing import RATES, UTILISATION, best, replicas

Records = Mapping[str, Mapping[str, Any]]
_TOLD = 60  # characters of a detail


def write_report(records: Path, docs: Path) -> Path:
    """Writes both files and returns the page's path.

    Args:
        records: folder of the records.
        docs: folder to write to.
    """
    found = read_records(records)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "reliability.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path = docs / "RELIABILITY.md"
    path.write_text(render(found), encoding="utf-8")
    return path


def render(records: Records) -> str:
    """The page: ``page.md`` with the records filled in; what was not measured says so."""
    settings = records.get("load", records.get("sizing", {})).get("settings", {})
    return fill(
        Path(__file__).with_name("page.md"),
        _FILTERS,
        **{name: records.get(name) for name in ("load", "overload", "sizing", "fuzz")},
        soaks=[one for name, one in records.items() if name.startswith("soak-")],
        faults=[one for name, one in records.items() if name.startswith("fault-")],
        settings=", ".join(f"`{key}={value}`" for key, value in settings.items()),
        runs=_runs(records),
        **{"rates": RATES, "utilisation": UTILISATION, "best": best, "replicas": replicas},
    )


def _ms(times: Mapping[str, float], *names: str, between: str = " | ") -> str:
    """The percentiles of a summary, rounded: cells of a table."""
    return between.join(f"{times[name]:.0f}" if name in times else "" for name in names or ("p50", "p95", "p99", "max"))


def _cell(text: str) -> str:
    """Text that does not end a cell."""
    return " ".join(text.replace("|", "\\|").split())


def _details(detail: Mapping[str, Any]) -> str:
    short = {key: value for key, value in detail.items() if not isinstance(value, dict) and len(str(value)) <= _TOLD}
    return ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in short.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _runs(records: Records) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Command and machine to the names of their records, and when they were measured."""
    runs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, record in records.items():
        machine = record.get("machine", {})
        on = f"{machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, {machine.get('memory_gb', '?')} GB"
        runs.setdefault((record.get("command", "?"), on), []).append((name, record.get("measured_at", "")))
    return runs


_FILTERS: dict[str, Callable[..., str]] = {
    "ms": _ms,
    "cell": _cell,
    "details": _details,
    "whole": lambda value: f"{value:.0f}",
    "mib": lambda value: f"{value / 2**20:.0f}",
    "grown": lambda its: f"{its['first']} → {its['last']}, at most {its['max']}",
    "counts": lambda counts: ", ".join(f"{name} {count}" for name, count in counts.items()),
    "counted": lambda counts: ", ".join(f"{count} × {name}" for name, count in counts.items()),
    "times": lambda counts: ", ".join(f"{name} × {count}" for name, count in sorted(counts.items())),
}
