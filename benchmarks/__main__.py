"""Measures this project side by side with its peers: ``python -m benchmarks``; ``make bench`` runs all of it.

``python -m benchmarks profile`` says where the time of graphs goes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import results as record
from benchmarks.fronts import describe_fronts, measure_fronts
from benchmarks.load import WrongAnswer
from benchmarks.plot import plot
from benchmarks.reliability.place import Place
from benchmarks.report import write_report
from benchmarks.rounds import ChildError, measure_settings, warm_disk
from benchmarks.served import measure_served, written_store
from benchmarks.work import KEY_NETWORK, NETWORKS, OURS, Work
from deploy.local_server import ServerError

_TOLD = ("value", "threshold", "at_least", "reached")  # of a target
_MORE_ROUNDS = 3  # the setting whose ratios have targets has so many times the rounds


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["profile"]:
        from benchmarks.profile import main as profile  # not above: it loads torch

        return profile(sys.argv[2:])
    options = _parser().parse_args()
    if options.quick:
        options.networks, options.batches, options.threads = [KEY_NETWORK], [1], [2]
    results, fronts = record.read_results(options.results), options.results.with_name("fronts.json")
    try:
        if options.fronts:
            _measure_fronts(options, fronts)
        elif not options.only_report:
            _measure(options, results)
    except (ChildError, ServerError, WrongAnswer) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.fronts:
        told = describe_fronts(record.read_results(fronts))["targets"]
    else:
        record.write_results(options.results, results)
        plot(options.results)
        told = [(key, *(its[one] for one in _TOLD)) for key, its in record.target_details(results).items()]
    write_report(options.results)
    for key, value, threshold, at_least, reached in told:
        sign, verdict = ">=" if at_least else "<=", {True: "reached", False: "MISSED", None: "not measured"}[reached]
        print(f"{key:45} {value if value is None else round(value, 3)!s:>8}  {sign} {threshold}  {verdict}")
    return 0


def _measure_fronts(options: argparse.Namespace, path: Path) -> None:
    archive = options.archive
    if archive is None and (work := _prepared(KEY_NETWORK, options, {})):
        archive = written_store(work) / f"{OURS}.mar"
    if archive is None:
        raise ServerError("there is no archive to serve")
    store, records = archive.resolve().parent, options.work.resolve() / "fronts"
    place = Place(config=Path("config.properties"), store=store, model=archive.stem, records=records)
    if not options.missing:
        path.unlink(missing_ok=True)
    how = (2, 1.0, 500) if options.quick else (options.serve_rounds, options.serve_seconds, 10_000)
    measure_fronts(place, path, *how)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--batches", nargs="+", type=int, default=[1, 4, 16], metavar="N")
    add("--threads", nargs="+", type=int, default=[2, 1], metavar="N")
    add("--rounds", type=int, default=5, help="of each setting; three times as many of the one with targets")
    add("--seconds", type=float, default=0.4, help="of timed calls in a contender's turn")
    add("--limit", type=float, default=300, help="seconds for a setting; slow ones get 3 rounds at least")
    add("--serve-rounds", type=int, default=5)
    add("--serve-seconds", type=float, default=5.0, help="of load in a server's turn")
    add("--skip-served", action="store_true", help="only what runs in processes of its own")
    add("--only-served", action="store_true", help="only TorchServe")
    add("--fronts", action="store_true", help="only TorchServe beside the light front (a quarter of an hour)")
    add("--archive", type=Path, help="what both fronts serve, instead of the network with targets")
    add("--only-report", action="store_true", help="measure nothing, write table and plot anew")
    add("--missing", action="store_true", help="leave out what the results have already")
    add("--quick", action="store_true", help="only the setting with targets, and TorchServe")
    add("--work", type=Path, default=Path("out/bench"), help="folder for weights, graphs and logs")
    add("--results", type=Path, default=record.PATH)
    return parser


def _measure(options: argparse.Namespace, results: record.Results) -> None:
    warm = False
    for network in [] if options.only_served else options.networks:
        if work := _prepared(network, options, results):
            if not warm:
                warm_disk(work)
            warm = True
            for threads in options.threads:
                _measure_network(options, results, work, threads)
    if options.skip_served or (options.missing and "served" in results):
        return
    if work := _prepared(KEY_NETWORK, options, results):
        results["served"] = measure_served(work, options.serve_rounds, options.serve_seconds)
        record.write_results(options.results, results)


def _measure_network(options: argparse.Namespace, results: record.Results, work: Work, threads: int) -> None:
    settings, left_out = results.setdefault("settings", {}), results.setdefault("left_out", {})
    keys = {batch: record.setting_key(work.network, batch, threads) for batch in sorted(options.batches)}
    left = {batch: key for batch, key in keys.items() if not (options.missing and key in settings)}
    if not left:
        return
    more = {record.KEY_SETTING: _MORE_ROUNDS}
    rounds = {batch: options.rounds * more.get(key, 1) for batch, key in left.items()}
    with tqdm(total=len(rounds), desc=f"{work.network}, threads {threads}") as progress:
        tell = progress.set_postfix_str
        try:
            for batch, setting in measure_settings(work, threads, rounds, options.seconds, options.limit, tell):
                settings[left[batch]] = setting
                left_out.pop(left.pop(batch), None)
                record.write_results(options.results, results)
                progress.update()
        except ChildError as error:
            print(f"left out: {error}", file=sys.stderr)
            reason = f"a process ended, most often for want of memory: {error.brief}"
            left_out |= dict.fromkeys(left.values(), reason)
            record.write_results(options.results, results)


def _prepared(network: str, options: argparse.Namespace, results: record.Results) -> Work | None:
    """The network's work; None, with the reason among the results, if its graphs cannot be exported."""
    print(f"{network}: weights, pictures and graphs (minutes, if they are not there yet)", flush=True)
    folder, left_out = options.work.resolve() / network, results.setdefault("left_out", {})
    command = [sys.executable, "-m", "benchmarks.prepare", network, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    left_out.pop(network, None)
    if done.returncode == 0:
        return Work.read(folder)
    said = done.stderr.strip().splitlines() or ["no reason given"]
    left_out[network] = next((line for line in said if "Error: " in line), said[-1])
    print(f"left out: {left_out[network]}\n{done.stderr[-2000:]}", file=sys.stderr)
    return None


if __name__ == "__main__":
    sys.exit(main())
