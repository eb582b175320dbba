"""Records of measurements: one JSON file each, with the machine, the settings and the command."""

import json
import shlex
import sys
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import describe_machine
from deploy.local_server import LocalServer
from handler.atomic_write import write_whole

FOLDER = Path("out/reliability")
_OF_PROPERTIES = (
    *("job_queue_size", "vmargs", "max_request_size", "max_response_size", "default_workers_per_model"),
    *("number_of_netty_threads", "netty_client_threads"),
)
_OF_MODEL = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "maxRetryTimeoutInSec")


def settings_of(server: LocalServer) -> dict[str, Any]:
    """What decides how a server behaves under load; no ports and no paths."""
    properties = server.properties
    found: dict[str, Any] = {key: properties[key] for key in _OF_PROPERTIES if key in properties}
    with zipfile.ZipFile(Path(properties["model_store"]) / f"{server.model}.mar") as archive:
        model = yaml.safe_load(archive.read("model-config.yaml"))
    found |= {key: model[key] for key in _OF_MODEL if key in model}
    return found | {f"explain.{key}": model["explain"][key] for key in ("engine", "threads") if key in model["explain"]}


def write_record(folder: Path, name: str, content: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """Writes ``folder/name.json``, whole or not at all."""
    record = {
        "name": name,
        "command": shlex.join(["python", "-m", "benchmarks.reliability", *sys.argv[1:]]),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": dict(settings),
        **content,
    }
    path = folder / f"{name}.json"
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records of a folder, by file name without its ending."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
