"""``docs/RELIABILITY.md`` and ``docs/reliability.json`` from the records of load, soak, faults and fuzz."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.record import read_records
from benchmarks.reliability.report.faults import faults_table, fuzz_table
from benchmarks.reliability.report.tables import ms, table
from benchmarks.reliability.sizing import RATES, UTILISATION, best, replicas

Records = Mapping[str, Mapping[str, Any]]
_HEAD = """\
# What the server holds

Measured with a real TorchServe on loopback; `make load`, `make soak-10`, `make soak`, `make faults` and `make fuzz`
write the records, and this page is made of them (`python -m benchmarks.reliability report`). Client and server share
the machine's cores, so that the figures are those of a machine that does both. All of it stands in
[reliability.json](reliability.json), with the memory over time.
"""


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
    """The page; what was not measured says so."""
    parts = [_HEAD, _load(records), _overload(records), _sizing(records), _soaks(records), _faults(records)]
    return "\n".join([*parts, _fuzz(records), _measured_on(records)])


def _section(title: str, body: str | None, target: str) -> str:
    return f"## {title}\n\n{body or f'Not measured yet: `make {target}` does.'}\n"


def _load(records: Records) -> str:
    record = records.get("load")
    if record is None:
        return _section("Load", None, "load")
    found, memory = record["outcomes"], record["memory"]
    kinds = [[kind, one["requests"], *ms(one)] for kind, one in found["kinds"].items()]
    lines = [["all", found["answered"], *ms(found["ms"])], *kinds]
    body = f"""\
{found["requests"]} requests at concurrency {record["concurrency"]} in {
        record["seconds"]:.0f} s: a mix of predictions, maps, several
targets, sheets, arrays and clients' mistakes, as multipart, raw and JSON bodies ({
        _counts(found["forms"])
    }). Every request
carries a picture of its own, and every answer is checked to be that picture's (hash, size, classes, kinds of maps).

{
        table(
            ["requests", "answered", "lost", "answered twice", "crossed", "wrong"],
            [[found[key] for key in ("requests", "answered", "lost", "answered_twice", "crossed", "wrong")]],
        )
    }
Statuses: {_counts(found["statuses"])} (400 and 415 are the mistakes' right answers). {
        found["refused_then_answered"]
    } requests met a
full queue (503, {found["retries"]} times in all) and were sent again after {record["retry_pause_s"]} s until they were
answered. {_unidentified(found)}

Milliseconds from the request that was answered to its answer:

{table(["kind", "requests", "p50", "p95", "p99", "max"], lines)}
Resident memory in MiB: Java {_grown(memory["java_mib"])}, workers {_grown(memory["workers_mib"])};
{"the same worker throughout" if memory["same_workers"] else "**workers were replaced**"}.
"""
    return _section("Load", body, "load")


def _unidentified(found: Mapping[str, Any]) -> str:
    count = found["unidentified"]
    return f"{count} answers did not name their picture." if count else "Every good answer named its picture."


def _overload(records: Records) -> str:
    record = records.get("overload")
    if record is None:
        return _section("Overload", None, "load")
    found, queue = record["overload"], record["settings"].get("job_queue_size", "?")
    lines = [
        ["answered", found["answered"], *ms(found["answered_ms"])],
        ["refused (503)", found["refused"], *ms(found["refused_ms"])],
        ["neither", found["neither"], *ms({})],
    ]
    body = f"""\
{found["bursts"]} bursts of {found["requests_each"]} requests at the same moment (all maps, the slowest kind)
on a queue of {queue}. Milliseconds from the moment that all are sent:

{table(["", "requests", "p50", "p95", "p99", "max"], lines)}"""
    return _section("Overload", body, "load")


def _sizing(records: Records) -> str:
    record = records.get("sizing")
    if record is None:
        return _section("Sizing", None, "load")
    measured = record["measured"]
    profiles = list(dict.fromkeys(one["profile"] for one in measured))
    lines = [[one["profile"], one["concurrency"], one["per_s"], *ms(one)[:3]] for one in measured]
    needs = [
        [profile, peak["per_s"], f"{peak['p95']:.0f}", *(replicas(rate, peak["per_s"]) for rate in RATES)]
        for profile in profiles
        for peak in [best(measured, profile)]
    ]
    body = f"""\
One worker ({record["machine"]["cores"]} cores, client included), JPEGs of 240 to 563 pixels:

{table(["profile", "concurrency", "requests/s", "p50 ms", "p95 ms", "p99 ms"], lines)}
Replicas of one worker each for a rate of requests: the rate divided by {UTILISATION} of the best requests/s above,
and two at least, so that one may fail. Without the client on the same cores a replica answers more; measure on
the cluster's own nodes before buying.

{table(["profile", "requests/s of one", "p95 ms", *(f"{rate}/s" for rate in RATES)], needs)}"""
    return _section("Sizing", body, "load")


def _soaks(records: Records) -> str:
    lines = []
    for record in (one for name, one in records.items() if name.startswith("soak-")):
        found, slope = record["outcomes"], record["slope"]
        bad = sum(found[key] for key in ("lost", "crossed", "wrong", "answered_twice"))
        lines.append(
            [
                f"{record['seconds'] / 60:g} min",
                found["answered"],
                bad,
                f"{found['ms']['p50']:.0f} / {found['ms']['p99']:.0f}",
                _grown(record["memory"]["java_mib"]),
                _grown(record["memory"]["workers_mib"]),
                f"{slope['value']:.2f} ({slope['lower']:.2f} to {slope['upper']:.2f})",
                "**grows**" if slope["grows"] else f"at most {slope['largest']:g}: good",
            ]
        )
    if not lines:
        return _section("Soak", None, "soak-10")
    head = [
        "",
        "answered",
        "lost, crossed or wrong",
        "p50 / p99 ms",
        "Java MiB",
        "workers MiB",
        "slope MiB/min",
        "verdict",
    ]
    body = f"""\
The mixed profile at concurrency 2. The slope is Theil and Sen's through the medians of blocks of 20 s after the
warm-up, with its 95 % interval; a soak fails if the interval's lower end is above the limit
(`benchmarks/reliability/slope.py` gives the reasons for it). Java is not judged by a slope: its heap fills up to
-Xmx before it is cleaned.

{table(head, lines)}"""
    return _section("Soak", body, "soak-10")


def _faults(records: Records) -> str:
    found = {name: one for name, one in records.items() if name.startswith("fault-")}
    return _section("Faults", faults_table(found) if found else None, "faults")


def _fuzz(records: Records) -> str:
    record = records.get("fuzz")
    return _section("Hostile input", fuzz_table(record) if record else None, "fuzz")


def _measured_on(records: Records) -> str:
    runs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, record in records.items():
        machine = record.get("machine", {})
        on = f"{machine.get('cpu', '?')}, {machine.get('cores', '?')} cores, {machine.get('memory_gb', '?')} GB"
        runs.setdefault((record.get("command", "?"), on), []).append((name, record.get("measured_at", "")))
    lines = [
        [", ".join(name for name, _ in its), f"`{command}`", max(when for _, when in its), on]
        for (command, on), its in runs.items()
    ]
    settings = records.get("load", records.get("sizing", {})).get("settings", {})
    shown = ", ".join(f"`{key}={value}`" for key, value in settings.items())
    body = f"Settings of the server: {shown or 'not recorded'}.\n\n"
    return _section("How it was measured", body + table(["records", "command", "when (UTC)", "machine"], lines), "load")


def _grown(values: Mapping[str, Any]) -> str:
    return f"{values['first']} → {values['last']}, at most {values['max']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
