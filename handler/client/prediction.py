"""Predicts with an exported graph, without PyTorch: ONNX Runtime, numpy, cv2 and Pillow suffice."""

from collections.abc import Sequence
from pathlib import Path

from handler.client.graph import GraphModel
from handler.client.model import Picture
from handler.rendering.result import Prediction


class PredictionClient:
    """A graph, loaded once; its metadata give preprocessing and labels. A prediction graph is the fastest."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: the file does not exist, or is no ONNX graph of this project.
        """
        self._model = GraphModel(path)
        self.description = self._model.description

    def predict(self, image: Picture, top_k: int | None = None) -> Sequence[Prediction]:
        """Predicts the most probable classes of a picture, best first.

        Args:
            image: a path, an encoded picture, uint8 RGB (H, W, 3), or a Pillow image.
            top_k: number of classes; None: five, or all classes if there are fewer.

        Raises:
            RequestError: the picture cannot be decoded, scores are not finite, or the model has fewer than ``top_k``
                classes.
            OSError: the file cannot be read.
            ModelError: the graph failed on this picture.
        """
        return self._model.predict(image, top_k)

    def check_top_k(self, top_k: int | None) -> None:
        """Checks the number of classes as ``predict`` does.

        Raises:
            RequestError: ``top_k`` is not between 1 and the number of classes.
        """
        self._model.check(**({} if top_k is None else {"top_k": top_k}))
