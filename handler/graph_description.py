"""What an exported graph says of itself, in the ONNX file's own metadata: enough to use it without this project."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from handler.errors import ModelError
from handler.preprocess import Preprocessing

KIND_PREDICTION = "prediction"
KIND_GRADCAM = "gradcam"
KIND_EXPLANATION = "explanation"
KIND_SALIENCY = "saliency"  # the whole explanation of networks that guided backpropagation is not defined for


@dataclass(frozen=True)
class GraphKind:
    """What all graphs of a kind have in common."""

    file: str  # name in an archive
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


KINDS = {
    KIND_PREDICTION: GraphKind("model.onnx", ("input",), ("logits", "probabilities")),
    KIND_GRADCAM: GraphKind(
        "model.gradcam.onnx", ("input", "target"), ("logits", "activations", "gradients", "gradcam")
    ),
    KIND_EXPLANATION: GraphKind(
        "model.explain.onnx",
        ("input", "target"),
        ("logits", "activations", "gradients", "gradcam", "guided_backprop"),
    ),
    KIND_SALIENCY: GraphKind(
        "model.saliency.onnx",
        ("input", "target"),
        ("logits", "activations", "gradients", "gradcam", "saliency"),
    ),
}


@dataclass(frozen=True)
class GraphDescription:
    """The metadata of a graph. Written as one string per field; what is not text is JSON."""

    kind: str  # a key of KINDS
    architecture: str
    labels: list[str]  # one per score
    preprocessing: Preprocessing
    weights_sha256: str  # of the weights it was made from
    versions: dict[str, str] = field(default_factory=dict)  # package to version
    verification: str = ""  # the record of the comparison with PyTorch, as text
    layer: str = ""  # the classifier's default layer; an explanation's activations and gradients are taken there
    coverage: str = ""  # "37 of 37 activations": how far guided backpropagation reaches; of explanations only

    def to_properties(self) -> dict[str, str]:
        """As ONNX stores it: text to text."""
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
                properties["kind"],
                properties["architecture"],
                labels,
                Preprocessing.from_json(properties["preprocessing"]),
                properties["weights_sha256"],
                versions,
                properties.get("verification", ""),
                properties.get("layer", ""),
                properties.get("coverage", ""),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"the graph does not describe itself ({error}); make it with `shufflenet-cam prediction`"
            ) from error
