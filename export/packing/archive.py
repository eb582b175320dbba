"""Packs a classifier, its ONNX graphs and the package ``handler`` into a TorchServe archive."""

import importlib.metadata
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import ModelExportUtils

import handler
from deploy.devices.forms import Form
from export.errors import NotExportableError
from export.graphs.exporters import explanation_kind, export_graph
from export.packing.shared_weights import share_weights
from export.packing.sources import check_alone, pack_sources
from export.verify.compare import VerificationError
from handler.archive import CARD_NAME, check_defaults
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.graphs.description import KIND_GRADCAM, KIND_LAYERS, KIND_PREDICTION, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import open_graphs
from handler.loading import CHECKPOINT_NAME, choose_engine, describe_model, origin_of
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.model.makers import maker_of
from handler.serving.settings import Settings, read_settings
from handler.serving.threads import usable_cores

logger = logging.getLogger(__name__)

_PACKAGE = Path(handler.__file__).parent
_ENTRY = "torchserve_entry.py"
DEFAULT_CONFIG = _PACKAGE / "model-config.yaml"


def write_archive(
    checkpoint: Checkpoint,
    store: Path,
    name: str,
    version: str = "1.0",
    config: Path = DEFAULT_CONFIG,
    *,
    sidecar: bool = True,
    graphs: Iterable[str] = (),
    layers: Sequence[str] = (),
    pack: Iterable[str] = (),
    report: Callable[[str], None] = logger.info,
) -> Path:
    """Writes ``store/name.mar`` of a complete checkpoint, whole or not at all, and returns its path.

    The classifier is built, the settings are read and the engine is opened before the archive is made, so that a model
    that cannot work on the server fails here, as a ModelError. ``name`` and ``version`` are the model's on the server,
    ``config`` is the ``model-config.yaml`` to pack. Without ``sidecar``, or where ``explain.engine`` is torch, no ONNX
    graphs are made; ``graphs`` are kinds to pack beside the usual ones, ``layers`` module paths that the graphs answer
    for beside the default layer, and ``pack`` packages and modules that a custom architecture needs besides its own.
    ``report`` takes lines about the assumptions and the progress.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?<!\.mar)", name):
        raise ModelError(f"name {name!r} is not valid, valid are letters, digits, '_', '-' and '.', without .mar")
    classifier, settings = build_classifier(checkpoint), _read_config(config)
    classifier.check_layers(layers)
    if layers and not (sidecar and settings.engine != "torch"):
        raise ModelError(f"layers={', '.join(layers)} are those of graphs, and this archive has none; leave layers out")
    further = tuple(path for path in dict.fromkeys(layers) if path != classifier.default_layer)
    classifier = replace(classifier, further_layers=further)
    for line in assumptions(checkpoint, classifier):
        report(line)
    hooks = TorchEngine(classifier)
    check_defaults(settings.defaults, describe_model(classifier, hooks, name, version), hooks)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=store) as work:
        stage = Path(work, "stage")
        shutil.copytree(_PACKAGE, stage / "handler", ignore=shutil.ignore_patterns("__pycache__", "*.yaml", _ENTRY))
        write_checkpoint(stage / CHECKPOINT_NAME, checkpoint)
        _pack_source(classifier.architecture, pack, stage, report)
        if sidecar and settings.engine != "torch":
            write_sidecar(classifier, stage, report, [*graphs, *([KIND_LAYERS] if classifier.further_layers else [])])
            share_weights(stage)
        choice = choose_engine(settings.engine, stage, classifier, usable_cores())  # as the server will
        check_defaults(settings.defaults, describe_model(classifier, choice.engine, name, version), choice.engine)
        if choice.graphs:
            engine = OnnxEngine(open_graphs(stage, origin_of(classifier), threads=usable_cores()))
            card = replace(describe_model(classifier, engine, name, version), graphs=choice.graphs)
            (stage / CARD_NAME).write_text(card.to_json(), encoding="utf-8")
        shutil.copy(config, stage / DEFAULT_CONFIG.name)
        shutil.copy(_PACKAGE / _ENTRY, stage)
        entries = ModelArchiverConfig(name, _ENTRY, version, config_file=DEFAULT_CONFIG.name)
        ModelExportUtils.archive(work, name, stage, ModelExportUtils.generate_manifest_json(entries))
        return Path(work, f"{name}.mar").replace(store / f"{name}.mar")


def assumptions(checkpoint: Checkpoint, classifier: Classifier) -> list[str]:
    """What is assumed and who said so, in lines for people: a wrong assumption makes wrong maps that look right."""
    said = dict.fromkeys(("preprocessing", "labels"), "as the checkpoint says") | checkpoint.origins
    lines = [f"preprocessing: {classifier.preprocessing.describe()}; {said['preprocessing']}"]
    if "transform_input" in said:
        applied = "normalised once more" if checkpoint.options.get("transform_input") else "none"
        lines.append(f"input transform: {applied}; {said['transform_input']}")
    channels, height, width = classifier.layers[classifier.default_layer]
    words = f" ({classifier.reading.words})" if classifier.reading.words else ""
    lines += [
        f"probabilities: the {classifier.reading.head} of the scores{words}",
        f"labels: {len(classifier.labels)}; {said['labels']}",
        f"layer: {classifier.default_layer}, {channels} channels of {height}x{width} cells; {classifier.layer_rule}",
    ]
    if classifier.alone:
        lines.append(f"pictures are run one by one, without graphs: {classifier.alone}")
    return lines + [f"{name}: {text}" for name, text in checkpoint.notes.items() if name.startswith("onnx")]


def _pack_source(architecture: str, pack: Iterable[str], stage: Path, report: Callable[[str], None]) -> None:
    maker = maker_of(architecture)
    if sources := maker.sources(architecture):
        pack_sources(architecture, [*sources, *pack], stage, report)
    elif tuple(pack):
        raise ModelError(f"{architecture} needs no source: pack= is for code of your own")
    foreign = [] if maker.tried else check_alone(stage, architecture)
    if maker.package in foreign:  # which brings the others along
        installed = importlib.metadata.version(maker.package)
        report(f"not in the archive, so install it on the server: {maker.package}=={installed}")
    elif foreign:
        report(f"not in the archive, so install it on the server or name it in pack=: {', '.join(foreign)}")


def write_sidecar(
    classifier: Classifier, folder: Path, report: Callable[[str], None], further: Iterable[str] = ()
) -> None:
    """Writes the ONNX graphs that travel in the archive: of predictions and maps, and further kinds, each verified.

    ``report`` is told of each graph that cannot be made, or differs from PyTorch, and so is left out; but a difference
    for torchvision's architectures is a mistake of this project, and raises VerificationError.
    """
    if classifier.alone:
        report(f"the archive goes without graphs, which take batches: {classifier.alone}")
        return
    kinds = [KIND_PREDICTION, KIND_GRADCAM]
    try:
        kinds.append(explanation_kind(classifier))
    except NotExportableError as error:
        report(f"the archive goes without a graph of the whole explanation: {error}")
    kinds = list(dict.fromkeys([*kinds, *further]))
    for number, kind in enumerate(kinds, start=1):
        report(f"graph {number} of {len(kinds)}: exporting and verifying {KINDS[kind].file} …")
        try:
            export_graph(classifier, folder / KINDS[kind].file, kind, Form(folded=False))
        except NotExportableError as error:
            report(f"the archive goes without {KINDS[kind].file}: {error}")
        except VerificationError as error:
            if maker_of(classifier.architecture).tried:
                raise
            report(f"the archive goes without {KINDS[kind].file}, PyTorch answers instead: {error.summary}")


def _read_config(config: Path) -> Settings:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{config} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{config} must be a YAML mapping")
    return read_settings(content.get("explain"))
