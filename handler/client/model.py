"""A model in the caller's own process, without a server; that of a graph needs no PyTorch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from handler.errors import BadRequest, ModelError, ServiceError, in_one_line
from handler.explanation.methods import METHODS
from handler.graphs.description import KIND_ATTENTION, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from handler.picture.bands import in_colours, read_picture
from handler.picture.decode import from_pillow
from handler.picture.preprocess import Input, preprocess
from handler.protocol.model_card import ModelCard
from handler.protocol.options import MAPS, Options, parse_options
from handler.protocol.receipt import ImageHash, hash_image
from handler.rendering.result import Prediction, Result
from handler.serving.explainer import Explainer
from handler.serving.jobs import CheckedOptions, job_of

Pixels = npt.NDArray[np.uint8]
Picture = str | Path | bytes | Pixels | Image.Image  # a file's path, an encoded picture, or uint8 (H, W, C)


class Model:
    """Predicts and explains as the server does: ``Result.to_dict`` returns the server's JSON answer."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer

    @property
    def card(self) -> ModelCard:
        """The model's labels, preprocessing, layers and maps."""
        return self._explainer.card

    def explain(self, picture: Picture, **options: Any) -> Result:
        """Predicts, and explains the prediction or other targets.

        Options are those of requests to the server: ``target="tabby"``, ``maps=["gradcam"]``, ``layer="conv5"``, … A
        RequestError says that the picture cannot be decoded, that an option is invalid, and what is valid, or that
        scores or evidence are not finite; an OSError that the file cannot be read, a ModelError that the engine failed.
        """
        (result,) = self.explain_batch([picture], **options)
        return result

    def explain_batch(
        self, pictures: Iterable[Picture], targets: Iterable[int | str] | None = None, **options: Any
    ) -> list[Result]:
        """Explains several pictures, as many as possible in one pass; the first that fails raises ``explain``'s error.

        ``targets`` are a target for each picture, instead of the option ``target``; the options are those of all.
        """
        pictures = list(pictures)
        chosen = [options] * len(pictures) if targets is None else [{**options, "target": target} for target in targets]
        if len(chosen) != len(pictures):
            raise BadRequest(f"{len(chosen)} targets for {len(pictures)} pictures, valid is one for each")
        asked = zip(chosen, pictures, strict=True)
        jobs = [job_of(self._parsed(given), self.card, *self._read(picture)) for given, picture in asked]
        found: dict[int, Result] = {}
        for job, outcome in self._explainer.explain_all(jobs):
            if isinstance(outcome, ServiceError):
                raise outcome
            if isinstance(outcome, Exception):
                raise ModelError(f"the engine failed on this picture: {in_one_line(outcome)}") from outcome
            found[id(job)] = outcome
        return [found[id(job)] for job in jobs]

    def predict(self, picture: Picture, top_k: int | None = None) -> Sequence[Prediction]:
        """Predicts the ``top_k`` most probable classes, best first; None: five, or all if there are fewer."""
        options = {} if top_k is None else {"top_k": top_k}
        return self.explain(picture, maps="none", **options).predictions

    def check(self, **options: Any) -> None:
        """Checks options against the model, without a picture; the RequestError says what is valid."""
        CheckedOptions.of(self._parsed(options), self.card)

    def _read(self, picture: Picture) -> tuple[Input, ImageHash, Pixels]:
        """The network's input for a picture, the picture's hash, and the whole picture."""
        upload, image_hash = _decoded(picture, self.card.preprocessing.channels)
        return preprocess(upload, self.card.preprocessing), image_hash, upload

    def _parsed(self, options: dict[str, Any]) -> Options:
        return parse_options({name: _plain(value) for name, value in options.items()}, Options())


class GraphModel(Model):
    """The model of one graph, whose metadata give preprocessing and labels."""

    def __init__(self, path: Path | str, threads: int = 0) -> None:
        """Opens the graph for runs of so many threads, 0 for one per core.

        Raises ModelError if the file does not exist, or is no ONNX graph of this project.
        """
        path = Path(path)
        graph = GraphSession.open(path, threads=threads)
        self.description = known = graph.description
        held = KINDS[known.kind].maps
        shapes = {output.name: tuple(output.shape[1:]) for output in graph.session.get_outputs()}
        layers = {path: shapes.get(f"activations{ending}") for path, ending in known.layers.items()}
        alike = ("architecture", "labels", "preprocessing", "head", "weights_sha256")
        card = ModelCard(
            **{part: getattr(known, part) for part in alike},
            name=path.name.partition(".")[0],
            version=known.weights_sha256[:12],
            default_layer=known.layer,
            default_method=known.method if known.method in METHODS else "gradcam",
            layers={path: shape for path, shape in layers.items() if shape},
            guided_coverage=known.coverage or None,
            precision=known.precision.get("summary", ""),
            graphs={known.kind: graph.sha256},
            refusals={name: f"this graph holds {', '.join(held) or 'no maps'}" for name in MAPS if name not in held},
            refused_attention="" if known.kind == KIND_ATTENTION else "this graph holds no maps of attention",
        )
        super().__init__(Explainer(OnnxEngine({known.kind: graph}), card))


def _plain(value: Any) -> Any:
    """An option's value as JSON has it: numbers and lists of Python instead of those of NumPy and PyTorch."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _decoded(picture: Picture, channels: int) -> tuple[Pixels, ImageHash]:
    """The picture as uint8 (H, W, C), and its hash."""
    if isinstance(picture, (str, Path)):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        return read_picture(picture, channels=channels), hash_image(picture)
    if isinstance(picture, Image.Image):
        picture = in_colours(from_pillow(picture), channels)
    shape = picture.shape[2:] if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 else ()
    if shape != (channels,):
        valid = "RGB (H, W, 3)" if channels == 3 else f"(H, W, {channels})"
        what = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise BadRequest(f"{what} is no picture; valid are a path, bytes, uint8 {valid} and a Pillow image")
    if not picture.size:
        raise BadRequest(f"uint8 {picture.shape} has no pixels")
    return np.ascontiguousarray(picture), hash_image(picture.tobytes())
