"""The tables of faults and of fuzzing."""

from collections.abc import Mapping
from typing import Any

from benchmarks.reliability.report.tables import ms, table

_VERDICTS = {True: "yes", False: "**no**"}
_TOLD = 60  # characters of a detail


def faults_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per scenario."""
    lines = []
    for record in records.values():
        if "sees" not in record:
            said = record.get("not_possible") or record.get("failed", "")
            verdict = "not possible here" if "not_possible" in record else _VERDICTS[False]
            lines.append([record["fault"], "", said, "", "", verdict, ""])
            continue
        sees = record["sees"]
        times = ms(sees.get("right_ms", {}))
        back = record.get("back_s")
        lines.append(
            [
                f"**{record['fault']}**: {record['did']}",
                record["expected"],
                ", ".join(f"{count} × {what}" for what, count in sees["saw"].items()),
                " / ".join((times[0], times[3])),
                "–" if back is None else f"{back:g} s",
                _VERDICTS[record["as_expected"]],
                _details(record.get("detail", {})),
            ]
        )
    head = [
        "what happened",
        "expected",
        "clients saw",
        "ms of right answers: p50 / max",
        "back after",
        "as expected",
        "more",
    ]
    return (
        "Clients ask for predictions all the time, each over new connections, and check every answer. *Back after* is "
        "the time from the fault (or its end) to the first right answer to a request sent after it.\n\n"
        + table(head, lines)
    )


def _details(detail: Mapping[str, Any]) -> str:
    short = {key: value for key, value in detail.items() if not isinstance(value, dict) and len(str(value)) <= _TOLD}
    return ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in short.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def fuzz_table(record: Mapping[str, Any]) -> str:
    """What hostile requests were sent and what came back; the record is described in ``fuzz.__main__``."""
    kinds = [[kind, one["inputs"], _counts(one["statuses"])] for kind, one in sorted(record["by_kind"].items())]
    memory = [
        [
            who,
            *(f"{one[key] / 2**20:.0f}" for key in ("start", "end", "peak")),
            f"{one['slope']:.0f}",
            _shown(one["flat"]),
        ]
        for who, one in record["memory"].items()
    ]
    findings, worker = record["findings"], record["worker"]
    defects = _counts(record["torchserve_defects"]) or "none"
    same = "the same worker throughout" if worker["same_throughout"] else "**the worker was replaced**"
    return f"""\
{record["inputs"]} hostile requests (seed {record["seed"]}) over {record["threads"]} connections in
{record["seconds"]:.0f} s: **{len(findings)} findings**, {same}. Statuses: {_counts(record["statuses"])} (0: closed
without an answer, where that is right). TorchServe's own 500s: {defects}.

{table(["resident memory", "start MiB", "end MiB", "peak MiB", "bytes per input", "flat"], memory)}
{table(["kind", "inputs", "statuses"], kinds)}"""


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in sorted(counts.items()))
