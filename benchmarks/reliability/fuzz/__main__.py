"""Fuzzes a real server over HTTP: ``python -m benchmarks.reliability.fuzz --help``.

Writes ``out/reliability/fuzz.json``::

    {"name": "fuzz", "command": str, "measured_at": str, "machine": {…}, "settings": {…},
     "seed": int, "first": int, "inputs": int, "threads": int, "seconds": float,
     "by_kind": {kind: {"inputs": int, "statuses": {status: int}}},       "0": closed unanswered, where that is right
     "statuses": {status: int},
     "torchserve_defects": {name: int},                                   its own 500s, see defects.toml
     "worker": {"pid": int, "same_throughout": bool},
     "memory": {"worker" | "java": {"start", "end", "peak", "cap": bytes, "slope": bytes per input after the warm-up,
                                    "growth", "least": bytes, "flat": bool}},
     "slowest": {"seconds": float, "number": int},
     "findings": [{"fault": str, "number": int | null, "kind": str | null, "answer": {…} | null, "file": str | null}]}

A finding's request lies in ``out/reliability/findings/``; ``--replay FILE`` sends it again.
"""

import argparse
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import peak_memory
from benchmarks.reliability.fuzz.judge import judge
from benchmarks.reliability.fuzz.run import Outcome, fuzz
from benchmarks.reliability.fuzz.wire import load, save, send
from benchmarks.reliability.memory import MIB, named_worker
from benchmarks.reliability.record import FOLDER, settings_of, write_record
from deploy.local_server import LocalServer, temporary_server

_ROOT = Path(__file__).parents[3]


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 1 if there is a finding."""
    options = _parser().parse_args(arguments)
    overrides = {"model_store": str(options.store.resolve()), "load_models": f"{options.model}.mar"}
    config, logs = _ROOT / "config.properties", options.folder / "fuzz-logs"
    with temporary_server(config, options.model, logs, overrides) as server:
        return _replay(server, options.replay) if options.replay else _fuzz(server, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20, help="of the inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="connections at once (default: %(default)s)")
    parser.add_argument("--most", type=int, default=1, help="findings to stop at (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send a finding again, and say what comes back")
    parser.add_argument("--model", default="shufflenet_cam", help="name of the archive (default: %(default)s)")
    parser.add_argument(
        "--store", type=Path, default=_ROOT / "model_store", help="where it lies (default: model_store)"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="to write into (default: %(default)s)")
    return parser


def _fuzz(server: LocalServer, options: argparse.Namespace) -> int:
    pid = named_worker(server).pid
    with tqdm(total=options.inputs, unit="input", disable=None) as bar:
        numbers = range(options.first, options.first + options.inputs)
        outcome = fuzz(server, options.seed, numbers, options.threads, options.most, bar.update)
    findings = _save_findings(outcome, options)
    command = f"python -m benchmarks.reliability.fuzz --seed {options.seed} --inputs {options.inputs}"
    repeated_with = {"seed": options.seed, "first": options.first, "threads": options.threads}
    content = {"command": command, **repeated_with, **report(outcome, pid), "findings": findings}
    write_record(options.folder, "fuzz", content, settings_of(server))
    print(_summary(content))
    return 1 if findings else 0


def report(outcome: Outcome, pid: int) -> dict[str, Any]:
    """The outcome as JSON values, findings aside."""
    same = not any("process" in one.fault or "worker" in one.fault for one in outcome.findings)
    return {
        "inputs": outcome.statuses.total(),
        "seconds": round(outcome.seconds, 1),
        "by_kind": {
            kind: {"inputs": counts.total(), "statuses": _by_name(counts)}
            for kind, counts in sorted(outcome.by_kind.items())
        },
        "statuses": _by_name(outcome.statuses),
        "torchserve_defects": _by_name(outcome.defects),
        "worker": {"pid": pid, "same_throughout": same},
        "memory": {
            name: {**asdict(one), "slope": round(one.slope, 1), "growth": round(one.growth), "flat": one.flat}
            for name, one in outcome.memory.items()
        },
        "slowest": {"seconds": round(outcome.slowest[0], 2), "number": outcome.slowest[1]},
    }


def _by_name(counts: Counter[Any]) -> dict[str, int]:
    return {str(name): count for name, count in sorted(counts.items())}


def _save_findings(outcome: Outcome, options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for one in outcome.findings:
        said: dict[str, Any] = {**one.to_dict(), "seed": options.seed, "file": None}
        if one.hostile:
            path = options.folder / "findings" / f"{options.seed}-{one.number}.json"
            said["file"] = str(path)
            save(path, one.hostile, said)
        found.append(said)
        print(f"finding: {one.fault} ({said['file'] or 'no single request'})", file=sys.stderr)
    return found


def _replay(server: LocalServer, path: Path) -> int:
    hostile, before = load(path), named_worker(server)
    reply = send(server.address, server.model, hostile)
    verdict = judge(hostile, reply)
    print(f"{hostile.kind}, {len(hostile.body)} bytes: status {reply.status} after {reply.seconds:.2f} s")
    print(reply.body[:1000].decode("utf-8", "replace"))
    print(f"the worker's memory was at most {peak_memory(before.pid) / MIB:.0f} MB")
    fault = verdict.fault or (None if named_worker(server) == before else "another worker answers")
    print(f"finding: {fault}" if fault else f"as it should be{verdict.defect and f' ({verdict.defect})' or ''}")
    return 1 if fault else 0


def _summary(found: dict[str, Any]) -> str:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"

    lines = [f"{found['inputs']} inputs in {found['seconds']:.0f} s: {listed(found['statuses'])}"]
    lines.append(f"TorchServe's own 500s: {listed(found['torchserve_defects'])}")
    for name, one in found["memory"].items():
        start, end, peak = (f"{one[key] / MIB:.0f}" for key in ("start", "end", "peak"))
        lines.append(f"memory of {name}: {start} to {end} MB, at most {peak}, {one['slope']:+.0f} bytes/input")
    return "\n".join([*lines, f"findings: {len(found['findings'])}"])


if __name__ == "__main__":
    sys.exit(main())
