"""Fuzzes a real server over HTTP: ``python -m benchmarks.reliability.fuzz --help``.

Writes ``out/reliability/fuzz.json``, with every process's memory as ``judge_inputs`` describes it, and::

    {"seed": int, "first": int, "threads": int, "inputs": int, "seconds": float,
     "by_kind": {kind: {"inputs": int, "statuses": {status: int}}},       "0": closed unanswered, where that is right
     "statuses": {status: int}, "torchserve_defects": {name: int},        its own 500s, see defects.toml
     "worker": {"pid": int, "same_throughout": bool}, "slowest": {"seconds": float, "number": int},
     "findings": [{"fault": str, "number": int | null, "kind": str | null, "answer": {…} | null, "file": str | null}]}

A finding's request lies in ``out/reliability/findings/``; ``--replay FILE`` sends it again.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import peak_memory
from benchmarks.reliability.fuzz.judge import judge
from benchmarks.reliability.fuzz.run import Finding, fuzz
from benchmarks.reliability.fuzz.wire import load, save, send
from benchmarks.reliability.memory import MIB, named_worker
from benchmarks.reliability.place import Place
from deploy.local_server import LocalServer


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 1 if there is a finding."""
    options = _parser().parse_args(arguments)
    place = Place.of(options)
    with place.server() as server:
        return _replay(server, options.replay) if options.replay else _fuzz(server, place, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20, help="of the inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="connections at once (default: %(default)s)")
    parser.add_argument("--most", type=int, default=1, help="findings to stop at (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="send a finding again, and say what comes back")
    Place.add_options(parser)
    return parser


def _fuzz(server: LocalServer, place: Place, options: argparse.Namespace) -> int:
    with tqdm(total=options.inputs, unit="input", disable=None) as bar:
        numbers = range(options.first, options.first + options.inputs)
        found, findings = fuzz(server, options.seed, numbers, options.threads, options.most, bar.update)
    found |= {"seed": options.seed, "first": options.first, "threads": options.threads}
    found["findings"] = [_saved(one, options.seed, place.records / "findings") for one in findings]
    place.record("fuzz", found)
    print(_summary(found))
    return 1 if findings else 0


def _saved(finding: Finding, seed: int, folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = {**finding.to_dict(), "seed": seed, "file": None}
    if finding.hostile:
        said["file"] = str(folder / f"{seed}-{finding.number}.txt")
        save(Path(said["file"]), finding.hostile, said)
    print(f"finding: {finding.fault} ({said['file'] or 'no single request'})", file=sys.stderr)
    return said


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
    told = {f"{found['inputs']} inputs in {found['seconds']:.0f} s": found["statuses"]}
    for name, one in found["memory"].items():
        start, end, peak = (f"{one[key] / MIB:.0f}" for key in ("start", "end", "peak"))
        told[f"memory of {name}"] = f"{start} to {end} MB, at most {peak}, {one['slope']:+.0f} bytes/input"
    told |= {"TorchServe's own 500s": found["torchserve_defects"], "findings": len(found["findings"])}
    return "\n".join(f"{name}: {its or 'none'}" for name, its in told.items())


if __name__ == "__main__":
    sys.exit(main())
