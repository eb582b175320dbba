"""Predicts with an exported graph where no PyTorch is: ONNX Runtime, numpy, cv2 and Pillow suffice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from export.metadata import GraphDescription
from handler.decode import decode
from handler.errors import ModelError
from handler.evidence import best_classes
from handler.preprocess import preprocess


@dataclass(frozen=True)
class Prediction:
    """One class of one picture."""

    index: int
    label: str
    probability: float


class PredictionClient:
    """A prediction graph, loaded once; it says itself how pictures are prepared and what its classes are called."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: no such file, no ONNX graph, or one that this project did not write.
        """
        self._session = _open(Path(path))
        self.description = GraphDescription.from_properties(self._session.get_modelmeta().custom_metadata_map)

    def predict(self, image: bytes, top_k: int = 5) -> list[Prediction]:
        """The ``top_k`` most probable classes of an encoded picture, best first.

        Raises:
            RequestError: the bytes are no picture that can be decoded.
            ValueError: ``top_k`` is not between 1 and the number of classes.
        """
        labels = self.description.labels
        if not 1 <= top_k <= len(labels):
            raise ValueError(f"top_k {top_k} is not valid, valid are 1 to {len(labels)}")
        seen = preprocess(decode(image), self.description.preprocessing)
        probabilities: Any = self._session.run(["probabilities"], {"input": seen.tensor[None]})[0][0]
        best = best_classes(probabilities, top_k)
        return [Prediction(index, labels[index], float(probabilities[index])) for index in best]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"model {path} does not exist; `make export` writes model_store/shufflenet_cam.onnx")
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ModelError(f"model {path} cannot be loaded by ONNX Runtime: {str(error)[:300]}") from error
