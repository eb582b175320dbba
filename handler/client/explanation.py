"""Explains with an exported graph, without PyTorch: the server's answers from one ONNX file."""

from pathlib import Path
from typing import Any

from handler.client.graph import GraphModel
from handler.client.model import Picture
from handler.errors import ModelError
from handler.rendering.render import encode_png


class ExplanationClient:
    """A graph of explanations, loaded once; its metadata give preprocessing and labels."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: the file does not exist, is no ONNX graph of this project, or is a prediction graph.
        """
        self._model = GraphModel(path)
        self.description = self._model.description
        if not self._model.card.maps:
            raise ModelError(
                f"graph {path} holds predictions only; `shufflenet-cam explanation` and `gradcam` write explanations"
            )

    def explain(self, image: Picture, **options: Any) -> dict[str, Any]:
        """Makes the server's JSON answer for a picture.

        Args:
            image: a path, an encoded picture, uint8 RGB (H, W, 3), or a Pillow image.
            options: as in JSON requests: ``target=3``, ``maps=["gradcam"]``, ``encoding="npy"`` and so on.

        Raises:
            RequestError: the picture cannot be decoded, scores or evidence are not finite, or an option is invalid;
                the message says what is valid.
            OSError: the file cannot be read.
            ModelError: the graph failed on this picture.
        """
        return self._model.explain(image, **options).to_dict()

    def check_target(self, target: int | str) -> None:
        """Checks a target as ``explain`` and ``draw`` do.

        Raises:
            RequestError: the class does not exist, or several classes have the label.
        """
        self._model.check(target=target)

    def draw(self, image: Picture, **options: Any) -> bytes:
        """Draws the network's crop and the maps on one sheet, the bytes of a PNG file; arguments are as ``explain``'s.

        Raises:
            RequestError, OSError, ModelError: as ``explain``; ``maps="none"`` leaves nothing to draw.
        """
        return encode_png(self._model.explain(image, **options).sheet())
