"""The engine that uses the graphs where they hold the evidence, and hooks elsewhere."""

from handler.explanation.evidence import BEHIND, Engine, Evidence, Floats, Needs, Targets
from handler.graphs.onnx_engine import OnnxEngine


class AutoEngine:
    """Leaves each pass to the graphs or to the hooks; the evidence names the engine that ran."""

    name = "auto"

    def __init__(self, graphs: OnnxEngine, hooks: Engine) -> None:
        self._graphs = graphs
        self._hooks = hooks

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        chosen: Engine = self._graphs if self._graphs.covers(needs) else self._hooks
        return chosen.run(inputs, targets, needs)

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        chosen: Engine = self._graphs if self._graphs.covers(Needs(layers=(layer,), beside=BEHIND)) else self._hooks
        return chosen.behind(inputs, layer, activations)
