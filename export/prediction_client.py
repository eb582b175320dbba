"""Predicts with an exported graph where no PyTorch is: ONNX Runtime, numpy, cv2 and Pillow suffice."""

from dataclasses import dataclass
from pathlib import Path

from handler.decode import decode
from handler.evidence import best_classes
from handler.finiteness import check_scores
from handler.graph_description import KIND_PREDICTION
from handler.graph_session import GraphSession
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
            ModelError: no such file, no ONNX graph, one that this project did not write, or no prediction graph.
        """
        self._graph = GraphSession.open(Path(path), KIND_PREDICTION)
        self.description = self._graph.description

    def predict(self, image: bytes, top_k: int = 5) -> list[Prediction]:
        """The ``top_k`` most probable classes of an encoded picture, best first.

        Raises:
            RequestError: the bytes are no picture that can be decoded, or its scores are not finite.
            ValueError: ``top_k`` is not between 1 and the number of classes.
        """
        self.check_top_k(top_k)
        labels = self.description.labels
        seen = preprocess(decode(image), self.description.preprocessing)
        logits, probabilities = (
            found[0] for found in self._graph.run({"input": seen.tensor[None]}, ["logits", "probabilities"])
        )
        check_scores(logits)
        best = best_classes(probabilities, top_k)
        return [Prediction(index, labels[index], float(probabilities[index])) for index in best]

    def check_top_k(self, top_k: int) -> None:
        """Refuses what ``predict`` would refuse for every picture.

        Raises:
            ValueError: ``top_k`` is not between 1 and the number of classes.
        """
        if not 1 <= top_k <= len(self.description.labels):
            raise ValueError(f"top_k {top_k} is not valid, valid are 1 to {len(self.description.labels)}")
