"""The models that a front serves: found by name and version, and answered through one queue."""

import asyncio
import hmac
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handler.archive import open_service, unpacked
from handler.errors import ModelError, NotFound, Unauthorized, Unavailable
from handler.protocol.answer import PROBE, Answer
from handler.protocol.kserve import OUTPUT
from handler.protocol.model_card import ModelCard
from handler.protocol.row import Row
from handler.service import Service
from handler.serving.queue import Batching, Queue
from handler.serving.threads import usable_cores
from handler.telemetry.exposition import Exposition
from handler.telemetry.metrics import record, resident_memory
from handler.telemetry.request_log import request_line

logger = logging.getLogger(__name__)

SERVER = {"name": "shufflenet-cam", "version": "2", "extensions": ["binary_tensor_data"]}  # V2's metadata of a server
_TIMES = {"batchSize": 1, "maxBatchDelay": 0, "responseTimeout": 60}  # of ``model-config.yaml``: rows, ms, s


class ClientGone(Exception):
    """The client does not wait for its answer."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model that is served."""

    service: Service
    card: ModelCard
    batching: Batching
    patience: int  # seconds until a request is given up


class Models:
    """Models by name and version; the first version is meant where a request names none."""

    def __init__(self, paths: Sequence[Path], waiting: int, token: str = "") -> None:
        """Opens archives, and folders of archives; at most ``waiting`` requests wait or are answered.

        With a ``token``, ``authorise`` asks for it. A ModelError says why an archive cannot be served.
        """
        self.queue = Queue(waiting, usable_cores())
        self._token = token.encode()
        self._versions: dict[str, dict[str, Served]] = {}
        self.exposition = Exposition()
        found = [one for path in paths for one in (sorted(path.rglob("*.mar")) if path.is_dir() else [path])]
        if not found:
            raise ModelError(f"there is no archive in {', '.join(map(str, paths))}; `make archive` writes archives")
        for path in found:
            self._open(path)

    def _open(self, path: Path) -> None:
        with unpacked(path) as archive:
            service, card = open_service(archive, self.queue.is_busy)
        said = [archive.config.get(name, default) for name, default in _TIMES.items()]
        if not all(type(number) is int and number >= 0 for number in said):
            raise ModelError(f"model-config.yaml: {', '.join(_TIMES)} must be whole numbers, not {said}")
        most, delay, patience = said
        batching = Batching(answer_batch=service.answer_batch, most=max(1, most), delay=delay / 1000)
        versions = self._versions.setdefault(card.name, {})
        if card.version in versions:
            raise ModelError(f"{path} is one more version {card.version} of {card.name}, valid is one archive for each")
        versions[card.version] = Served(service=service, card=card, batching=batching, patience=patience)
        self.exposition.add([*service.metrics.take(), resident_memory()], card.name)

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return [*self._versions]

    @property
    def addresses(self) -> list[str]:
        """The models' versions as ``NAME/VERSION``."""
        return [f"{name}/{version}" for name, versions in self._versions.items() for version in versions]

    def find(self, name: str, version: str = "") -> Served:
        """The model; NotFound says which there are."""
        versions = self._versions.get(name, {})
        version = version or next(iter(versions), "")
        if version not in versions:
            known = [address.replace("/", " ") for address in self.addresses]
            raise NotFound(f"there is no such model or version, valid are {', '.join(known)}")
        return versions[version]

    def below(self, name: str, version: str, below: str) -> tuple[Served, str]:
        """The model at TorchServe's address ``NAME/VERSION/PATH``, whose version may be left out, and the path."""
        first, _, rest = below.strip("/").partition("/")
        if first in self._versions.get(name, {}):
            return self.find(name, first), rest
        return self.find(name, version), below.strip("/")

    def metadata(self, model: Served) -> dict[str, Any]:
        """V2's metadata of a model."""
        picture, answer = ({"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("image", OUTPUT))
        name, versions = model.card.name, [*self._versions[model.card.name]]
        known = {"name": name, "versions": versions, "platform": "onnxruntime_onnx"}
        return {**known, "inputs": [picture], "outputs": [answer]}

    def authorise(self, authorization: str) -> None:
        """Raises Unauthorized unless the header holds the token, in constant time; without a token all may ask."""
        scheme, _, said = authorization.partition(" ")
        known = hmac.compare_digest(said.strip().encode("utf-8", "replace"), self._token)
        if self._token and not (known and scheme.lower() == "bearer"):
            raise Unauthorized("the token is missing or wrong, valid is the header Authorization: Bearer TOKEN")

    async def ask(self, model: Served, row: Row, gone: Callable[[], Awaitable[Any]] | None = None) -> Answer:
        """Waits for an answer in the queue; gives the row up when ``gone()`` ends, with ClientGone.

        Raises Unavailable at once if the queue is full, and when the model's patience ends.
        """
        if not any(row.fields.values()):  # a probe must not wait
            return model.service.answer_batch([row])[0]
        answer = asyncio.ensure_future(self.queue.answer(row, model.batching))
        both = [answer, *([asyncio.ensure_future(gone())] if gone else [])]
        try:
            await asyncio.wait(both, timeout=model.patience or None, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if any(one.done() for one in both):
                raise ClientGone
            raise Unavailable(f"the answer takes more than {model.patience} seconds; ask for less, or again later")
        finally:
            for one in both:
                one.cancel()

    def reported(self, model: Served, answer: Answer, size: int, seconds: float) -> Answer:
        """Counts and logs an answer, and adds the request's id to its headers; the body had ``size`` bytes."""
        request_id = str(uuid.uuid4())
        if answer.outcome != PROBE:
            record(model.service.metrics, answer, seconds)
            logger.info(request_line(answer, request_id, size, seconds * 1e3))
        self.exposition.add([*model.service.metrics.take(), resident_memory()], model.card.name)
        return replace(answer, headers={**answer.headers, "x-request-id": request_id})
