"""Explains with an exported graph where no PyTorch is: the server's own answers, from one ONNX file."""

from pathlib import Path
from typing import Any

from handler.client.graph import GraphModel
from handler.client.model import Picture
from handler.errors import ModelError
from handler.rendering.render import encode_png


class ExplanationClient:
    """A graph of explanations, loaded once; it says itself how pictures are prepared and what its classes are."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: no such file, no ONNX graph, one that this project did not write, or a prediction graph.
        """
        self._model = GraphModel(path)
        self.description = self._model.description
        if not self._model.card.maps:
            raise ModelError(
                f"graph {path} holds predictions only; `shufflenet-cam explanation` and `gradcam` write explanations"
            )

    def explain(self, image: Picture, **options: Any) -> dict[str, Any]:
        """The server's JSON answer for a picture: predictions, and maps as ``options`` want them.

        Args:
            image: a path, an encoded picture, uint8 RGB (H, W, 3), or a Pillow image.
            options: as in JSON requests: ``target=3``, ``maps=["gradcam"]``, ``encoding="npy"`` and so on.

        Raises:
            RequestError: no picture, scores or evidence that are not finite, or an invalid option; the message says
                what is valid.
            OSError: the file cannot be read.
            ModelError: the graph failed on this picture.
        """
        return self._model.explain(image, **options).to_dict()

    def check_target(self, target: int | str) -> None:
        """Refuses classes that ``explain`` and ``draw`` would refuse for every picture.

        Raises:
            RequestError: no such class, or a label that several classes share.
        """
        self._model.check(target=target)

    def draw(self, image: Picture, **options: Any) -> bytes:
        """All maps on one sheet, beside what the network saw: a PNG file.

        Raises:
            Exception: as ``explain``.
        """
        return encode_png(self._model.explain(image, **options).sheet())
