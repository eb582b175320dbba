"""Runs every contract over the fixed list of networks: ``python -m tests.soundness --help``."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from handler.atomic_write import write_whole
from tests.soundness.networks import GROUPS, networks
from tests.soundness.report import render
from tests.soundness.sweep import sweep
from tests.soundness.verdict import VERDICTS


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 1 if a verdict is wrong or a traceback."""
    options = _parser().parse_args(arguments)
    listed = [one for group in options.group or GROUPS for one in networks(group)]
    chosen = [one for one in listed if not options.only or {one.name, one.key} & set(options.only)]
    if unknown := set(options.only or []) - {name for one in chosen for name in (one.name, one.key)}:
        print(f"error: not in the list: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not options.only_report:
        todo = [one for one in chosen if options.again or not (folder / f"{one.key}.json").is_file()]
        limits = {"jobs": options.jobs, "seconds": options.seconds, "with_graphs": not options.no_graphs}
        sweep(todo, folder, **limits)
    files = [folder / f"{one.key}.json" for one in listed]
    rows = [json.loads(file.read_bytes()) for file in files if file.is_file()]
    content = {"machine": describe_machine(), "networks": rows}
    complete = len(rows) == sum(len(networks(group)) for group in GROUPS)
    for docs in (folder, options.docs) if options.docs and complete else (folder,):
        write_whole(docs / "soundness.json", (json.dumps(content, indent=1) + "\n").encode())
        write_whole(docs / "SOUNDNESS.md", render(content).encode())
    if options.docs and not complete:
        print(f"{options.docs} is left as it is: {len(rows)} networks are in {folder}, which are not all")
    return _tell([row for row in rows if f"{row['group']}.{row['network']}" in {one.key for one in chosen}])


def _tell(rows: list[dict[str, Any]]) -> int:
    bad = [row for row in rows if row["verdict"] in ("wrong", "traceback")]
    for row in bad:
        said = row["traceback"] if row["verdict"] == "traceback" else "; ".join(row["wrong"])
        print(f"{row['verdict']:<10}{row['group']}.{row['network']}: {said[:300]}")
    counts = Counter(row["verdict"] for row in rows)
    print(f"{len(rows)} networks: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soundness", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks alone")
    parser.add_argument("--group", action="append", choices=GROUPS, help="this group alone; repeatable")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/soundness"), help="of rows and logs; rows there are not made anew"
    )
    parser.add_argument("--again", action="store_true", help="make them anew")
    parser.add_argument("--jobs", type=int, default=2, help="at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=150, help="for each network (default: %(default)s)")
    parser.add_argument("--no-graphs", action="store_true", help="of the torch engine alone")
    parser.add_argument("--docs", type=Path, help="folder for SOUNDNESS.md and soundness.json (make soundness: docs)")
    parser.add_argument("--only-report", action="store_true", help="run nothing, write the report of the rows there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
