"""Which engine answers, decided once at start-up from ``explain.engine``, the archive's graphs and the device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.explanation.evidence import Engine
from handler.graphs.agreement import disagreements
from handler.graphs.auto_engine import AutoEngine
from handler.graphs.folder import Origin, find_graphs
from handler.graphs.onnx_engine import OnnxEngine
from handler.model.classifier import Classifier
from handler.model.fingerprint import hash_state
from handler.model.memory_layout import in_fast_layout
from handler.telemetry.metrics import ENGINE_DISAGREEMENTS, Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The engine, and why it is this one."""

    engine: Engine
    configured: str  # explain.engine
    graphs: Sequence[str] = ()  # kinds in use
    reason: str | None = None  # why "auto" became "torch"

    def to_dict(self) -> dict[str, Any]:
        """For the model's description and the readiness probe."""
        return {"configured": self.configured, "graphs": list(self.graphs), "reason": self.reason}


def choose_engine(wanted: str, folder: Path, classifier: Classifier, threads: int, metrics: Metrics) -> Choice:
    """Opens the engine that the settings ask for.

    Args:
        wanted: "torch": the hooks alone; "onnx": the graphs alone; "auto": the graphs where they hold
            what is asked for, the hooks elsewhere.
        folder: of the archive's content.
        classifier: that the graphs were made from.
        threads: of one run.
        metrics: where disagreements are counted.

    Raises:
        ModelError: a graph that cannot be used; for "onnx" also: none is there, or they differ from the hooks.
    """
    hooks = TorchEngine(in_fast_layout(classifier))
    if wanted == "torch":
        return Choice(hooks, wanted)
    reason = _against_graphs(folder, classifier)
    if reason and wanted == "auto":
        logger.info("engine torch answers: %s", reason)
        return Choice(hooks, wanted, reason=reason)
    graphs = OnnxEngine.open(folder, origin_of(classifier), threads=threads)
    differing = disagreements(graphs, hooks, classifier.preprocessing)
    if not differing:
        return Choice(graphs if wanted == "onnx" else AutoEngine(graphs, hooks), wanted, graphs.kinds)
    reason = f"the graphs differ from PyTorch: {'; '.join(differing)}"
    if wanted == "onnx":
        raise ModelError(f"{reason}; export them anew, or set explain.engine to torch")
    logger.error("engine torch answers: %s", reason)
    metrics.count(ENGINE_DISAGREEMENTS, len(differing))
    return Choice(hooks, wanted, reason=reason)


def origin_of(classifier: Classifier) -> Origin:
    """What graphs must say that they were made from to stand for this classifier."""
    weights = classifier.weights_sha256 or hash_state(classifier.module)
    return Origin(classifier.architecture, weights, classifier.labels, classifier.preprocessing)


def _against_graphs(folder: Path, classifier: Classifier) -> str | None:
    """Why "auto" would rather not use graphs."""
    if classifier.device.type != "cpu":
        return f"the model is on {classifier.device}, where PyTorch is faster than the graphs, which run on the CPU"
    return None if find_graphs(folder) else "the archive holds no graphs"
