"""Real servers for tests, TorchServe and the front without PyTorch, and what they post to them."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import yaml
from PIL import Image

from deploy.local_server import LocalServer, temporary_server
from tests.support.light import LightServer, light_server

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests/support"
ONE, TWO = ROOT / "examples/shapes/one.jpg", ROOT / "examples/shapes/two.jpg"
CHECKPOINT = ROOT / "examples/shapes/shapes.safetensors"


FRONTS = ("torchserve", "light")
# for tests with a fixture ``client`` for each front: what TorchServe alone has
torchserve_alone = pytest.mark.parametrize("client", ["torchserve"], indirect=True)


@dataclass(frozen=True)
class Client:
    """Posts to one model of a running server."""

    server: LocalServer

    front = "torchserve"

    @property
    def address(self) -> str:
        return f"{self.server.address}/predictions/{self.server.model}"

    def post(self, **arguments: Any) -> requests.Response:
        return requests.post(self.address, timeout=60, **arguments)

    def form(self, picture: bytes, **options: str) -> requests.Response:
        return self.post(files={"data": picture}, data=options)

    def json(self, content: Any) -> requests.Response:
        return self.post(json=content)

    def describe(self) -> dict[str, Any]:
        """The model's description."""
        described = self._manage()["customizedMetadata"]
        found: dict[str, Any] = yaml.safe_load(described) if isinstance(described, str) else described
        return found

    def worker_pids(self) -> list[int]:
        """The processes that answer."""
        return [worker["pid"] for worker in self._manage()["workers"]]

    def _manage(self) -> dict[str, Any]:
        management = self.server.properties["management_address"]
        answer = requests.get(f"{management}/models/{self.server.model}?customized=true", timeout=60)
        managed: dict[str, Any] = answer.json()[0]
        return managed


@dataclass(frozen=True)
class LightClient(Client):
    """Posts to one model of the front without PyTorch."""

    server: LightServer  # type: ignore[assignment]

    front = "light"

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.get(f"/models/{self.server.model}").json()
        return found

    def worker_pids(self) -> list[int]:
        return [self.server.pid] if self.server.process.poll() is None else []


def worker_of(java: psutil.Process) -> psutil.Process:
    """The process that answers; while it is suspended, requests wait in the queue."""
    return next(one for one in java.children() if "model_service_worker" in " ".join(one.cmdline()))


def waiting(management: str, model: str) -> int:
    """Requests in the queue; those that a worker is at work on are no more."""
    (described,) = requests.get(f"{management}/models/{model}", timeout=60).json()
    pending: int = described["jobQueueStatus"]["pendingRequests"]
    return pending


@contextmanager
def serving(store: Path, model: str, logs: Path, front: str = "torchserve") -> Iterator[Client]:
    """A server of ``model.mar`` in the store, on free ports; ``front`` is out of ``FRONTS``."""
    if front == "light":
        with light_server([store / f"{model}.mar"], model, logs) as light:
            yield LightClient(light)
    else:
        with temporary_server(ROOT / "config.properties", model, logs, {"model_store": str(store)}) as server:
            yield Client(server)


def repacked(archive: Path, target: Path, config: str = "", *, version: str = "") -> None:
    """Writes a copy of an archive, whose model is named as the file; with another config or version if given."""
    known = {"modelName": target.stem, **({"modelVersion": version} if version else {})}
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model-config.yaml" and config:
                content = config.encode()
            elif name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"] |= known
                content = json.dumps(manifest).encode()
            elif name == "model-card.json":
                said = {"name": target.stem, **({"version": version} if version else {})}
                content = json.dumps({**json.loads(content), **said}).encode()
            new.writestr(name, content)


def picture_of(map_content: dict[str, Any]) -> np.ndarray:
    """The decoded picture of a map with encoding png."""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(map_content["data"]))))
    assert list(picture.shape) == map_content["shape"]
    return picture


def array_of(map_content: dict[str, Any]) -> np.ndarray:
    """The array of a map with encoding npy or list."""
    data = map_content["data"]
    array = np.load(io.BytesIO(base64.b64decode(data))) if isinstance(data, str) else np.array(data, np.float32)
    assert list(array.shape) == map_content["shape"]
    return array


def only_map(response: requests.Response, name: str = "gradcam") -> dict[str, Any]:
    """The named map of the only explanation."""
    assert response.status_code == 200, response.text[:500]
    (explanation,) = response.json()["explanations"]
    found: dict[str, Any] = explanation["maps"][name]
    return found


def error_of(response: requests.Response, status: int) -> str:
    """The message of an error answer, whose form is checked."""
    assert response.status_code == status, (response.status_code, response.text[:300])
    assert response.headers["content-type"] == "application/json"
    content = json.loads(response.text)
    assert set(content) == {"code", "type", "message", "error"}
    assert content["code"] == status
    assert content["error"] == content["message"]
    assert "Traceback" not in content["message"]
    message: str = content["message"]
    return message


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
