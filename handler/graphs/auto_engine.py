"""The engine that uses the graphs where they hold the evidence, and hooks elsewhere."""

from collections.abc import Sequence

from handler.explanation.evidence import Engine, EngineTarget, Evidence, Floats, Needs
from handler.graphs.onnx_engine import OnnxEngine


class AutoEngine:
    """Leaves each pass to the graphs or to the hooks; the evidence names the engine that ran."""

    name = "auto"

    def __init__(self, graphs: OnnxEngine, hooks: Engine) -> None:
        self._graphs = graphs
        self._hooks = hooks

    def run(self, inputs: Floats, targets: Sequence[Sequence[EngineTarget]], needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        chosen: Engine = self._graphs if self._graphs.covers(needs) else self._hooks
        return chosen.run(inputs, targets, needs)
