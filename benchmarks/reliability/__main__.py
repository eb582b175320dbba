"""Load, soak and faults against a real TorchServe on free loopback ports: ``python -m benchmarks.reliability``."""

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.reliability.burst import bursts
from benchmarks.reliability.faults.run import SCENARIOS, run_faults
from benchmarks.reliability.faults.scenario import Place
from benchmarks.reliability.memory import describe_samples, watched_memory
from benchmarks.reliability.mixed_load import Job, nothing_lost_or_crossed, run_mixed, summarise_outcomes
from benchmarks.reliability.pictures import draw_pool
from benchmarks.reliability.record import FOLDER, settings_of, write_record
from benchmarks.reliability.report.page import write_report
from benchmarks.reliability.sizing import WrongAnswer, measure_sizing
from benchmarks.reliability.soak import soak
from deploy.local_server import ServerError


def main() -> int:
    """The command line; 1 if something was lost, crossed, not as expected, or grows."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped, as by Ctrl-C
    try:
        runs: dict[str, Callable[[argparse.Namespace], bool]]
        runs = {"load": _load, "soak": _soak, "faults": _faults, "report": lambda _: True}
        good = runs[options.what](options)
    except (ServerError, WrongAnswer, ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _tell(f"wrote {write_report(options.records, options.docs)}")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("what", choices=("load", "soak", "faults", "report"))
    parser.add_argument("--model", default="shufflenet_cam", help="name of the archive (default: %(default)s)")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="its folder (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=Path("config.properties"))
    parser.add_argument("--requests", type=int, default=10_000, help="of load (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, help="of load (default: %(default)s)")
    parser.add_argument("--turn", type=float, default=10.0, help="seconds of each sizing turn (default: %(default)s)")
    parser.add_argument("--bursts", type=int, default=5, help="larger than the queue (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), help="faults to run")
    parser.add_argument("--records", type=Path, default=FOLDER, help="folder of records (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the report goes (default: %(default)s)")
    return parser


def _tell(text: str) -> None:
    print(text, flush=True)


def _place(options: argparse.Namespace) -> Place:
    work = options.records.resolve() / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Place(options.config, options.store.resolve(), options.model, work, draw_pool())


def _load(options: argparse.Namespace) -> bool:
    place, record = _place(options), partial(write_record, options.records)
    with place.server() as server:
        settings = settings_of(server)
        _tell("sizing: one profile after the other …")
        sized = measure_sizing(server, place.pool, options.turn)
        record("sizing", {"seconds_each": options.turn, "measured": sized}, settings)
        _tell("bursts larger than the queue …")
        record("overload", {"overload": bursts(server, place.pool, options.bursts)}, settings)
        _tell(f"{options.requests} requests at concurrency {options.concurrency} …")
        job = Job(options.requests, 3 * 3600.0, options.concurrency)
        with watched_memory(server) as samples:
            outcomes = run_mixed(server, place.pool, job)
    summary, seconds = summarise_outcomes(outcomes, options.requests), samples[-1].s
    good = nothing_lost_or_crossed(summary)
    content = {"concurrency": options.concurrency, "seconds": round(seconds, 1), "outcomes": summary}
    content |= {"retry_pause_s": job.retry_pause, "memory": describe_samples(samples), "as_expected": good}
    record("load", content, settings)
    _tell(
        f"{summary['answered']} of {summary['requests']} answered in {seconds:.0f} s, lost {summary['lost']}, crossed "
        f"{summary['crossed']}, wrong {summary['wrong']}, retries {summary['retries']}, ms {summary['ms']}"
    )
    return good


def _soak(options: argparse.Namespace) -> bool:
    place = _place(options)
    _tell(f"{options.minutes:g} minutes of low load …")
    with place.server() as server:
        settings = settings_of(server)
        found = soak(server, place.pool, options.minutes * 60)
    write_record(options.records, f"soak-{options.minutes:g}", found, settings)
    slope = found["slope"]
    _tell(
        f"{found['outcomes']['answered']} answered; the workers' memory grows by {slope['value']} MiB a minute, surely "
        f"by {slope['lower']}; let pass are {slope['largest']}: {'TOO MUCH' if slope['grows'] else 'good'}"
    )
    return found["as_expected"] and not slope["grows"]


def _faults(options: argparse.Namespace) -> bool:
    place = _place(options)
    with place.unstarted() as server:
        settings = settings_of(server)
    return run_faults(options.only, place, options.records, settings, _tell)


if __name__ == "__main__":
    sys.exit(main())
