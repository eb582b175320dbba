"""The model's card: the facts by which requests are checked and the model is described to clients."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from handler.errors import BadRequest, Unprocessable
from handler.explanation.class_weights import SECOND, Mixture
from handler.explanation.evidence import TOP
from handler.explanation.maps import MAP_KINDS
from handler.explanation.methods import METHODS
from handler.picture.preprocess import Preprocessing
from handler.protocol.options import ALL_MAPS, DEFAULT_MAPS, ENCODINGS, MAPS, MAX_TARGETS, SIZES, Options, shown


@dataclass(frozen=True, kw_only=True)
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
    refusals: dict[str, str] = field(default_factory=dict)  # names of maps that cannot be made, and why
    refused_attention: str = ""  # why no method of attention makes a map; empty if all do
    layer_rule: str = ""  # why ``default_layer`` is the default
    default_method: str = "gradcam"  # a name out of METHODS
    head: str = "softmax"  # what makes probabilities of the scores: "softmax" or "sigmoid"
    scores: str = ""  # how scores are read from what the network returns, in words; empty if it returns them
    refused_layers: dict[str, str] = field(default_factory=dict)  # module paths without a map, and why
    precision: str = ""  # of a graph in int8 or float16: how far it agrees with float32
    alone: str = ""  # why pictures are run one by one; empty if they are run together
    weights_sha256: str = ""  # see ``checkpoint.hash_state``; empty for a network in memory, whose weights may change
    graphs: Mapping[str, str] = field(default_factory=dict)  # kinds of graphs that may answer, to the file's SHA-256

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that the architecture and the engine can make."""
        return tuple(name for name in MAPS if name not in self.refusals)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that make a map of this model."""
        return tuple(name for name, known in METHODS.items() if not (known.attention and self.refused_attention))

    def to_json(self) -> str:
        """The fields as one JSON object; ``from_json`` reads it back."""
        return json.dumps({**asdict(self), "preprocessing": self.preprocessing.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Reads a card that ``to_json`` wrote; other texts raise ValueError, KeyError or TypeError."""
        values = json.loads(text)
        layers = {path: tuple(shape) for path, shape in values["layers"].items()}
        how = Preprocessing.from_json(json.dumps(values["preprocessing"]))
        return cls(**{**values, "preprocessing": how, "layers": layers})

    def summary(self, engine: str) -> dict[str, Any]:
        """The model as every answer names it."""
        known = {"name": self.name, "version": self.version, "architecture": self.architecture, "engine": engine}
        return known if self.head == "softmax" else {**known, "activation": self.head}

    def description(self, engine: str) -> dict[str, Any]:
        """The whole card, for ``GET :8081/models/<name>?customized=true``."""
        how = self.preprocessing
        channels = {} if how.channels == 3 else {"channels": how.channels}
        return {
            **self.summary(engine),
            "labels": self.labels,
            "input": {"size": list(how.size), **channels, "preprocessing": how.describe()},
            "layer": self.default_layer,
            "layer_rule": self.layer_rule,
            "layers": {path: list(shape) for path, shape in self.layers.items()},
            "method": self.default_method,
            "methods": {name: METHODS[name].summary for name in self.methods},
            "maps": list(self.maps),
            "guided_coverage": self.guided_coverage,
            "activation": self.head,
            **({"scores": self.scores} if self.scores else {}),
            **({"precision": self.precision} if self.precision else {}),
            "one_by_one": self.alone or None,
            "sizes": list(SIZES),
            "encodings": list(ENCODINGS),
        }

    def resolved(self, options: Options) -> Options:
        """The options with the model's default method in the place of ``auto``."""
        return replace(options, method=self.default_method) if options.method == "auto" else options

    def map_names(self, options: Options) -> tuple[str, ...]:
        """Names of the maps that the options ask for; Unprocessable says why a map cannot be made."""
        attention = METHODS[self.resolved(options).method].attention  # which needs no layer
        refusals = {name: why for name, why in self.refusals.items() if MAP_KINDS[name].channels > 1 or not attention}
        if options.maps is None or options.maps == ALL_MAPS:
            return tuple(name for name in (MAPS if options.maps else DEFAULT_MAPS) if name not in refusals)
        if refused := [name for name in options.maps if name in refusals]:
            raise Unprocessable(f"{refused[0]}: {refusals[refused[0]]}")
        return options.maps

    def targets(self, options: Options) -> list[Mixture]:
        """The classes to explain, ``TOP`` for the class with the highest score, and what they are held against.

        BadRequest are what ``class_index`` refuses, and a contrast that is a target, or without a second class.
        """
        words = {"none": None, "second": SECOND}
        name = str(options.contrast).casefold()
        contrast = words[name] if name in words else self.class_index(options.contrast, "contrast")
        similar = METHODS[self.resolved(options).method].similar
        if (similar or contrast is not None) and len(self.labels) < 2:
            raise BadRequest(f"{self.architecture} has one class, and a contrast needs two; valid is contrast none")
        targets = [self._signed(target) for given in options.target for target in self._split(given)]
        if len(targets) > MAX_TARGETS:
            raise BadRequest(f"{len(targets)} targets are too many, valid are 1 to {MAX_TARGETS}")
        if any(index == contrast for index, _ in targets):
            raise BadRequest(f"contrast {shown(options.contrast)} is the target, valid are none, second and others")
        return [Mixture(target=index, contrast=contrast, against=no, similar=similar) for index, no in targets]

    def _split(self, target: int | str) -> Iterator[int | str]:
        """The targets of a text, which commas divide that are no part of a label; the longest label goes first."""
        rest = [part.strip() for part in target.split(",")] if isinstance(target, str) else []
        if not rest:
            yield target
        while rest:
            ends = range(len(rest), 1, -1)
            labels = (end for end in ends if _folded(",".join(rest[:end]).removeprefix("-")) in self._places)
            end = next(labels, 1)
            yield ", ".join(rest[:end])
            del rest[:end]

    def _signed(self, target: int | str) -> tuple[int, bool]:
        """The index of a class, and whether the evidence against it is asked for, as ``-label``."""
        name = str(target)[1:].strip()
        is_negative_number = name.isdecimal() and name not in self.labels  # which is refused
        against = str(target).startswith("-") and not is_negative_number and _folded(str(target)) not in self._places
        return self.class_index(name if against else target), against

    def class_index(self, target: int | str, option: str = "target") -> int:
        """The index of a class by index, by label, or by index as text; labels go first, and "top" is ``TOP``.

        BadRequest, which names the option, says that the class does not exist, or that several have the label.
        """
        if isinstance(target, str):
            found = self._places.get(_folded(target), [])
            found = [place for place in found if self.labels[place] == target] or found
            if len(found) == 1:
                return found[0]
            if found:
                raise BadRequest(f"{option} {target[:80]!r} names the classes {found[:20]}; give the index of one")
            if target.casefold() == "top":
                return TOP
            if not re.fullmatch(r"-?[0-9]{1,9}", target):
                valid = _listed(self.labels)
                raise BadRequest(f"{option} {target[:80]!r} is no label of this model, valid are {valid}")
        index = int(target)
        if not 0 <= index < len(self.labels):
            raise BadRequest(f"{option} {shown(index)} is not a class index, valid are 0 to {len(self.labels) - 1}")
        return index

    def layer_paths(self, options: Options) -> list[str]:
        """Module paths of the layers that the options ask for, each once; BadRequest says that a layer has no map."""
        for layer in options.layer:
            if layer not in self.layers and layer.casefold() != "auto":
                why = f" ({self.refused_layers[layer]})" if self.refused_layers.get(layer) else ""
                valid = _listed(["auto", *sorted(self.layers, key=lambda path: path.count("."))], most=21)
                raise BadRequest(f"layer {layer[:80]!r} has no map in {self.architecture}{why}, valid are {valid}")
        return list(dict.fromkeys(layer if layer in self.layers else self.default_layer for layer in options.layer))

    def check(self, options: Options) -> None:
        """Raises Unprocessable without the attention that the method needs, BadRequest above the number of classes."""
        method = self.resolved(options).method
        if method not in self.methods:
            raise Unprocessable(f"method {method}: {self.refused_attention}; valid are {', '.join(self.methods)}")
        if options.top_k is not None and options.top_k > len(self.labels):
            raise BadRequest(f"top_k {shown(options.top_k)} is not valid, valid are 1 to {len(self.labels)}")

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """The indices of the classes with each folded label."""
        places: dict[str, list[int]] = {}
        for place, label in enumerate(self.labels):
            places.setdefault(_folded(label), []).append(place)
        return places


def _folded(label: str) -> str:
    """A label without case, without blanks around it and around its commas, and with accents in one way of several."""
    return unicodedata.normalize("NFC", ",".join(part.strip() for part in label.split(",")).casefold())


def _listed(names: list[str], most: int = 20) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more (the model's description lists all)" if rest > 0 else "")
