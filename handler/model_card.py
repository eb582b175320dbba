"""What is known of a model without loading it: enough to check a request and to describe the model to a client."""

from dataclasses import dataclass
from typing import Any

from handler.cam import METHODS
from handler.errors import BadRequest
from handler.options import ENCODINGS, MAPS, SEED_MAPS, SIZES
from handler.preprocess import Preprocessing


@dataclass(frozen=True)
class ModelCard:
    """A model's name, classes, input and layers."""

    name: str
    version: str
    architecture: str
    labels: list[str]  # one per class, in the order of the scores
    preprocessing: Preprocessing
    default_layer: str
    layers: dict[str, tuple[int, int, int]]  # module path to (C, h, w) at the crop's size
    guided_coverage: str | None = None  # "37 of 37 activations"; None where guided backpropagation is not defined
    guided_refusal: str | None = None  # then: why not

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that this architecture has."""
        return MAPS if self.guided_coverage else tuple(name for name in MAPS if "guided" not in name)

    @property
    def default_maps(self) -> tuple[str, ...]:
        """The seed's three, as far as this architecture has them."""
        return tuple(name for name in self.maps if name in SEED_MAPS)

    def summary(self, engine: str) -> dict[str, Any]:
        """What every answer says of the model."""
        return {
            "name": self.name,
            "version": self.version,
            "architecture": self.architecture,
            "engine": engine,
        }

    def description(self, engine: str) -> dict[str, Any]:
        """All of it, for ``GET :8081/models/<name>?customized=true``."""
        return {
            **self.summary(engine),
            "labels": self.labels,
            "input": {
                "size": [self.preprocessing.crop_size] * 2,
                "preprocessing": self.preprocessing.describe(),
            },
            "layer": self.default_layer,
            "layers": {path: list(shape) for path, shape in self.layers.items()},
            "methods": {name: method.summary for name, method in METHODS.items()},
            "maps": list(self.maps),
            "guided_coverage": self.guided_coverage,
            "sizes": list(SIZES),
            "encodings": list(ENCODINGS),
        }

    def class_index(self, target: int | str) -> int:
        """The index of a class given as index, as digits, or as label.

        Raises:
            BadRequest: no such class, or a label that several classes share.
        """
        if isinstance(target, int) or target.lstrip("-").isdecimal():
            index = int(target[:20]) if isinstance(target, str) else target
            if not 0 <= index < len(self.labels):
                raise BadRequest(f"target {index} is not a class index, valid are 0 to {len(self.labels) - 1}")
            return index
        exact = [index for index, label in enumerate(self.labels) if label == target]
        found = exact or [i for i, label in enumerate(self.labels) if label.casefold() == target.casefold()]
        if len(found) > 1:
            raise BadRequest(f"target {target!r} names the classes {found}; give the index of one")
        if not found:
            raise BadRequest(f"target {target[:80]!r} is no label of this model, valid are {_listed(self.labels)}")
        return found[0]

    def layer_path(self, layer: str) -> str:
        """The module path of a layer, ``auto`` resolved.

        Raises:
            BadRequest: not a layer with a map.
        """
        if layer == "auto":
            return self.default_layer
        if layer not in self.layers:
            outermost_first = sorted(self.layers, key=lambda path: path.count("."))
            raise BadRequest(
                f"layer {layer[:80]!r} has no map in {self.architecture}, valid are auto, {_listed(outermost_first)}"
            )
        return layer


def _listed(names: list[str], most: int = 20) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more (the model's description lists all)" if rest > 0 else "")
