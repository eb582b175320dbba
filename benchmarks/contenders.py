"""Who is measured: for each name and task, how a user of that library builds it once and calls it again and again.

Every call takes a NumPy batch (N, 3, H, W) and returns NumPy arrays. What a library builds once (models, hooks,
sessions) is built outside the call. Libraries are imported by the builders: a process loads only its own contender's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.work import EXPLAIN, GRADCAM, PREDICT, Work
from handler.explanation.evidence import TOP, Engine, Floats, Needs
from handler.explanation.gradient_cams import gradcam


@dataclass(frozen=True)
class Outputs:
    """What a call returns; a task leaves the rest None."""

    logits: Floats  # (N, K)
    gradcam: Floats | None = None  # (N, h, w), of the top class: of the layer's or of the pictures' size, as they come
    guided: Floats | None = None  # (N, 3, H, W), of the top class


Call = Callable[[Floats], Outputs]
Builder = Callable[[Work, str, int], Call]  # work, task, threads

EAGER, OURS_TORCH, OURS_ONNX = "PyTorch eager", "ours torch", "ours onnx"
PYTORCH_GRAD_CAM, CAPTUM, TORCHCAM = "pytorch-grad-cam", "captum", "torchcam"
CONTENDERS: dict[tuple[str, str], Builder] = {}  # (task, name), in the order of the tables


def contender(name: str, *tasks: str) -> Callable[[Builder], Builder]:
    """Registers a builder for these tasks.

    Raises:
        ValueError: it is registered already.
    """

    def register(builder: Builder) -> Builder:
        for task in tasks:
            if (task, name) in CONTENDERS:
                raise ValueError(f"{name} is registered already for {task}")
            CONTENDERS[task, name] = builder
        return builder

    return register


@contender(EAGER, PREDICT)
def eager(work: Work, task: str, threads: int) -> Call:
    """Torchvision's module in inference mode."""
    torch, module = _peers_module(work, threads)

    def call(inputs: Floats) -> Outputs:
        with torch.inference_mode():
            return Outputs(module(torch.from_numpy(inputs)).numpy())

    return call


@contender(PYTORCH_GRAD_CAM, GRADCAM, EXPLAIN)
def pytorch_grad_cam(work: Work, task: str, threads: int) -> Call:
    """``GradCAM``, whose outputs are the prediction; ``GuidedBackpropReLUModel``, which takes one picture at a time."""
    torch, module = _peers_module(work, threads)
    from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel

    cam = GradCAM(module, [module.get_submodule(work.layer)])
    guided = GuidedBackpropReLUModel(module, "cpu")

    def call(inputs: Floats) -> Outputs:
        maps = cam(torch.from_numpy(inputs), targets=None)
        found = Outputs(cam.outputs.detach().numpy(), maps)
        if task == GRADCAM:
            return found
        rows = [guided(torch.from_numpy(row[None]), target_category=None) for row in inputs]  # each (H, W, 3)
        return replace(found, guided=np.stack(rows).transpose(0, 3, 1, 2))

    return call


@contender(CAPTUM, GRADCAM, EXPLAIN)
def captum(work: Work, task: str, threads: int) -> Call:
    """A forward pass for the prediction and the target, ``LayerGradCam``, ``GuidedBackprop``."""
    torch, module = _peers_module(work, threads)
    from captum.attr import GuidedBackprop, LayerGradCam

    layer, guided = LayerGradCam(module, module.get_submodule(work.layer)), GuidedBackprop(module)

    def call(inputs: Floats) -> Outputs:
        batch = torch.from_numpy(inputs)
        with torch.no_grad():  # in inference mode the target could not be used in a backward pass
            logits = module(batch)
        target = logits.argmax(dim=1)
        maps = layer.attribute(batch, target=target, relu_attributions=True)
        found = Outputs(logits.numpy(), maps[:, 0].detach().numpy())
        if task == GRADCAM:
            return found
        return replace(found, guided=guided.attribute(batch.requires_grad_(), target=target).detach().numpy())

    return call


@contender(TORCHCAM, GRADCAM)
def torchcam(work: Work, task: str, threads: int) -> Call:
    """The extractor ``GradCAM`` on the user's own forward pass; scaled to [0, 1] as it does by default."""
    torch, module = _peers_module(work, threads)
    from torchcam.methods import GradCAM

    extractor = GradCAM(module, work.layer)

    def call(inputs: Floats) -> Outputs:
        scores = module(torch.from_numpy(inputs))
        (maps,) = extractor(scores.argmax(dim=1).tolist(), scores)
        return Outputs(scores.detach().numpy(), maps.numpy())

    return call


@contender(OURS_TORCH, PREDICT, GRADCAM, EXPLAIN)
def ours_torch(work: Work, task: str, threads: int) -> Call:
    """``TorchEngine``, as served, and ``cam.gradcam``."""
    import torch

    from handler.autograd.torch_engine import TorchEngine
    from handler.model.memory_layout import in_fast_layout
    from handler.model.sources import load_classifier

    torch.set_num_threads(threads)
    return _engine_call(TorchEngine(in_fast_layout(load_classifier(checkpoint=work.checkpoint))), work.layer, task)


@contender(OURS_ONNX, PREDICT, GRADCAM, EXPLAIN)
def ours_onnx(work: Work, task: str, threads: int) -> Call:
    """``OnnxEngine`` on the graphs that travel in the archive; without torch."""
    from handler.graphs.folder import Origin
    from handler.graphs.onnx_engine import OnnxEngine

    origin = Origin(
        architecture=work.network,
        weights_sha256=work.weights_sha256,
        labels=work.labels,
        preprocessing=work.preprocessing,
    )
    engine = OnnxEngine.open(work.folder, origin, threads=threads)
    return _engine_call(engine, work.layer, task)


def _engine_call(engine: Engine, layer: str, task: str) -> Call:
    needs = {PREDICT: Needs(), GRADCAM: Needs((layer,)), EXPLAIN: Needs((layer,), guided=True)}[task]

    def call(inputs: Floats) -> Outputs:
        evidence = engine.run(inputs, [[TOP]] * len(inputs), needs)
        if task == PREDICT:
            return Outputs(evidence.logits)
        found = evidence.layers[layer]
        return Outputs(evidence.logits, gradcam(found.activation, found.gradient), evidence.guided)

    return call


def _peers_module(work: Work, threads: int) -> tuple[Any, Any]:
    """Torch and torchvision's module as every tutorial builds it: eval mode, parameters not frozen."""
    import torch
    import torchvision
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    module = torchvision.models.get_model(work.network, weights=None, num_classes=len(work.labels))
    module.load_state_dict(load_file(work.checkpoint))
    return torch, module.eval()
