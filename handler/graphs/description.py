"""The metadata of an exported graph in the ONNX file: enough to use the graph without this project."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from handler.errors import ModelError
from handler.explanation.methods import ATTENTION_METHODS
from handler.picture.preprocess import Preprocessing

KIND_PREDICTION = "prediction"
KIND_GRADCAM = "gradcam"
KIND_EXPLANATION = "explanation"
KIND_ATTENTION = "attention"  # the maps of a vision transformer's attention
KIND_SALIENCY = "saliency"  # the explanation of networks for which guided backpropagation is not defined
KIND_LAYERS = "layers"  # activations and gradients at several layers
KIND_BEHIND = "behind"  # from activations at the layer to scores; works beside another graph, which finds activations


class GraphKind(NamedTuple):
    """The properties of all graphs of one kind."""

    file: str  # the file's name in an archive
    outputs: tuple[str, ...]
    maps: tuple[str, ...] = ()  # names of the maps that the outputs suffice for
    inputs: tuple[str, ...] = ("input", "target")
    optional: tuple[str, ...] = ("weights",)  # inputs with a default value in the graph


AT_LAYER = ("activations", "gradients", "gradcam")
KINDS = {
    KIND_PREDICTION: GraphKind("model.onnx", ("logits", "probabilities"), inputs=("input",), optional=()),
    KIND_GRADCAM: GraphKind("model.gradcam.onnx", ("logits", *AT_LAYER), maps=("gradcam",)),
    KIND_EXPLANATION: GraphKind(
        "model.explain.onnx", ("logits", *AT_LAYER, "guided_backprop"), ("gradcam", "guided_backprop", "guided_gradcam")
    ),
    KIND_SALIENCY: GraphKind("model.saliency.onnx", ("logits", *AT_LAYER, "saliency"), maps=("gradcam", "saliency")),
    KIND_ATTENTION: GraphKind("model.attention.onnx", ("logits", *ATTENTION_METHODS)),
    KIND_LAYERS: GraphKind("model.layers.onnx", ("logits",), maps=("gradcam",)),
    KIND_BEHIND: GraphKind("model.behind.onnx", ("logits",), inputs=("input", "activations"), optional=()),
}
_READ: dict[str, Callable[[str], Any]] = {  # fields that are no text
    **dict.fromkeys(("labels", "versions", "precision", "portable", "batch", "files"), json.loads),
    "further_layers": lambda text: tuple(json.loads(text)),
    "preprocessing": Preprocessing.from_json,
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The facts about a model on which the answers of its graphs depend."""

    architecture: str
    weights_sha256: str  # see ``checkpoint.hash_state``
    labels: list[str]  # one per score
    preprocessing: Preprocessing
    head: str = "softmax"  # what makes probabilities of the scores: "softmax" or "sigmoid"


@dataclass(frozen=True, kw_only=True)
class GraphDescription(Origin):
    """The metadata of a graph. The file has a string for each field; fields that are no text are written as JSON."""

    kind: str  # a key of KINDS
    versions: dict[str, str] = field(default_factory=dict)  # package to version
    verification: str = ""  # the record of the comparison with PyTorch, as text
    method: str = "gradcam"  # the model's default method
    layer: str = ""  # module path of the layer of activations and gradients, the classifier's default layer
    takes: str = ""  # "picture", where the graph prepares pictures itself and takes uint8 (height, width, C)
    further_layers: tuple[str, ...] = ()  # those that ``KIND_LAYERS`` holds beside ``layer``
    precision: dict[str, Any] = field(default_factory=dict)  # of int8 and float16: how far it agrees with float32
    files: dict[str, str] = field(default_factory=dict)  # those of weights beside its own, to their SHA-256
    coverage: str = ""  # how many activations are guided, "37 of 37 activations"; empty for other kinds
    portable: bool = False  # takes class weights, and no target
    batch: int = 0  # pictures in a run, 0 for any number

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that have no default."""
        inputs = KINDS[self.kind].inputs
        return ("input", "weights") if self.portable and "target" in inputs else inputs

    @property
    def optional(self) -> tuple[str, ...]:
        """The names of the other inputs."""
        return () if self.portable else KINDS[self.kind].optional

    @property
    def layers(self) -> dict[str, str]:
        """The layers whose evidence the graph holds, and the ends of their outputs' names: "" or ".stage3"."""
        several = {path: f".{path}" for path in (self.layer, *self.further_layers)}
        return several if self.kind == KIND_LAYERS else dict.fromkeys([self.layer] if self.layer else [], "")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs: those of its kind, and of each layer's evidence where there are several."""
        of_layers = (name + ending for ending in self.layers.values() if ending for name in AT_LAYER)
        return *KINDS[self.kind].outputs, *of_layers

    def to_properties(self) -> dict[str, str]:
        """The metadata as ONNX stores them: name to text."""
        values = asdict(self) | {"preprocessing": self.preprocessing.to_dict()}
        # descriptions stay what older versions wrote
        usual: dict[str, Any] = {
            "head": "softmax",
            "portable": False,
            "batch": 0,
            "takes": "",
            "precision": {},
            "files": {},
        }
        values = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "GraphDescription":
        """Reads the metadata that ``to_properties`` wrote; a ModelError says that the file is not of this project."""
        try:
            found: dict[str, Any] = {name: properties[name] for name in cls.__dataclass_fields__ if name in properties}
            found |= {name: read(found[name]) for name, read in _READ.items() if name in found}
            if not isinstance(found["labels"], list) or not isinstance(found.get("versions", {}), dict):
                raise ValueError("labels must be a list, versions an object")
            return cls(**found)
        except (KeyError, TypeError, ValueError) as error:
            advice = "make it with `shufflenet-cam prediction`"
            raise ModelError(f"the graph does not describe itself ({error}); {advice}") from error
