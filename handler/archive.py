"""Opens archives without PyTorch: the graphs, the settings, and the card that ``write_archive`` packs for this."""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from handler.errors import ModelError, RequestError, in_one_line
from handler.explanation.evidence import TOP, Engine
from handler.graphs.auto_engine import Choice
from handler.graphs.description import KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession, check_files
from handler.picture.decode import quieten
from handler.protocol.model_card import ModelCard
from handler.protocol.options import Options
from handler.service import Service
from handler.serving.jobs import CheckedOptions
from handler.serving.settings import read_settings
from handler.serving.threads import Share

CARD_NAME = "model-card.json"  # the file of the model's card in an archive, as the graphs alone would answer


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """An archive in a folder."""

    folder: Path
    name: str  # of the model on the server, as is its version
    version: str
    config: Mapping[str, Any]  # the parsed ``model-config.yaml``


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """Unpacks an archive to a temporary folder; a ModelError says why it is none of this project."""
    if not path.is_file():
        raise ModelError(f"archive {path} does not exist; `make archive` writes archives")
    with tempfile.TemporaryDirectory(prefix="archive-") as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            model = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_bytes())["model"]
            config = yaml.safe_load((folder / model["configFile"]).read_bytes())
            found = Unpacked(folder=folder, name=model["modelName"], version=model["modelVersion"], config=dict(config))
        except (FileNotFoundError, KeyError, TypeError, ValueError, zipfile.BadZipFile, yaml.YAMLError) as error:
            raise ModelError(f"{path} is no TorchServe archive of this project: {in_one_line(error)}") from error
        yield found


def open_service(archive: Unpacked, is_busy: Callable[[], bool] = lambda: False) -> tuple[Service, ModelCard]:
    """Makes the service of an archive's graphs, and its model's card; the folder is not needed afterwards.

    ``is_busy`` tells whether other runs are due. A ModelError says that the graphs are not those that were packed, that
    the settings cannot be used without PyTorch, or that there are no graphs.
    """
    quieten()
    settings = read_settings(archive.config.get("explain"))
    share = Share(settings.threads, {})
    path = archive.folder / CARD_NAME
    if settings.engine == "torch" or not path.exists():
        valid = "valid are archives with ONNX graphs of this version, and explain.engine auto or onnx"
        raise ModelError(f"{archive.name} needs PyTorch, for it was packed without graphs; {valid}")
    try:
        card = replace(ModelCard.from_json(path.read_text("utf-8")), name=archive.name, version=archive.version)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the card of {archive.name} cannot be read: {in_one_line(error)}") from error
    engine = OnnxEngine(_open_graphs(archive.folder, card, share.threads), is_busy)
    check_defaults(settings.defaults, card, engine)
    return Service(Choice(engine=engine, configured=settings.engine, graphs=card.graphs), card, settings, share), card


def _open_graphs(folder: Path, card: ModelCard, threads: int) -> dict[str, GraphSession]:
    paths = {kind: folder / KINDS[kind].file for kind in card.graphs}
    check_files(folder, {path.name: card.graphs[kind] for kind, path in paths.items()}, card.name)
    return {kind: GraphSession.open(path, kind, threads=threads, shared=True) for kind, path in paths.items()}


def check_defaults(defaults: Options, card: ModelCard, engine: Engine) -> None:
    """Explains a picture of zeros; a ModelError names the default option that is not valid, and what is."""
    try:
        blank = np.zeros((1, *card.preprocessing.shape), np.float32)
        engine.run(blank, [[TOP]], CheckedOptions.of(defaults, card).needs)
    except RequestError as error:
        raise ModelError(f"model-config.yaml: explain.defaults: {error}") from error
