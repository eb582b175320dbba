"""``results.json``: written part by part, each part whole, so that a run can be stopped and taken up again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.ratios import TARGETS, Target, ratio, summarise
from benchmarks.rounds import Measured, Who
from benchmarks.work import KEY_NETWORK
from handler.atomic_write import write_whole

Results = dict[str, Any]
FOLDER = Path(__file__).parent
PATH = FOLDER / "results.json"


def setting_key(network: str, batch: int, threads: int) -> str:
    """The name of a setting among the results."""
    return f"{network}, batch {batch}, threads {threads}"


KEY_SETTING = setting_key(KEY_NETWORK, 1, 2)


def read_results(path: Path) -> Results:
    """What was measured so far; nothing where there is no file."""
    found: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_results(path: Path, results: Results) -> None:
    """Adds the target ratios and writes the file, whole or not at all."""
    details = target_details(results)
    content = {key: detail["value"] for key, detail in details.items()}
    content |= {key: results[key] for key in sorted(results) if key not in details} | {"targets": details}
    write_whole(path, (json.dumps(_rounded(content), indent=1) + "\n").encode())


def describe_setting(
    network: str,
    batch: int,
    threads: int,
    measured: Mapping[Who, Measured],
    loading: Mapping[Who, Mapping[str, Any]],
    agreement: Mapping[Who, Mapping[str, Any]],
) -> dict[str, Any]:
    """One setting's part of the results: all contenders, measured side by side."""
    contenders = [
        {
            "task": who[0],
            "contender": who[1],
            "median_ms": summarise(one.rounds_ms).median,
            "quartiles_ms": list(summarise(one.rounds_ms).quartiles),
            **vars(one),
            **loading[who],
            **agreement[who],
        }
        for who, one in measured.items()
    ]
    setting = {"network": network, "batch": batch, "threads": threads}
    return {**setting, "machine": describe_machine(), "contenders": contenders}


def rounds_of(results: Results, target: Target) -> list[tuple[list[float], list[float]]]:
    """The rounds of a target's numerator and denominator, of a served one for each concurrency.

    Empty where they were not measured.
    """
    if target.served:
        groups: dict[int, list[dict[str, Any]]] = {}
        for one in results.get("served", {}).get("measured", []):
            groups.setdefault(one["concurrency"], []).append(one)
        measured, name = list(groups.values()), "rounds_per_s"
    else:
        measured, name = [results.get("settings", {}).get(KEY_SETTING, {"contenders": []})["contenders"]], "rounds_ms"
    found = [{(one["task"], one["contender"]): one[name] for one in group} for group in measured]
    return [(one[target.above], one[target.below]) for one in found if {target.above, target.below} <= set(one)]


def target_details(results: Results) -> dict[str, dict[str, Any]]:
    """Each target's value, quartiles and threshold, and whether and by how much it was missed.

    Of a served target that is the concurrency with the smallest ratio.
    """
    details = {}
    for target in TARGETS:
        ratios = [ratio(above, below) for above, below in rounds_of(results, target)]
        found = min(ratios, key=lambda one: one.median, default=None)
        details[target.key] = {
            "value": found.median if found else None,
            "quartiles": list(found.quartiles) if found else None,
            "threshold": target.threshold,
            "at_least": target.at_least,
            "reached": target.reached(found.median) if found else None,
            "missed_by": target.missed_by(found.median) if found else None,
        }
    return details


def _rounded(value: Any) -> Any:
    """Floats with five significant digits, all the way down."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
