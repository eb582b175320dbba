"""A model around a network in memory, as pytorch-grad-cam's classes are, which does not change the network."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from handler.autograd.torch_engine import TorchEngine
from handler.client.model import Model, Picture, Pixels
from handler.errors import BadRequest, ModelError
from handler.explanation.evidence import Floats
from handler.loading import describe_model
from handler.model.classifier import of_module
from handler.model.reading import Reading
from handler.picture.preprocess import MOST_CHANNELS, Crop, Input, Preprocessing
from handler.picture.preprocess_text import said_over
from handler.protocol.model_card import ModelCard
from handler.protocol.options import shown
from handler.protocol.receipt import ImageHash, hash_image
from handler.rendering.result import Result
from handler.serving.explainer import Explainer

Layer = str | nn.Module
Pictures = Picture | torch.Tensor
Shape = tuple[int, int, int]  # C, H, W


class WrappedModel(Model):
    """A ``Model`` around a network in memory, which takes tensors, too."""

    def __init__(
        self,
        module: nn.Module,
        *,
        layer: Layer | Sequence[Layer] | None = None,
        labels: Sequence[str] | None = None,
        preprocessing: Preprocessing | str | None = None,
        head: str = "",
        output: str | int = "",
    ) -> None:
        """Makes a model of a network in memory, a classifier in eval mode with float32 weights, which is not changed.

        The module maps pictures (N, C, H, W) to scores (N, K). ``layer`` is the layer of the maps, if a call names
        none: a module path or a module of the network, or several, whose maps are averaged; with None the last layer on
        every path from the picture to the scores. ``labels`` are one per class; None names the classes by their
        indices. ``preprocessing`` makes the network's input of a picture: a ``Preprocessing`` or its text,
        ``"resize=256 crop=224 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"``; with None, the model takes tensors
        alone. ``head`` and ``output`` are those of ``find_reading``.

        A ModelError says that the network is in training mode, is not in float32, does not answer with one logit per
        class, or has no layer with a map, or what does not fit. Without preprocessing, the first call runs the network.
        """
        _check_network(module)
        self._module = module
        self._layers = _paths(module, layer)
        self._labels = None if labels is None or isinstance(labels, (str, Mapping)) else list(labels)
        if labels is not None and not (self._labels and all(isinstance(label, str) for label in self._labels)):
            raise ModelError(f"labels {shown(labels)} are not valid, valid is a list of texts, one per score")
        if preprocessing is not None and not isinstance(preprocessing, (str, Preprocessing)):
            raise ModelError(f"preprocessing {shown(preprocessing)} is not valid, valid is a Preprocessing or its text")
        self._how = None if preprocessing is None else said_over(preprocessing, None, "")[0]
        self._head, self._output, self._reading = head, str(output), Reading()
        self._explainers: dict[Shape, Explainer] = {}  # by the shape of the network's input
        self._one_at_a_time = threading.RLock()  # engines for several sides share the network and its hooks
        if self._how is not None:
            super().__init__(self._explainer_for(self._how.shape))

    @property
    def card(self) -> ModelCard:
        """The card of the network; raises ModelError if it has neither preprocessing nor explained a tensor yet."""
        if not self._explainers:
            raise ModelError("the network has seen no picture yet; say preprocessing=, or explain a tensor first")
        return next(iter(self._explainers.values())).card

    def explain(self, picture: Pictures, **options: Any) -> Any:
        """Predicts and explains as ``Model.explain``, with the same options and errors.

        A tensor (C, H, W) or (N, C, H, W) is the network's input. Returns a ``Result``; a list of N results for a
        tensor (N, C, H, W).
        """
        if isinstance(picture, torch.Tensor) and picture.dim() == 4:
            return self.explain_batch(list(picture), **options)
        return self.explain_batch([picture], **options)[0]

    def predict(self, picture: Pictures, top_k: int | None = None) -> Any:
        """Predicts the most probable classes, as ``Model.predict``; a list of N for a tensor (N, C, H, W)."""
        if isinstance(picture, torch.Tensor) and picture.dim() == 4:
            return [self.predict(row, top_k) for row in picture]
        return super().predict(picture, top_k)  # type: ignore[arg-type]

    def explain_batch(
        self, pictures: Iterable[Pictures], targets: Iterable[int | str] | None = None, **options: Any
    ) -> list[Result]:
        """As ``Model.explain_batch``, for pictures or tensors (C, H, W); a tensor (N, C, H, W) is a batch.

        BadRequest are also tensors of several sizes and pictures without preprocessing, ModelError a network in
        training mode.
        """
        given = list(pictures)
        if not given:
            return []
        shapes = {self._shape(picture) for picture in given}
        if len(shapes) > 1:
            raise BadRequest("tensors and pictures of several sizes are no batch, valid are those of one size")
        layer = options.get("layer", "auto")
        options["layer"] = self._layers or "auto" if layer == "auto" else _paths(self._module, layer)
        with self._one_at_a_time, _frozen(self._module):
            self._explainer = self._explainer_for(shapes.pop())
            with self._reading.attach(self._module):
                return super().explain_batch(given, targets, **options)  # type: ignore[arg-type]

    def _shape(self, picture: Pictures) -> Shape:
        """The shape of the network's input for a picture."""
        if isinstance(picture, torch.Tensor):
            return _checked(picture).shape
        if self._how is None:
            what = f"{type(picture).__name__} needs preprocessing=, which makes the network's input"
            raise BadRequest(f"{what}; without it, valid are tensors (C, H, W)")
        return self._how.shape

    def _read(self, picture: Pictures) -> tuple[Input, ImageHash, Pixels]:
        if not isinstance(picture, torch.Tensor):
            return super()._read(picture)
        values = _checked(picture)
        drawn, whole = self._shown(values), (0, 0, *values.shape[1:])
        return Input(values, drawn, Crop(values.shape[1:], whole)), hash_image(values.tobytes()), drawn

    def _shown(self, values: Floats) -> Pixels:
        """A tensor (C, H, W) as uint8 (H, W, C): the normalisation is undone or, if unknown, values are scaled."""
        if self._how is not None and self._how.channels == len(values):
            mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (self._how.mean, self._how.std))
            scaled = values * std + mean
        else:
            scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-7)
        return np.ascontiguousarray((scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))

    def _explainer_for(self, shape: Shape) -> Explainer:
        if shape not in self._explainers:
            how, (channels, size) = self._how, (shape[0], shape[1:])
            if how is None or how.shape != shape:  # tensors alone, whose values stay as they are
                mean, std = (0.0,) * channels, (1.0,) * channels
                how = Preprocessing(resize_size=size, crop_size=size, mean=mean, std=std)
            name = type(self._module).__name__
            with _frozen(self._module):
                found = of_module(self._module, name, self._labels, how, self._head, self._output)
                found.check_layers(self._layers)
                classifier = replace(found, default_layer=[*self._layers, found.default_layer][0])
                engine = TorchEngine(classifier)
                with found.reading.attach(self._module):
                    card = describe_model(classifier, engine, name, "in memory")
            self._reading = found.reading
            self._explainers[shape] = Explainer(engine, card)
        return self._explainers[shape]


def _paths(module: nn.Module, layer: Layer | Sequence[Layer] | None) -> list[str]:
    """The layers, with module paths in the place of modules."""
    paths = {id(part): path for path, part in module.named_modules()}
    wanted = [] if layer is None else list(layer) if isinstance(layer, (list, tuple)) else [layer]
    if foreign := [part for part in wanted if not isinstance(part, str) and id(part) not in paths]:
        raise ModelError(f"the layer {shown(foreign[0])} is no module of the network, valid are its modules and paths")
    return [part if isinstance(part, str) else paths[id(part)] for part in wanted]


def _check_network(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ModelError(f"{type(module).__name__} is no network, valid is a torch.nn.Module in eval mode")
    if any(part.training for part in module.modules()):
        raise ModelError("the network is in training mode; call eval() first")
    kinds = {weight.dtype for weight in module.parameters() if weight.is_floating_point()}
    if kinds - {torch.float32}:
        held = ", ".join(sorted(map(str, kinds)))
        raise ModelError(f"the network has weights of {held}, valid is float32: call float()")


def _checked(tensor: torch.Tensor) -> Floats:
    shaped = tensor.dim() == 3 and tensor.shape[0] <= MOST_CHANNELS and tensor.numel()
    if not shaped or not tensor.is_floating_point():
        valid = f"valid are float (C, H, W) with 1 to {MOST_CHANNELS} channels, or (N, C, H, W)"
        raise BadRequest(f"a tensor {tensor.dtype} {tuple(tensor.shape)} is no picture, {valid}")
    return np.array(tensor.detach().float().cpu().numpy())


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block, parameters need no gradient; raises ModelError in training mode and unless they are float32."""
    _check_network(module)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            with torch.inference_mode(parameter.is_inference()):  # elsewhere its flag cannot be set
                parameter.requires_grad_(True)


wrap = WrappedModel  # as a program calls it: ``handler.wrap``
