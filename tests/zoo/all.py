"""Runs every classifier of the zoo through everything, each in a process of its own."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from tqdm import tqdm

from benchmarks.machine import describe_machine
from handler.atomic_write import write_whole
from tests.zoo.memory import memory_need
from tests.zoo.networks import GROUPS, every, group_of, side_of
from tests.zoo.one import ROW_VERSION
from tests.zoo.report import render

_ROOT = Path(__file__).parents[2]
_SHARE = 0.95  # of the machine's memory that networks may take together
SMALL = (  # of different families, for CI: seconds each
    *("squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "efficientnet_b0"),
    *("googlenet", "convnext_tiny"),
)


class _Job(NamedTuple):
    network: str
    need: int  # bytes that are kept free for it
    process: subprocess.Popen[bytes]

    @property
    def killed(self) -> bool:
        return self.process.returncode == -signal.SIGKILL


def run(arguments: list[str] | None = None) -> int:
    """The command line; exit status 1 if a network's process died."""
    options, known = _parser().parse_args(arguments), every()
    if unknown := set(options.networks) - set(known):
        print(f"error: no classifier of the zoo: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    folder: Path = options.folder
    for group in GROUPS:
        (folder / group).mkdir(parents=True, exist_ok=True)
    groups = options.group or GROUPS
    usual = SMALL if options.small else [name for name in known if group_of(name) in groups]
    networks = options.networks or list(usual)
    if not options.only_report:
        todo = [name for name in networks if options.again or not _is_current(folder / f"{name}.json", options.side)]
        _run(todo, folder, options.jobs, options.threads, options.side)
    old = json.loads((options.docs / "zoo.json").read_bytes())["networks"] if options.keep and options.docs else []
    rows = {row["network"]: row for row in old} | {
        name: json.loads((folder / f"{name}.json").read_bytes())
        for name in known
        if (folder / f"{name}.json").is_file()
    }
    rows = [rows[name] for name in known if name in rows]
    whole = options.docs and len(rows) == len(known)
    content = {"machine": describe_machine(), "networks": rows}
    for docs in (folder, options.docs) if whole else (folder,):
        write_whole(docs / "zoo.json", (json.dumps(content, indent=1) + "\n").encode())
        write_whole(docs / "ZOO.md", render(content).encode())
        print(f"wrote {docs / 'zoo.json'} and {docs / 'ZOO.md'}: {len(rows)} of {len(known)} networks")
    if options.docs and not whole:
        print(f"{options.docs} is left as it is: {len(rows)} of {len(known)} networks are in {folder}")
    died = [row["network"] for row in rows if "died" in row]
    for name in died:
        print(f"{name} died, see {folder / name}.log", file=sys.stderr)
    return 1 if died else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    add = parser.add_argument
    add(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help="names as MODEL= takes them, of torchvision, timm and hf (default: all)",
    )
    add("--group", action="append", choices=GROUPS, help="all of these; repeatable")
    add("--keep", action="store_true", help="networks without a row in FOLDER keep the row that DOCS has of them")
    add("--small", action="store_true", help=f"these alone: {', '.join(SMALL)}")
    add("--folder", type=Path, default=Path("out/zoo"), help="of rows and logs; rows that are there are not made anew")
    add("--again", action="store_true", help="make them anew")
    add("--jobs", type=int, default=max(os.cpu_count() or 1, 1), help="at once (default: %(default)s)")
    add("--threads", type=int, default=1, help="of each (default: %(default)s)")
    add("--side", type=int, help="of the pictures, in pixels (default: that of the networks' own weights)")
    add("--docs", type=Path, help="folder to write ZOO.md and zoo.json into (make zoo: docs)")
    add("--only-report", action="store_true", help="run nothing, write the report of the rows there")
    return parser


def _run(networks: list[str], folder: Path, jobs: int, threads: int, side: int | None = None) -> None:
    """Small networks first; as many at once as there are jobs and as fit into the memory."""
    memory = int(_SHARE * psutil.virtual_memory().total)
    with tqdm(total=len(networks), unit="network", disable=None) as bar:
        bar.set_postfix_str("estimating memory")
        waiting = sorted((memory_need(name, side), name) for name in networks)
        running: list[_Job] = []
        try:
            while waiting or running:
                if waiting and waiting[0][0] > memory:
                    need, name = waiting.pop(0)
                    needed = f"needs about {need / 1e9:.0f} GB of memory, {memory / 1e9:.0f} GB are there"
                    _save(folder, name, skipped=needed)
                    bar.update()
                elif waiting and len(running) < jobs and sum(job.need for job in running) + waiting[0][0] <= memory:
                    need, name = waiting.pop(0)
                    running.append(_Job(name, need, _start(name, folder, threads, side)))
                bar.set_postfix_str(", ".join(job.network for job in running))
                for job in [one for one in running if one.process.poll() is not None]:
                    running.remove(job)
                    if job.killed and job.need < memory:  # others took what it needed: once more, alone
                        waiting.append((memory, job.network))
                    else:
                        _finish(job, folder, side)
                        bar.update()
                time.sleep(0.2)
        finally:
            for job in running:
                job.process.kill()


def _is_current(row: Path, side: int | None) -> bool:
    """Whether there is a row of these pictures by the present code; where it died it is made anew."""
    known = json.loads(row.read_bytes()) if row.is_file() else {"died": ""}
    if "skipped" in known or "died" in known:
        return "skipped" in known
    return bool(known["version"] == ROW_VERSION and known["side"] == side_of(known["network"], side))


def _start(network: str, folder: Path, threads: int, side: int | None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "tests.zoo.one", network, str(folder.resolve())]
    command += [] if side is None else [str(side)]
    (folder / f"{network}.json").unlink(missing_ok=True)
    with (folder / f"{network}.log").open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=_ROOT)


def _finish(job: _Job, folder: Path, side: int | None) -> None:
    """Sees to it that there is a row, whatever became of the process."""
    if (folder / f"{job.network}.json").is_file():
        return
    if job.killed:
        need = memory_need(job.network, side) / 1e9
        why = {"skipped": f"needs more memory than there is, probably about {need:.0f} GB: the system killed it"}
    else:
        said = (folder / f"{job.network}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = {"died": f"exit status {job.process.returncode}: {(said or [''])[-1]}"}
    _save(folder, job.network, **why)


def _save(folder: Path, network: str, **why: str) -> None:
    write_whole(folder / f"{network}.json", json.dumps({"network": network, **why}, indent=1).encode())
