"""Loads archives and checkpoints, chooses the engine, and makes the service and the model's card of them."""

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.archive import Unpacked, check_defaults, unpacked
from handler.autograd.torch_engine import TorchEngine
from handler.client.model import Model
from handler.errors import ModelError, Unprocessable
from handler.explanation.evidence import TOP, Engine, Needs
from handler.explanation.maps import MAP_KINDS, needs_of
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.auto_engine import Choice, EitherEngine, disagreements
from handler.graphs.description import Origin
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import find_graphs, open_graphs
from handler.model.checkpoint import hash_state, read_checkpoint
from handler.model.classifier import Classifier, build_classifier, in_fast_layout
from handler.model.makers import maker_of
from handler.model.sources import load_classifier
from handler.picture.decode import quieten
from handler.protocol.model_card import ModelCard
from handler.service import Service
from handler.serving.explainer import Explainer
from handler.serving.settings import Settings, read_settings
from handler.serving.threads import Share

logger = logging.getLogger(__name__)

_Busy = Callable[[], bool] | None  # of ``OnnxEngine``

_ATTENTION = "attention"  # beside the names of maps
CHECKPOINT_NAME = "model.safetensors"  # the checkpoint's name in an archive


def load_service(archive: Unpacked, device: str = "cpu", running: Callable[[], int] = lambda: 0) -> Service:
    """Makes the service of an unpacked archive, and explains a picture of zeros, so that the first request is fast.

    The device is one of torch, ``running`` is that of ``Share``. A ModelError says why the archive or its settings
    cannot be used.
    """
    quieten()
    settings = read_settings(archive.config.get("explain"))
    share = Share(settings.threads, archive.config, running)
    torch.set_num_threads(share.threads)
    choice, card = _load(archive, settings, share.threads, device, share.is_busy)
    check_defaults(settings.defaults, card, choice.engine)

    def use_threads(threads: int) -> None:
        torch.set_num_threads(threads)
        choice.use_threads(threads)

    return Service(replace(choice, use_threads=use_threads), card, settings, share)


def load_archive(path: Path, architecture: str | None = None, device: str | torch.device = "cpu") -> Model:
    """Loads a TorchServe archive, with the engine that its settings choose; a ModelError says why it cannot be used.

    A custom archive's ``architecture`` must be given, which allows its code to run, and be importable.
    """
    with unpacked(path) as archive:
        packed = str(read_checkpoint(archive.folder / CHECKPOINT_NAME).architecture)
        if packed != architecture and (maker_of(packed).runs_code or architecture):
            raise ModelError(f"the archive is of {packed}; valid is architecture={packed!r}, which lets its code run")
        settings = read_settings(archive.config.get("explain"))
        choice, card = _load(archive, settings, torch.get_num_threads(), device)
    return Model(Explainer(choice.engine, card))


def load_checkpoint(path: Path, **said: Any) -> Model:
    """Loads a checkpoint, safetensors or a state dict, with the torch engine; ``load_classifier`` tells the errors."""
    classifier = load_classifier(checkpoint=path, **said)
    engine = TorchEngine(in_fast_layout(classifier))
    return Model(Explainer(engine, describe_model(classifier, engine, path.name.partition(".")[0], "checkpoint")))


def _load(
    archive: Unpacked, settings: Settings, threads: int, device: str | torch.device, is_busy: _Busy = None
) -> tuple[Choice, ModelCard]:
    if settings.engine == "onnx":
        device = "cpu"  # the graphs run on the CPU, and are compared with PyTorch there
    classifier = build_classifier(read_checkpoint(archive.folder / CHECKPOINT_NAME), device)
    if classifier.alone:
        logger.warning("%s runs pictures one by one: %s", archive.name, classifier.alone)
    choice = choose_engine(settings.engine, archive.folder, classifier, threads, is_busy)
    card = replace(describe_model(classifier, choice.engine, archive.name, archive.version), graphs=choice.graphs)
    engine = f"engine {choice.engine.name} with {threads} threads, graphs: {', '.join(choice.graphs) or 'none'}"
    logger.info("%s is ready: %s on %s, layer %s, %s", card.name, card.architecture, device, card.default_layer, engine)
    return choice, card


def choose_engine(wanted: str, folder: Path, classifier: Classifier, threads: int, is_busy: _Busy = None) -> Choice:
    """Opens the engine that is wanted for an archive unpacked to the folder; ``threads`` are those of a graph's run.

    "torch" are hooks alone, "onnx" graphs alone, "auto" graphs where they suffice and hooks elsewhere. ModelError
    says why a graph cannot be used; with "onnx" also that there is none, or that the graphs differ from PyTorch.
    """
    hooks = TorchEngine(in_fast_layout(classifier))
    if wanted == "torch":
        return Choice(engine=hooks, configured=wanted)
    reason = None
    if classifier.device.type != "cpu":
        reason = f"the model is on {classifier.device}, where PyTorch is faster than the graphs, which run on the CPU"
    elif not find_graphs(folder):
        reason = "the archive holds no graphs"
    if reason and wanted == "auto":
        logger.info("engine torch answers: %s", reason)
        return Choice(engine=hooks, configured=wanted, reason=reason)
    graphs = OnnxEngine(open_graphs(folder, origin_of(classifier), threads=threads), is_busy)
    differing = disagreements(graphs, hooks, classifier.preprocessing)
    if not differing:
        engine = graphs if wanted == "onnx" else EitherEngine("auto", graphs, hooks, graphs.covers)
        return Choice(engine=engine, configured=wanted, graphs=graphs.files, use_threads=graphs.use_threads)
    reason = f"the graphs differ from PyTorch: {'; '.join(differing)}"
    if wanted == "onnx":
        raise ModelError(f"{reason}; export them anew, or set explain.engine to torch")
    logger.error("engine torch answers: %s", reason)
    return Choice(engine=hooks, configured=wanted, reason=reason, disagreements=differing)


def origin_of(classifier: Classifier) -> Origin:
    """The facts about a classifier that the metadata of its graphs must have."""
    known = {name: getattr(classifier, name) for name in ("architecture", "labels", "preprocessing")}
    weights = classifier.weights_sha256 or hash_state(classifier.module)
    return Origin(**known, weights_sha256=weights, head=classifier.reading.head)


def describe_model(classifier: Classifier, engine: Engine, name: str, version: str) -> ModelCard:
    """Makes the card of a classifier; explains a picture of zeros to find out which maps the engine can make."""
    blank = np.zeros((1, *classifier.preprocessing.shape), np.float32)
    coverage: str | None = None
    refusals: dict[str, str] = {}
    wanted = {kind: needs_of([kind], [classifier.default_layer]) for kind in MAP_KINDS}
    for kind, needs in {**wanted, _ATTENTION: Needs(attention=ATTENTION_METHODS[-1])}.items():
        try:
            coverage = engine.run(blank, [[TOP]], needs).coverage or coverage
        except Unprocessable as error:
            refusals[kind] = str(error)
    shared = {field.name for field in fields(ModelCard)} & {field.name for field in fields(Classifier)}
    return ModelCard(
        **{known: getattr(classifier, known) for known in shared},
        name=name,
        version=version,
        head=classifier.reading.head,
        scores=classifier.reading.words,
        guided_coverage=coverage,
        refused_attention=refusals.pop(_ATTENTION, ""),
        refusals=refusals,
        default_method=classifier.default_method,
    )
