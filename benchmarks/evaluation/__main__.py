"""Measures the quality of all maps: ``make evaluate``, ``python -m benchmarks.evaluation --help``."""

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from benchmarks.evaluation.measure import Row, measure
from benchmarks.evaluation.plot import plot
from benchmarks.evaluation.report import render
from benchmarks.evaluation.subjects import SUBJECTS
from benchmarks.machine import describe_machine
from handler.atomic_write import write_whole


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help=f"out of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--docs", type=Path, default=Path("out/quality"), help="folder to write (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few pictures: a trial of the command, no measurement")
    parser.add_argument("--only-report", action="store_true", help="measure nothing, write the page of quality.json")
    options = parser.parse_args(arguments)
    names = options.networks or list(SUBJECTS)
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        parser.error(f"there is no network {', '.join(unknown)}, valid are {', '.join(SUBJECTS)}")
    options.docs.mkdir(parents=True, exist_ok=True)
    stored = options.docs / "quality.json"
    if options.only_report and not stored.is_file():
        parser.error(f"{stored} does not exist; measure first, without --only-report")
    content = json.loads(stored.read_bytes()) if stored.is_file() else {"subjects": {}}
    if not options.only_report:
        content["machine"] = describe_machine()
        for name, found in _measured(names, options.quick):  # those of other networks stay
            content["subjects"][name] = found
            write_whole(stored, (json.dumps(content, indent=1) + "\n").encode())
    content["subjects"] = {name: content["subjects"][name] for name in SUBJECTS if name in content["subjects"]}
    plot(content, options.docs)
    write_whole(options.docs / "QUALITY.md", render(content).encode())
    tqdm.write(f"wrote QUALITY.md, quality.json and two plots to {options.docs}")


def _measured(names: Sequence[str], quick: bool) -> Iterator[tuple[str, Row]]:
    """Each network as soon as it is done, in a process of its own, on one thread."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(len(names), mp_context=context) as pool:
        running = {pool.submit(measure, name, quick, place): name for place, name in enumerate(names)}
        for future in as_completed(running):
            yield running[future], future.result()


if __name__ == "__main__":
    main()
