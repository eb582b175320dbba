"""Explains with an exported graph where no PyTorch is: the server's own answers, from one ONNX file."""

import json
from pathlib import Path
from typing import Any

from handler.answer import JSON, PNG, Answer
from handler.errors import ModelError
from handler.explainer import Explainer
from handler.graph_description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KIND_SALIENCY
from handler.graph_session import GraphSession
from handler.model_card import ModelCard
from handler.onnx_engine import OnnxEngine
from handler.options import MAPS, Options, parse_options
from handler.request import Headers
from handler.settings import Settings


class ExplanationClient:
    """A graph of explanations, loaded once; it says itself how pictures are prepared and what its classes are."""

    def __init__(self, path: Path | str) -> None:
        """Loads the graph.

        Raises:
            ModelError: no such file, no ONNX graph, one that this project did not write, or a prediction graph.
        """
        path = Path(path)
        graph = GraphSession.open(path)
        if graph.description.kind == KIND_PREDICTION:
            raise ModelError(
                f"graph {path} holds predictions only; `shufflenet-cam explanation` and `gradcam` write explanations"
            )
        self.description = graph.description
        self._card = _card(path, graph)
        self._explainer = Explainer(OnnxEngine({graph.description.kind: graph}), self._card, Settings())

    def explain(self, image: bytes, **options: Any) -> dict[str, Any]:
        """The server's JSON answer for an encoded picture: predictions, and maps as ``options`` want them.

        Args:
            image: JPEG, PNG or what else the server takes.
            options: as in JSON requests: ``target=3``, ``maps=["gradcam"]``, ``encoding="npy"`` and so on.

        Raises:
            ValueError: the bytes are no picture, its scores or evidence are not finite, or an option is not valid; the
                message says what is.
            ModelError: the graph failed on this picture; the log says why.
        """
        content: dict[str, Any] = json.loads(self._answer(image, JSON, options).body)
        return content

    def draw(self, image: bytes, **options: Any) -> bytes:
        """All maps on one sheet, beside what the network saw: a PNG file.

        Raises:
            ValueError: as ``explain``; ModelError, too.
        """
        return self._answer(image, PNG, options).body

    def check_target(self, target: Any) -> None:
        """Refuses classes that ``explain`` and ``draw`` would refuse for every picture.

        Raises:
            BadRequest: no such class, or a label that several classes share.
        """
        self._card.target_indices(parse_options({"target": target}, Options()))

    def _answer(self, image: bytes, accept: str, options: dict[str, Any]) -> Answer:
        (answer,) = self._explainer.answer([{"image": image, **options}], [Headers({"accept": accept})])
        if answer.status >= 500:
            raise ModelError("the graph failed on this picture; the log says why")
        if answer.status != 200:
            raise ValueError(json.loads(answer.body)["message"])
        return answer


_HELD = {
    KIND_GRADCAM: ("gradcam",),
    KIND_EXPLANATION: ("gradcam", "guided_backprop", "guided_gradcam"),
    KIND_SALIENCY: ("gradcam", "saliency"),
}


def _card(path: Path, graph: GraphSession) -> ModelCard:
    known = graph.description
    held = _HELD[known.kind]
    refusals = {name: f"this graph holds {', '.join(held)}" for name in MAPS if name not in held}
    shape = next(one.shape for one in graph.session.get_outputs() if one.name == "activations")
    layers = {known.layer: tuple(shape[1:])}
    name = path.name.partition(".")[0]
    return ModelCard(
        name,
        known.weights_sha256[:12],
        known.architecture,
        known.labels,
        known.preprocessing,
        known.layer,
        layers,
        known.coverage or None,
        refusals,
    )
