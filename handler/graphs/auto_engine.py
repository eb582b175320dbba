"""The choice between the engines, at start-up; and the engine that chooses for each pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handler.explanation.evidence import BEHIND, Engine, Evidence, Floats, Needs, Targets
from handler.graphs.onnx_engine import OnnxEngine


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine that answers, chosen once at start-up."""

    engine: Engine
    configured: str  # the setting explain.engine
    graphs: Mapping[str, str] = field(default_factory=dict)  # kinds of the graphs in use, to the file's SHA-256
    reason: str | None = None  # why "auto" uses no graphs; None if it uses them
    use_threads: Callable[[int], None] = lambda _: None  # gives the graphs another number of threads
    disagreements: Sequence[str] = ()  # a line for each output in which the graphs differ from PyTorch

    def to_dict(self) -> dict[str, Any]:
        """The choice in the model's description and in the answer to a readiness probe."""
        return {"configured": self.configured, "graphs": list(self.graphs), "reason": self.reason}


class AutoEngine:
    """Leaves each pass to the graphs where they hold the evidence, and else to hooks; the evidence names which ran."""

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
