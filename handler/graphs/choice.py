"""The choice of the engine, with its reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handler.explanation.evidence import Engine


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
