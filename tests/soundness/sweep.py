"""Runs networks in processes of their own, some at once, each for a limited time."""

import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from handler.atomic_write import write_whole
from tests.soundness.networks import Network
from tests.soundness.one import run
from tests.soundness.verdict import judged

# forks processes that have imported everything
_PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class _Job:
    network: Network
    process: BaseProcess
    file: Path
    started: float


def sweep(networks: list[Network], folder: Path, *, jobs: int, seconds: float, with_graphs: bool) -> None:
    """Writes ``GROUP.NAME.json`` and a log for each network.

    Args:
        networks: of the list.
        folder: for the files.
        jobs: how many processes at once.
        seconds: that a network may take; without its graphs its row counts, too.
        with_graphs: whether graphs are made.
    """
    waiting = list(networks)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    _PROCESSES.set_forkserver_preload(["tests.soundness.one", "tests.soundness.odd"])
    running: list[_Job] = []
    with tqdm(total=len(waiting), unit="network", disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting.pop(0), folder, with_graphs))
                bar.set_postfix_str(", ".join(job.network.name for job in running))
                for job in [one for one in running if _ended(one, seconds)]:
                    running.remove(job)
                    _finish(job, seconds)
                    bar.update()
                time.sleep(0.1)
        finally:
            for job in running:
                job.process.kill()
                job.file.unlink(missing_ok=True)  # it may lack its graphs


def _start(network: Network, folder: Path, with_graphs: bool) -> _Job:
    file = folder / f"{network.key}.json"
    file.unlink(missing_ok=True)
    process = _PROCESSES.Process(target=run, args=(network.key, file, file.with_suffix(".log"), with_graphs))
    process.start()
    return _Job(network, process, file, time.perf_counter())


def _ended(job: _Job, seconds: float) -> bool:
    if time.perf_counter() - job.started > seconds:
        job.process.kill()
        job.process.join()
    return job.process.exitcode is not None


def _finish(job: _Job, seconds: float) -> None:
    """Sees to it that there is a row, whatever became of the process."""
    status = job.process.exitcode
    if status == 0:
        return
    late = time.perf_counter() - job.started > seconds
    said = (job.file.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    if late and job.file.is_file():  # all but the graphs
        row = json.loads(job.file.read_bytes())
        row["notes"].append(f"no graphs: they take more than {seconds:.0f} s")
    else:
        row = {"group": job.network.group, "network": job.network.name, "side": job.network.side}
        row["traceback"] = f"no answer in {seconds:.0f} s" if late else f"exit status {status}: {said[:300]}"
    write_whole(job.file, json.dumps(judged(row, job.network.odd), indent=1).encode())
