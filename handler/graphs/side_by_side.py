"""Runs that overlap, with a thread each: together they are faster than one after the other with all threads."""

from collections.abc import Callable

from handler.explanation.evidence import Evidence, Floats, Needs, Targets
from handler.graphs.onnx_engine import OnnxEngine


class SideBySide:
    """An engine of graphs that gives a lone run all threads, and runs that overlap one thread each."""

    name = "onnx"

    def __init__(self, alone: OnnxEngine, beside: OnnxEngine, is_busy: Callable[[], bool]) -> None:
        """Takes the same graphs with all threads and with one, and what tells whether other runs are due."""
        self._alone, self._beside, self._is_busy = alone, beside, is_busy

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        return (self._beside if self._is_busy() else self._alone).run(inputs, targets, needs)

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        return (self._beside if self._is_busy() else self._alone).behind(inputs, layer, activations)
