"""What a fault scenario is, what it finds, and how all of them are run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from subprocess import SubprocessError
from typing import Any, NamedTuple

import psutil

from benchmarks.load import Server
from benchmarks.reliability.place import TORCHSERVE, Place
from deploy.local_server import ServerError


class Impossible(Exception):
    """This machine does not allow the fault; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a fault did."""

    as_expected: bool
    sees: dict[str, Any]  # what clients saw, see describe_seen
    back_s: float | None = None  # seconds from the fault, or from its end, to the next right answer; None: not measured
    detail: dict[str, Any] = field(default_factory=dict)


Run = Callable[[Place], Finding]


class Scenario(NamedTuple):
    """A fault to try."""

    run: Run  # the docstring says what is done, and names numbers of its module and of the finding's detail
    expected: str  # what should come of it with TorchServe; "" for what only the light front is tried with
    light: str = ""  # the same with the light front


SCENARIOS: dict[str, Scenario] = {}


def scenario(expected: str = "", light: str = "") -> Callable[[Run], Run]:
    """Registers a function as the scenario of its name; ``light`` is what should come of it with the light front."""

    def register(run: Run) -> Run:
        SCENARIOS[run.__name__.replace("_", "-")] = Scenario(run, expected, light)
        return run

    return register


def run_faults(names: Sequence[str], place: Place) -> bool:
    """Runs scenarios and writes ``fault-<name>.json`` for each; says whether all went as expected.

    What this machine does not allow is recorded as not possible, and is no failure. What the front cannot meet
    is left out.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    every = True
    for name in names:
        run, *of_fronts = SCENARIOS[name]
        if not (expected := of_fronts[place.front != TORCHSERVE]):
            continue
        print(f"{name} …", flush=True)
        try:
            finding = run(place)
            numbers = {**vars(sys.modules[run.__module__]), **finding.detail}
            did = str(run.__doc__).removesuffix(".").format_map(numbers)
            found = {"did": did, "expected": expected, **asdict(finding)}
        except Impossible as error:
            found = {"not_possible": str(error)}
        except (ServerError, TimeoutError, OSError, psutil.Error, SubprocessError) as error:
            found = {"as_expected": False, "failed": f"{type(error).__name__}: {error}"}
        place.record(f"fault-{name}", {"fault": name, **found})
        every = every and found.get("as_expected", True)
        verdict = {True: "as expected", False: "NOT AS EXPECTED", None: "not possible here"}
        back = f", back after {found['back_s']} s" if found.get("back_s") is not None else ""
        print(f"{name}: {verdict[found.get('as_expected')]}{back}; {found.get('sees', found)}", flush=True)
    return every


def refusal(server: Server, timeout: float) -> str:
    """What ``start`` says of a server that it does not start, "" if it does."""
    try:
        server.start(timeout)
    except ServerError as error:
        return str(error)
    return ""
