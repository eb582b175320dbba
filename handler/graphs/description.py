"""What an exported graph says of itself, in the ONNX file's own metadata: enough to use it without this project."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

KIND_PREDICTION = "prediction"
KIND_GRADCAM = "gradcam"
KIND_EXPLANATION = "explanation"
KIND_SALIENCY = "saliency"  # the whole explanation of networks that guided backpropagation is not defined for


@dataclass(frozen=True, kw_only=True)
class GraphKind:
    """What all graphs of a kind have in common."""

    file: str  # name in an archive
    inputs: tuple[str, ...] = ("input", "target")
    outputs: tuple[str, ...]
    maps: tuple[str, ...] = ()  # made of the outputs


_AT_LAYER = ("logits", "activations", "gradients", "gradcam")
KINDS = {
    KIND_PREDICTION: GraphKind(file="model.onnx", inputs=("input",), outputs=("logits", "probabilities")),
    KIND_GRADCAM: GraphKind(file="model.gradcam.onnx", outputs=_AT_LAYER, maps=("gradcam",)),
    KIND_EXPLANATION: GraphKind(
        file="model.explain.onnx",
        outputs=(*_AT_LAYER, "guided_backprop"),
        maps=("gradcam", "guided_backprop", "guided_gradcam"),
    ),
    KIND_SALIENCY: GraphKind(
        file="model.saliency.onnx", outputs=(*_AT_LAYER, "saliency"), maps=("gradcam", "saliency")
    ),
}


@dataclass(frozen=True, kw_only=True)
class GraphDescription:
    """The metadata of a graph. Written as one string per field; what is not text is JSON."""

    kind: str  # a key of KINDS
    architecture: str
    labels: list[str]  # one per score
    preprocessing: Preprocessing
    weights_sha256: str  # of the weights that the graph was made from
    versions: dict[str, str] = field(default_factory=dict)  # package to version
    verification: str = ""  # the record of the comparison with PyTorch, as text
    layer: str = ""  # the classifier's default layer; an explanation's activations and gradients are taken there
    coverage: str = ""  # "37 of 37 activations": how far guided backpropagation reaches; of explanations only
    simplified: tuple[str, ...] = ()  # what was done to the network before it was traced, in words

    def to_properties(self) -> dict[str, str]:
        """The metadata as ONNX stores it: names to texts."""
        return {
            "kind": self.kind,
            "architecture": self.architecture,
            "labels": json.dumps(self.labels),
            "preprocessing": self.preprocessing.to_json(),
            "weights_sha256": self.weights_sha256,
            "versions": json.dumps(self.versions),
            "verification": self.verification,
            "layer": self.layer,
            "coverage": self.coverage,
            "simplified": json.dumps(self.simplified),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "GraphDescription":
        """Reads what ``to_properties`` wrote.

        Raises:
            ModelError: fields missing or malformed; then the file was not written by this project.
        """
        try:
            labels, versions = json.loads(properties["labels"]), json.loads(properties.get("versions", "{}"))
            if not isinstance(labels, list) or not isinstance(versions, dict):
                raise ValueError("labels must be a list, versions an object")
            return cls(
                kind=properties["kind"],
                architecture=properties["architecture"],
                labels=labels,
                preprocessing=Preprocessing.from_json(properties["preprocessing"]),
                weights_sha256=properties["weights_sha256"],
                versions=versions,
                verification=properties.get("verification", ""),
                layer=properties.get("layer", ""),
                coverage=properties.get("coverage", ""),
                simplified=tuple(json.loads(properties.get("simplified", "[]"))),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"the graph does not describe itself ({error}); make it with `shufflenet-cam prediction`"
            ) from error
