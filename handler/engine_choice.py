"""Which engine answers, decided once at start-up from ``explain.engine``, the archive's graphs and the device."""

import logging
from pathlib import Path

from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.graphs.agreement import disagreements
from handler.graphs.auto_engine import AutoEngine
from handler.graphs.choice import Choice
from handler.graphs.folder import Origin, find_graphs
from handler.graphs.onnx_engine import OnnxEngine
from handler.model.classifier import Classifier
from handler.model.fingerprint import hash_state
from handler.model.memory_layout import in_fast_layout

logger = logging.getLogger(__name__)


def choose_engine(wanted: str, folder: Path, classifier: Classifier, threads: int) -> Choice:
    """Opens the engine that the settings ask for.

    Args:
        wanted: "torch": the hooks alone; "onnx": the graphs alone; "auto": the graphs where they hold
            what is asked for, the hooks elsewhere.
        folder: of the archive's content.
        classifier: that the graphs were made from.
        threads: of one run.

    Raises:
        ModelError: a graph that cannot be used; for "onnx" also: none is there, or they differ from the hooks.
    """
    hooks = TorchEngine(in_fast_layout(classifier))
    if wanted == "torch":
        return Choice(engine=hooks, configured=wanted)
    reason = _against_graphs(folder, classifier)
    if reason and wanted == "auto":
        logger.info("engine torch answers: %s", reason)
        return Choice(engine=hooks, configured=wanted, reason=reason)
    graphs = OnnxEngine.open(folder, origin_of(classifier), threads=threads)
    differing = disagreements(graphs, hooks, classifier.preprocessing)
    if not differing:
        engine = graphs if wanted == "onnx" else AutoEngine(graphs, hooks)
        return Choice(engine=engine, configured=wanted, graphs=graphs.kinds)
    reason = f"the graphs differ from PyTorch: {'; '.join(differing)}"
    if wanted == "onnx":
        raise ModelError(f"{reason}; export them anew, or set explain.engine to torch")
    logger.error("engine torch answers: %s", reason)
    return Choice(engine=hooks, configured=wanted, reason=reason, disagreements=differing)


def origin_of(classifier: Classifier) -> Origin:
    """The origin that graphs must name in their metadata to be used for this classifier."""
    weights = classifier.weights_sha256 or hash_state(classifier.module)
    return Origin(
        architecture=classifier.architecture,
        weights_sha256=weights,
        labels=classifier.labels,
        preprocessing=classifier.preprocessing,
    )


def _against_graphs(folder: Path, classifier: Classifier) -> str | None:
    """Why "auto" would rather not use graphs."""
    if classifier.device.type != "cpu":
        return f"the model is on {classifier.device}, where PyTorch is faster than the graphs, which run on the CPU"
    return None if find_graphs(folder) else "the archive holds no graphs"
