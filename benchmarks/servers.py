"""TorchServe for handlers that answer no readiness probe: the worker's state says when it can be asked."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local_server import DIRECT, LocalServer, described_server

_CONFIG = Path(__file__).parent.parent / "config.properties"


class PlainServer(LocalServer):
    """A server of any archive."""

    @property
    def predictions(self) -> str:
        """Where clients post pictures."""
        return f"{self.address}/predictions/{self.model}"

    def _is_ready(self) -> bool:
        """Whether all workers are."""
        with DIRECT.open(f"{self.properties['management_address']}/models/{self.model}", timeout=5) as answer:
            workers = json.load(answer)[0]["workers"]
        return bool(workers) and all(worker["status"] == "READY" for worker in workers)


@contextmanager
def plain_server(store: Path, model: str) -> Iterator[PlainServer]:
    """Serves ``store/model.mar`` with this project's ``config.properties`` on free ports; stops on leaving."""
    # the frontend's metrics process would wake up every minute
    settings = {"model_store": str(store), "load_models": f"{model}.mar", "metric_time_interval": "3600"}
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        server = PlainServer(**vars(described_server(_CONFIG, model, Path(folder), store / "logs" / model, settings)))
        server.start()
        try:
            yield server
        finally:
            server.stop()
