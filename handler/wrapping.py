"""A model around a network in memory, as pytorch-grad-cam's classes are, which does not change the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from handler.autograd.torch_engine import TorchEngine
from handler.client.model import Model, Picture
from handler.errors import BadRequest, ModelError
from handler.explanation.evidence import Floats
from handler.loading import describe_model
from handler.model.classifier import Classifier, of_module
from handler.picture.preprocess import Crop, Input, Preprocessing
from handler.picture.preprocess_text import said_over
from handler.protocol.model_card import ModelCard
from handler.protocol.receipt import Receipt
from handler.rendering.result import Result
from handler.serving.explainer import Explainer
from handler.serving.jobs import Job

Layer = str | nn.Module
Pictures = Picture | torch.Tensor


class WrappedModel(Model):
    """A ``Model`` around a network in memory, which takes tensors, too."""

    def __init__(
        self,
        module: nn.Module,
        *,
        layer: Layer | Sequence[Layer] | None = None,
        labels: Sequence[str] | None = None,
        preprocessing: Preprocessing | str | None = None,
    ) -> None:
        """See ``handler.wrap``."""
        if any(part.training for part in module.modules()):
            raise ModelError("the network is in training mode; call eval() first")
        self._module = module
        self._layers = _paths(module, layer)
        self._labels = None if labels is None else list(labels)
        self._how = said_over(preprocessing, None, "")[0] if isinstance(preprocessing, str) else preprocessing
        self._explainers: dict[int, Explainer] = {}  # by the side of the network's input, in pixels
        if self._how is not None:
            super().__init__(self._explainer_for(self._how.crop_size))

    @property
    def card(self) -> ModelCard:
        """The card of the network.

        Raises:
            ModelError: the model has neither preprocessing nor explained a tensor yet.
        """
        if not self._explainers:
            raise ModelError("the network has seen no picture yet; say preprocessing=, or explain a tensor first")
        return next(iter(self._explainers.values())).card

    def explain(self, picture: Pictures, **options: Any) -> Any:
        """Predicts, and explains the prediction or other targets.

        Args:
            picture: as for ``Model.explain``, or a tensor (3, H, H) or (N, 3, H, H), which is the network's input.
            options: as for ``Model.explain``.

        Returns:
            A ``Result``; a list of N results for a tensor (N, 3, H, H).

        Raises:
            RequestError, OSError, ModelError: as ``Model.explain``.
        """
        if isinstance(picture, torch.Tensor) and picture.dim() == 4:
            return self.explain_batch(list(picture), **options)
        return self.explain_batch([picture], **options)[0]

    def explain_batch(
        self, pictures: Sequence[Pictures], targets: Sequence[int | str] | None = None, **options: Any
    ) -> list[Result]:
        """As ``Model.explain_batch``, for pictures or tensors (3, H, H); a tensor (N, 3, H, H) is a batch.

        Raises:
            BadRequest: tensors of several sizes, or pictures without preprocessing.
            RequestError, OSError, ModelError: as ``Model.explain``.
        """
        sides = {picture.shape[-1] for picture in pictures if isinstance(picture, torch.Tensor)}
        if len(sides) > 1:
            raise BadRequest(f"tensors of {len(sides)} sizes are no batch, valid are tensors of one size")
        side = sides.pop() if sides else self._how.crop_size if self._how else 0
        if not side:
            raise BadRequest("pictures need preprocessing=, which makes the network's input; valid are tensors")
        self._explainer = self._explainer_for(side)
        given = list(pictures)
        if "layer" not in options and self._layers:
            options["layer"] = self._layers
        with _frozen(self._module):
            return super().explain_batch(given, targets, **options)  # type: ignore[arg-type]

    def _job(self, picture: Pictures, options: dict[str, Any]) -> Job:
        if not isinstance(picture, torch.Tensor):
            return super()._job(picture, options)
        values = _checked(picture)
        seen = Input(values, self._shown(values), Crop(values.shape[1:], (0, 0, *values.shape[1:])))
        return self._job_of(seen, Receipt.of(values.tobytes()), options, seen.picture)

    def _shown(self, values: Floats) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A tensor (3, H, H) as uint8 RGB (H, H, 3): the normalisation is undone or, if unknown, values are scaled."""
        if self._how is not None:
            mean, std = (np.asarray(three, np.float32)[:, None, None] for three in (self._how.mean, self._how.std))
            scaled = values * std + mean
        else:
            scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-7)
        return np.ascontiguousarray((scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))

    def _explainer_for(self, side: int) -> Explainer:
        if side not in self._explainers:
            how = self._how if self._how and self._how.crop_size == side else _no_preprocessing(side)
            with _frozen(self._module):
                classifier = of_module(self._module, type(self._module).__name__, self._labels, how)
                classifier = replace(classifier, default_layer=self._default_layer(classifier))
                engine = TorchEngine(classifier)
                card = describe_model(classifier, engine, type(self._module).__name__, "in memory")
            self._explainers[side] = Explainer(engine, card)
        return self._explainers[side]

    def _default_layer(self, classifier: Classifier) -> str:
        for path in self._layers:
            if path not in classifier.layers:
                why = classifier.refused_layers.get(path, "it does not run")
                valid = ", ".join(classifier.layers)
                raise ModelError(f"layer {path!r} has no map ({why}), valid are {valid}")
        return self._layers[0] if self._layers else classifier.default_layer


def _paths(module: nn.Module, layer: Layer | Sequence[Layer] | None) -> list[str]:
    paths = {id(part): path for path, part in module.named_modules()}
    found = []
    for wanted in [] if layer is None else [layer] if isinstance(layer, (str, nn.Module)) else layer:
        path = wanted if isinstance(wanted, str) else paths.get(id(wanted))
        if path is None:
            raise ModelError(f"the layer {type(wanted).__name__} is no module of the network")
        found.append(path)
    return found


def _checked(tensor: torch.Tensor) -> Floats:
    if (
        tensor.dim() != 3
        or tensor.shape[0] != 3
        or tensor.shape[1] != tensor.shape[2]
        or not tensor.is_floating_point()
    ):
        raise BadRequest(
            f"a tensor {tensor.dtype} {tuple(tensor.shape)} is no picture, valid are square pictures: float (3, H, H), "
            "or (N, 3, H, H)"
        )
    return np.array(tensor.detach().float().cpu().numpy())


def _no_preprocessing(side: int) -> Preprocessing:
    """The preprocessing for networks that take tensors of this side alone: values stay as they are."""
    return Preprocessing(resize_size=side, crop_size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block, parameters require no gradient."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
