"""Archives that are cut off, lack their graphs, or hold a damaged one."""

import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.asking import Seen, ask, describe_seen, get
from benchmarks.reliability.faults.scenario import Finding, Place
from benchmarks.reliability.profile import request
from deploy.local_server import LocalServer, ServerError, read_properties, with_free_ports

_GRAPHS = ("model.onnx", "model.gradcam.onnx", "model.explain.onnx")
_WAIT_S = 25.0  # seconds for a server that will not get ready


def corrupt_archive(place: Place) -> Finding:
    """Half of it, as an upload that broke off leaves it."""
    store = _store(place, "corrupt")
    content = place.archive.read_bytes()
    (store / place.archive.name).write_bytes(content[: len(content) // 2])
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        config = Path(folder) / "config.properties"
        settings = {**with_free_ports(read_properties(place.config)), "model_store": str(store)}
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        server, said = LocalServer(config, place.model, Path(folder), place.work / "logs"), list[str]()
        starting = threading.Thread(target=_start, args=(server, said))
        starting.start()
        ping = _first_answer(server)
        asked = ask(server.address, server.model, request(1, "prediction", "raw", place.pool[0]))
        starting.join()
    return Finding(
        "half of the archive",
        "TorchServe runs without the model: 404 for it, /ping says 200 all the same; `make serve` says that it is not "
        "ready and stops it; the readiness probe keeps a cluster from sending requests",
        asked.saw == "404" and bool(said),
        describe_seen([asked]),
        detail={"ping": ping.saw, "start_refused": bool(said)},
    )


def missing_sidecar(place: Place) -> Finding:
    """An archive of `make archive SIDECAR=0`."""
    return _served_by_torch(
        place,
        "no-graphs",
        lambda name, content: None if name in _GRAPHS else content,
        "an archive without its ONNX graphs",
    )


def damaged_graph(place: Place) -> Finding:
    """Bytes in the middle of each graph are others."""

    def damage(name: str, content: bytes) -> bytes:
        if name not in _GRAPHS:
            return content
        middle = len(content) // 2
        return (
            content[:middle] + bytes(255 - byte for byte in content[middle : middle + 2000]) + content[middle + 2000 :]
        )

    return _served_by_torch(place, "damaged", damage, "2000 inverted bytes in the middle of each ONNX graph")


def _served_by_torch(place: Place, name: str, change: Callable[[str, bytes], bytes | None], did: str) -> Finding:
    store = _store(place, name)
    with zipfile.ZipFile(place.archive) as old, zipfile.ZipFile(store / place.archive.name, "w") as new:
        for member in old.namelist():
            content = change(member, old.read(member))
            if content is not None:
                new.writestr(member, content)
    started = time.monotonic()
    with place.server(model_store=str(store)) as server:
        ready = time.monotonic() - started
        kinds = ("prediction", "gradcam", "three maps")
        seen = [
            ask(server.address, server.model, request(number, kind, "raw", place.pool[number]))
            for number, kind in enumerate(kinds)
        ]
        probe = get(server.address, f"/predictions/{server.model}/1.0/healthz")
    engines = sorted({_engine(one) for one in seen})
    return Finding(
        did,
        "the torch engine answers everything, and the readiness probe says why",
        all(one.right for one in seen) and engines == ["torch"],
        describe_seen(seen),
        detail={"engines": engines, "ready_after_s": round(ready, 1), "healthz": probe.body.decode("utf-8")[:600]},
    )


def _engine(one: Seen) -> str:
    try:
        return str(json.loads(one.body)["model"]["engine"])
    except (KeyError, ValueError):
        return "none"


def _store(place: Place, name: str) -> Path:
    store = place.work.resolve() / "stores" / name
    store.mkdir(parents=True, exist_ok=True)
    return store


def _start(server: LocalServer, said: list[str]) -> None:
    try:
        server.start(timeout=_WAIT_S)
        server.stop()
    except ServerError as error:
        said.append(str(error))


def _first_answer(server: LocalServer) -> Seen:
    """Of /ping, once the frontend listens."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        ping = get(server.address, "/ping")
        if ping.saw.isdigit() or time.monotonic() > deadline:
            return ping
        time.sleep(0.3)
