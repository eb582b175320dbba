"""All fault scenarios, one after the other, each with a record."""

from collections.abc import Sequence
from dataclasses import asdict
from subprocess import SubprocessError

import psutil

from benchmarks.reliability.faults import archives, clients, disks, processes
from benchmarks.reliability.faults.scenario import SCENARIOS, Impossible
from benchmarks.reliability.place import Place
from deploy.local_server import ServerError

MODULES = (processes, clients, disks, archives)  # that register scenarios


def run_faults(names: Sequence[str], place: Place) -> bool:
    """Runs scenarios and writes ``fault-<name>.json`` for each; says whether all went as expected.

    What this machine does not allow is recorded as not possible, and is no failure.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    every = True
    for name in names:
        print(f"{name} …", flush=True)
        scenario = SCENARIOS[name]
        try:
            finding = scenario.run(place)
            found = {"did": scenario.did(finding), "expected": scenario.expected, **asdict(finding)}
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
