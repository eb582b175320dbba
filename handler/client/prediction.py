"""Predicts with an exported graph where no PyTorch is: ONNX Runtime, numpy, cv2 and Pillow suffice."""

from collections.abc import Sequence
from pathlib import Path

from handler.client.graph import GraphModel
from handler.client.model import Picture
from handler.graphs.description import KIND_PREDICTION
from handler.rendering.result import Prediction


class PredictionClient:
    """A prediction graph, loaded once; it says itself how pictures are prepared and what its classes are called."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: no such file, no ONNX graph, one that this project did not write, or no prediction graph.
        """
        self._model = GraphModel(path, KIND_PREDICTION)
        self.description = self._model.description

    def predict(self, image: Picture, top_k: int | None = None) -> Sequence[Prediction]:
        """The most probable classes of a picture, best first.

        Args:
            image: a path, an encoded picture, uint8 RGB (H, W, 3), or a Pillow image.
            top_k: how many; None is five, or all classes if there are fewer.

        Raises:
            RequestError: no picture, scores that are not finite, or ``top_k`` beyond the number of classes.
            OSError: the file cannot be read.
            ModelError: the graph failed on this picture.
        """
        return self._model.predict(image, top_k)

    def check_top_k(self, top_k: int | None) -> None:
        """Refuses what ``predict`` would refuse for every picture.

        Raises:
            RequestError: ``top_k`` is not between 1 and the number of classes.
        """
        self._model.check(**({} if top_k is None else {"top_k": top_k}))
