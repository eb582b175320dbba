"""Archives that are cut off, lack their graphs, or hold a damaged one."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from benchmarks.reliability.asking import ask, describe_seen, get, ready, until
from benchmarks.reliability.faults.scenario import Finding, refusal, scenario
from benchmarks.reliability.place import LIGHT, Place
from benchmarks.reliability.profile import request

_GRAPHS = ("model.onnx", "model.gradcam.onnx", "model.explain.onnx")
_REFUSED = "the server does not start, and says why"
_WAIT_S = 25.0  # seconds for a server that will not get ready


@scenario(
    "TorchServe runs without the model: 404 for it, /ping says 200 all the same; `make serve` says that it is not "
    "ready and stops it; the readiness probe keeps a cluster from sending requests",
    light=_REFUSED,
)
def corrupt_archive(place: Place) -> Finding:
    """Half of the archive, as an upload that broke off leaves it."""
    content = place.archive.read_bytes()
    with TemporaryDirectory(prefix="store-") as store, ThreadPoolExecutor() as pool:
        Path(store, place.archive.name).write_bytes(content[: len(content) // 2])
        if place.front == LIGHT:
            return _refused(place, Path(store))
        with place.server(store=Path(store), started=False) as server:
            starting = pool.submit(refusal, server, _WAIT_S)
            until(lambda: get(server, "/ping").saw.isdigit(), _WAIT_S, 0.3)  # then the frontend listens
            ping = get(server, "/ping").saw
            asked = ask(server, request(1, "prediction", "raw", place.pool[0]))
            said = starting.result()
    detail = {"ping": ping, "start_refused": bool(said)}
    return Finding(as_expected=asked.saw == "404" and bool(said), sees=describe_seen([asked]), detail=detail)


_BY_TORCH = "the torch engine answers everything, and the readiness probe says why"


@scenario(_BY_TORCH, light=_REFUSED)
def missing_sidecar(place: Place) -> Finding:
    """The archive holds no ONNX graphs; `make archive SIDECAR=0` packs such an archive."""
    return _served_by_torch(place)


@scenario("the model does not load, and the worker's log names the graph", light=_REFUSED)
def damaged_graph(place: Place) -> Finding:
    """2000 inverted bytes in the middle of each ONNX graph."""

    def damaged(content: bytes) -> bytes:
        middle = len(content) // 2
        inverted = bytes(255 - byte for byte in content[middle : middle + 2000])
        return content[:middle] + inverted + content[middle + 2000 :]

    with TemporaryDirectory(prefix="store-") as store:
        _change_graphs(place, store, damaged)
        return _refused(place, Path(store))


def _change_graphs(place: Place, store: str, change: Callable[[bytes], bytes | None]) -> None:
    with ZipFile(place.archive) as old, ZipFile(Path(store, place.archive.name), "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if (kept := change(content) if member in _GRAPHS else content) is not None:
                new.writestr(member, kept)


def _served_by_torch(place: Place) -> Finding:
    with TemporaryDirectory(prefix="store-") as store:
        _change_graphs(place, store, lambda _: None)
        if place.front == LIGHT:
            return _refused(place, Path(store))
        started = time.monotonic()
        with place.server(store=Path(store)) as server:
            ready_after = time.monotonic() - started
            kinds = ("prediction", "gradcam", "three maps")
            seen = [ask(server, request(number, kind, "raw", place.pool[number])) for number, kind in enumerate(kinds)]
            probe = ready(server)
    engines = sorted({json.loads(one.body)["model"]["engine"] if one.right else "none" for one in seen})
    good = all(one.right for one in seen) and engines == ["torch"]
    detail = {"engines": engines, "ready_after_s": round(ready_after, 1), "healthz": probe.body.decode()[:600]}
    return Finding(as_expected=good, sees=describe_seen(seen), detail=detail)


def _refused(place: Place, store: Path) -> Finding:
    """A server whose model should not load: the light front ends at once, in one line."""
    with place.server(store=store, started=False) as server:
        said = refusal(server, _WAIT_S)
        seen = ask(server, request(1, "prediction", "raw", place.pool[0]))
    good = "ended at once" in said and "error:" in said and "Traceback" not in said
    if place.front != LIGHT:
        good = "cannot be loaded by ONNX Runtime" in said
    return Finding(as_expected=good, sees=describe_seen([seen]), detail={"said": said.splitlines()[-1:]})
