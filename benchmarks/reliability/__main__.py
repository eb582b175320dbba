"""Load, soak, faults and hostile input against a real server: ``python -m benchmarks.reliability --help``."""

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.load import WrongAnswer
from benchmarks.reliability.faults import archives, clients, disks, processes
from benchmarks.reliability.faults.scenario import SCENARIOS, run_faults
from benchmarks.reliability.fuzz.run import measure_fuzz
from benchmarks.reliability.mixed_load import RETRY_PAUSE, bursts, measure_load, measure_sizing
from benchmarks.reliability.place import LIGHT, TORCHSERVE, Place
from benchmarks.reliability.report.page import write_report
from benchmarks.reliability.slope import judge_soak
from deploy.local_server import ServerError

FAULTS = (processes, clients, disks, archives)  # they register the scenarios
_tell = partial(print, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if something was lost, crossed, not as expected, or grows."""
    options = _parser().parse_args(arguments)
    store, records = options.store.resolve(), options.records.resolve()
    place = Place(config=options.config, store=store, model=options.model, records=records, front=options.front)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped, as by Ctrl-C
    try:
        good = _RUNS[options.what](place, options)
    except (ServerError, WrongAnswer, ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.what != "fuzz":  # a run of it is often a small one
        _tell(f"wrote {write_report(place.records, options.docs)}")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=_RUNS)
    add("--front", choices=[TORCHSERVE, LIGHT], default=TORCHSERVE, help="what is measured")
    add("--model", default="shufflenet_cam", help="name of the archive")
    add("--store", type=Path, default="out/reliability/store", help="its folder")
    add("--config", type=Path, default="config.properties", help="settings of TorchServe")
    add("--records", "--folder", type=Path, default="out/reliability", help="folder to write them to")
    add("--docs", type=Path, default="docs", help="where the report goes")
    add("--requests", type=int, default=10_000, help="of load")
    add("--concurrency", type=int, default=32, help="of load")
    add("--turn", type=float, default=10.0, help="seconds of each sizing turn of load")
    add("--bursts", type=int, default=5, help="of load, larger than the queue")
    add("--minutes", type=float, default=60.0, help="of soak")
    add("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), help="faults to run")
    add("--inputs", type=int, default=100_000, help="of fuzz, how many")
    add("--seed", type=int, default=20, help="of the inputs")
    add("--first", type=int, default=0, help="number of the first input")
    add("--threads", type=int, default=4, help="of fuzz: connections at once")
    add("--most", type=int, default=1, help="findings that fuzz stops at")
    return parser


def _load(place: Place, options: argparse.Namespace) -> bool:
    with place.server() as server:
        _tell("sizing: one profile after the other …")
        sized = measure_sizing(server, place.pool, options.turn)
        place.record("sizing", {"seconds_each": options.turn, "measured": sized})
        _tell("bursts larger than the queue …")
        place.record("overload", {"overload": bursts(server, place.pool, options.bursts)})
        _tell(f"{options.requests} requests at concurrency {options.concurrency} …")
        most, clients = options.requests, options.concurrency
        found, samples = measure_load(server, place.pool, requests=most, seconds=3 * 3600.0, concurrency=clients)
    place.record("load", {"seconds": round(samples[-1].s, 1), "retry_pause_s": RETRY_PAUSE, **found})
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
        found, samples = measure_load(server, place.pool, seconds=seconds, concurrency=2, pause=0.1)
    slope, answered = judge_soak(samples, seconds), found["outcomes"]["answered"]
    figures = {"seconds": seconds, "per_s": round(answered / seconds, 1), "slope": slope}
    place.record(f"soak-{options.minutes:g}", figures | found)
    _tell(
        f"{answered} answered; the workers' memory grows by {slope['value']} MiB a minute, surely by {slope['lower']}; "
        f"let pass are {slope['largest']}: {'TOO MUCH' if slope['grows'] else 'good'}"
    )
    return found["as_expected"] and not slope["grows"]


_RUNS: dict[str, Callable[[Place, argparse.Namespace], bool]] = {
    "load": _load,
    "soak": _soak,
    "faults": lambda place, options: run_faults(options.only, place),
    "fuzz": measure_fuzz,
    "report": lambda *_: True,
}

if __name__ == "__main__":
    sys.exit(main())
