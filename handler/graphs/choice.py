"""Which engine answers, and why it is this one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handler.explanation.evidence import Engine


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Made once, at start-up."""

    engine: Engine
    configured: str  # explain.engine
    graphs: Sequence[str] = ()  # kinds in use
    reason: str | None = None  # why "auto" became "torch"
    disagreements: Sequence[str] = ()  # outputs in which the graphs differ from PyTorch, in words

    def to_dict(self) -> dict[str, Any]:
        """For the model's description and the readiness probe."""
        return {"configured": self.configured, "graphs": list(self.graphs), "reason": self.reason}
