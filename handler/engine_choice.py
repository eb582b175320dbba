"""Chooses the engine at start-up, by ``explain.engine``, the archive's graphs and the device."""

import logging
from pathlib import Path

from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.graphs.auto_engine import Choice, EitherEngine, disagreements
from handler.graphs.description import Origin
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import find_graphs, open_graphs
from handler.model.checkpoint import hash_state
from handler.model.classifier import Classifier, in_fast_layout

logger = logging.getLogger(__name__)


def choose_engine(wanted: str, folder: Path, classifier: Classifier, threads: int) -> Choice:
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
    graphs = OnnxEngine(open_graphs(folder, origin_of(classifier), threads=threads))
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
    return Origin(
        architecture=classifier.architecture,
        weights_sha256=classifier.weights_sha256 or hash_state(classifier.module),
        labels=classifier.labels,
        preprocessing=classifier.preprocessing,
        head=classifier.reading.head,
    )
