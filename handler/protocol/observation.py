"""What is known of one explained picture once it is answered: for metrics and logs, never for its client."""

from collections.abc import Mapping
from dataclasses import dataclass

STAGES = ("decode", "infer", "explain", "render")
NONE = "none"  # no engine, or no method
GRADIENT_ALONE = "gradient"  # instead of a method: the maps asked for are gradients at the input alone


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One picture's way through the stages. Nothing in it is a client's text: names come from fixed sets."""

    engine: str  # name of the engine that found the evidence
    method: str  # the CAM formula, GRADIENT_ALONE or NONE
    maps: tuple[str, ...]  # names out of options.MAPS, each made for each target
    targets: int
    degenerate: int  # how many of all maps have no positive evidence
    pixels: int  # of the upload, height times width
    stages_ms: Mapping[str, float]  # by name out of STAGES; 0 for what did not run by itself

    @property
    def map_count(self) -> int:
        """Maps made: one of each kind for each target."""
        return len(self.maps) * self.targets

    def labels(self) -> dict[str, str]:
        """The labels of the picture's metrics."""
        return {"engine": self.engine, "method": self.method}
