"""What an exported graph says of itself, in the ONNX file's own metadata: enough to use it without this project."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from handler.errors import ModelError
from handler.preprocess import Preprocessing

KIND_PREDICTION = "prediction"
KIND_EXPLANATION = "explanation"


@dataclass(frozen=True)
class GraphDescription:
    """The metadata of a graph. Written as one string per field; what is not text is JSON."""

    kind: str  # KIND_PREDICTION or KIND_EXPLANATION
    architecture: str
    labels: list[str]  # one per score
    preprocessing: Preprocessing
    weights_sha256: str  # of the weights it was made from
    versions: dict[str, str] = field(default_factory=dict)  # package to version
    verification: str = ""  # the record of the comparison with PyTorch, as text
    layer: str = ""  # the classifier's default layer; an explanation's activations and gradients are taken there

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
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "GraphDescription":
        """Reads what ``to_properties`` wrote.

        Raises:
            ModelError: fields missing or malformed; then the file was not written by this project.
        """
        try:
            return cls(
                properties["kind"],
                properties["architecture"],
                json.loads(properties["labels"]),
                Preprocessing.from_json(properties["preprocessing"]),
                properties["weights_sha256"],
                json.loads(properties.get("versions", "{}")),
                properties.get("verification", ""),
                properties.get("layer", ""),
            )
        except (KeyError, ValueError) as error:
            raise ModelError(f"the graph does not describe itself ({error}); make it with `make export`") from error


def hash_weights(arrays: Mapping[str, bytes]) -> str:
    """SHA-256 over names and raw bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{len(arrays[name])}:".encode())
        digest.update(arrays[name])
    return digest.hexdigest()
