"""Facts about an answered picture, for metrics and logs; clients never see them."""

from collections.abc import Mapping
from dataclasses import dataclass

STAGES = ("decode", "infer", "explain", "render")
NONE = "none"  # in the place of an engine or a method: there was none
GRADIENT_ALONE = "gradient"  # in the place of a method: all maps are gradients at the input


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The maps of one picture and the time of each stage. Every text comes from a fixed set; no text is a client's."""

    engine: str  # name of the engine that computed the evidence
    method: str  # the CAM formula, GRADIENT_ALONE or NONE
    maps: tuple[str, ...]  # names out of options.MAPS, each made for each target
    targets: int
    degenerate: int  # how many of all maps are degenerate
    pixels: int  # of the upload, height times width
    stages_ms: Mapping[str, float]  # by name out of STAGES; 0 for a stage that did not run, or ran within another

    @property
    def map_count(self) -> int:
        """The number of maps that were made: each map for each target."""
        return len(self.maps) * self.targets

    def labels(self) -> dict[str, str]:
        """Names and values of the labels of the picture's metrics."""
        return {"engine": self.engine, "method": self.method}
