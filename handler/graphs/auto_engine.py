"""Both engines behind one verb: the graphs where they hold what a row asks for, the hooks where they do not."""

from collections.abc import Sequence

from handler.explanation.evidence import Engine, Evidence, Floats, Needs
from handler.graphs.onnx_engine import OnnxEngine


class AutoEngine:
    """Never refuses what one of the two can answer; the evidence says which one did."""

    name = "auto"

    def __init__(self, graphs: OnnxEngine, hooks: Engine) -> None:
        self._graphs = graphs
        self._hooks = hooks

    def run(self, inputs: Floats, targets: Sequence[Sequence[int]], needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        chosen: Engine = self._graphs if self._graphs.covers(needs) else self._hooks
        return chosen.run(inputs, targets, needs)
