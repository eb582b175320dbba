"""Load, soak and faults against a real TorchServe on free loopback ports: ``python -m benchmarks.reliability``."""

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.load import WrongAnswer
from benchmarks.reliability.faults.run import run_faults
from benchmarks.reliability.faults.scenario import SCENARIOS
from benchmarks.reliability.mixed_load import Job, bursts, measure_load
from benchmarks.reliability.place import Place
from benchmarks.reliability.report.page import write_report
from benchmarks.reliability.sizing import measure_sizing
from benchmarks.reliability.slope import judge_soak
from deploy.local_server import ServerError

_tell = partial(print, flush=True)


def main() -> int:
    """The command line; 1 if something was lost, crossed, not as expected, or grows."""
    options = _parser().parse_args()
    place = Place.of(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped, as by Ctrl-C
    runs: dict[str, Callable[[Place, argparse.Namespace], bool]]
    runs = {"load": _load, "soak": _soak, "report": lambda *_: True}
    runs["faults"] = lambda *_: run_faults(options.only, place)
    try:
        good = runs[options.what](place, options)
    except (ServerError, WrongAnswer, ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _tell(f"wrote {write_report(place.records, options.docs)}")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("what", choices=("load", "soak", "faults", "report"))
    Place.add_options(parser)
    parser.add_argument("--requests", type=int, default=10_000, help="of load (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=32, help="of load (default: %(default)s)")
    parser.add_argument("--turn", type=float, default=10.0, help="seconds of each sizing turn (default: %(default)s)")
    parser.add_argument("--bursts", type=int, default=5, help="larger than the queue (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), help="faults to run")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the report goes (default: %(default)s)")
    return parser


def _load(place: Place, options: argparse.Namespace) -> bool:
    with place.server() as server:
        _tell("sizing: one profile after the other …")
        sized = measure_sizing(server, place.pool, options.turn)
        place.record("sizing", {"seconds_each": options.turn, "measured": sized})
        _tell("bursts larger than the queue …")
        place.record("overload", {"overload": bursts(server, place.pool, options.bursts)})
        _tell(f"{options.requests} requests at concurrency {options.concurrency} …")
        job = Job(requests=options.requests, seconds=3 * 3600.0, concurrency=options.concurrency)
        found, samples = measure_load(server, place.pool, job)
    place.record("load", {"seconds": round(samples[-1].s, 1), "retry_pause_s": job.retry_pause, **found})
    its = found["outcomes"]
    _tell(
        f"{its['answered']} of {its['requests']} answered in {samples[-1].s:.0f} s, lost {its['lost']}, crossed "
        f"{its['crossed']}, wrong {its['wrong']}, retries {its['retries']}, ms {its['ms']}"
    )
    return bool(found["as_expected"])


def _soak(place: Place, options: argparse.Namespace) -> bool:
    """A low load for long, and whether the workers' memory grows meanwhile."""
    seconds = options.minutes * 60
    _tell(f"{options.minutes:g} minutes of low load …")
    with place.server() as server:
        found, samples = measure_load(server, place.pool, Job(requests=None, seconds=seconds, concurrency=2, pause=0.1))
    slope, answered = judge_soak(samples, seconds), found["outcomes"]["answered"]
    figures = {"seconds": seconds, "per_s": round(answered / seconds, 1), "slope": slope}
    place.record(f"soak-{options.minutes:g}", figures | found)
    _tell(
        f"{answered} answered; the workers' memory grows by {slope['value']} MiB a minute, surely by {slope['lower']}; "
        f"let pass are {slope['largest']}: {'TOO MUCH' if slope['grows'] else 'good'}"
    )
    return found["as_expected"] and not slope["grows"]


if __name__ == "__main__":
    sys.exit(main())
