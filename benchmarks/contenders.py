"""Who is measured: for each name and task, how a user of that library builds it once and calls it again and again.

Every call takes a NumPy batch (N, 3, H, W) and returns NumPy arrays. What a library builds once (models, hooks,
sessions) is built outside the call. Libraries are imported by the builders: a process loads only its own contender's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.work import EXPLAIN, EXPLAIN_OF_FIVE, GRADCAM, GRADCAM_OF_FIVE, PREDICT, TASKS, Work
from handler.explanation.evidence import TOP, Engine, Floats, Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.maps import combine, scale
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KINDS

TOLERANCE = 1e-3  # of the largest value: Grad-CAM and scores differ by float32 rounding only
# of guided pixels: where rounding decides the sign of an activation a gate flips, and the pixels behind it differ
SHARE_BEYOND, MOST = 0.1, 0.05


@dataclass(frozen=True)
class Outputs:
    """What a call returns; a task leaves the rest None."""

    logits: Floats  # (N, K)
    gradcam: Floats | None = None  # (M, h, w), of the targets: of the layer's or of the pictures' size, as they come
    guided: Floats | None = None  # (M, 3, H, W), of the targets


def differences(found: Outputs, expected: Outputs) -> dict[str, float]:
    """The largest difference of each output, as a share of the largest expected value.

    Maps are compared on [0, 1] at the size that ``found`` has, because libraries scale and upsample them. Of the guided
    gradient the entry is the 90th percentile, and ``guided_most`` the largest.
    """
    result = {"logits": _largest(found.logits, expected.logits)}
    if found.gradcam is not None and expected.gradcam is not None:
        height, width = found.gradcam.shape[1:]
        scaled = np.stack([combine([one], height, width) for one in expected.gradcam])  # as pytorch-grad-cam does
        result["gradcam"] = _largest(np.stack([scale(one) for one in found.gradcam]), scaled)
    if found.guided is not None and expected.guided is not None:
        shares = np.abs(found.guided - expected.guided) / np.abs(expected.guided).max()
        result["guided"] = float(np.quantile(shares, 1 - SHARE_BEYOND))
        result["guided_most"] = float(shares.max())
    return result


def agrees(found: dict[str, float]) -> bool:
    """Whether differences are those of rounding; not a number is a difference."""
    limits = {"guided_most": MOST}
    return all(value <= limits.get(name, TOLERANCE) for name, value in found.items())


def _largest(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


Call = Callable[[Floats], Outputs]
Who = tuple[str, str]  # task and contender
Builder = Callable[[Work, str, int], Call]  # work, task, threads

EAGER, OURS_TORCH, OURS_ONNX = "PyTorch eager", "ours torch", "ours onnx"
PYTORCH_GRAD_CAM, CAPTUM, TORCHCAM = "pytorch-grad-cam", "captum", "torchcam"
COMPILED, INDUCTOR, OPENVINO = "torch.compile", "our trace in Inductor", "our graph in OpenVINO"


def eager(work: Work, task: str, threads: int) -> Call:
    """Torchvision's module in inference mode."""
    torch, module = _peers_module(work, threads)

    def call(inputs: Floats) -> Outputs:
        with torch.inference_mode():
            return Outputs(module(torch.from_numpy(inputs)).numpy())

    return call


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


def compiled(work: Work, task: str, threads: int) -> Call:
    """Torchvision's module by ``torch.compile``, with its weights frozen."""
    torch, module = _peers_module(work, threads)
    return _compiled_call(torch, module)


def inductor(work: Work, task: str, threads: int) -> Call:
    """The trace of which our graph is made, by ``torch.compile``: what the runtime alone makes of it."""
    from export.tracing.explanation import trace_graph
    from handler.model.sources import load_classifier

    torch, _ = _peers_module(work, threads)
    kind = {GRADCAM: KIND_GRADCAM, EXPLAIN: KIND_EXPLANATION}[task]
    rest = torch.tensor([TOP]), torch.zeros(1, len(work.labels))
    graph = trace_graph(load_classifier(checkpoint=work.checkpoint), kind)
    graph._lineno_map = None  # of lines to nodes, which are fewer after the first compilation
    return _compiled_call(torch, graph, *rest)


def _compiled_call(torch: Any, module: Any, *rest: Any) -> Call:
    torch._inductor.config.freezing = True
    run = torch.compile(module, dynamic=False)

    def call(inputs: Floats) -> Outputs:
        with torch.no_grad():
            found = run(torch.from_numpy(inputs), *(one.expand(len(inputs), *one.shape[1:]) for one in rest))
        if not rest:
            return Outputs(found.numpy())
        logits, _, _, maps, *guided = (one.numpy() for one in found)
        return Outputs(logits, maps, *guided)

    return call


def openvino(work: Work, task: str, threads: int) -> Call:
    """The ONNX graphs that travel in the archive, in OpenVINO."""
    from openvino import Core

    kind = {PREDICT: KIND_PREDICTION, GRADCAM: KIND_GRADCAM, EXPLAIN: KIND_EXPLANATION}[task]
    how = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    run = Core().compile_model(str(work.folder / KINDS[kind].file), "CPU", how)
    target, weights = np.full(1, TOP), np.zeros((1, len(work.labels)), np.float32)

    def call(inputs: Floats) -> Outputs:
        given = {"input": inputs}
        if task != PREDICT:
            given |= {"target": target.repeat(len(inputs)), "weights": weights}
        found = run({name: values for name, values in given.items() if name in names})
        parts = [found[name].copy() for name in KINDS[kind].outputs if name in ("logits", "gradcam", "guided_backprop")]
        return Outputs(*parts)

    names = {name for one in run.inputs for name in one.get_names()}
    return call


def ours_torch(work: Work, task: str, threads: int) -> Call:
    """``TorchEngine``, as served, and ``cam.gradcam``."""
    import torch

    from handler.autograd.torch_engine import TorchEngine
    from handler.model.classifier import in_fast_layout
    from handler.model.sources import load_classifier

    torch.set_num_threads(threads)
    return _engine_call(TorchEngine(in_fast_layout(load_classifier(checkpoint=work.checkpoint))), work.layer, task)


def ours_onnx(work: Work, task: str, threads: int) -> Call:
    """``OnnxEngine`` on the graphs that travel in the archive; without torch."""
    from handler.graphs.description import Origin
    from handler.graphs.onnx_engine import OnnxEngine
    from handler.graphs.session import open_graphs

    known = {name: getattr(work, name) for name in ("weights_sha256", "labels", "preprocessing")}
    graphs = open_graphs(work.folder, Origin(architecture=work.network, **known), threads=threads)
    return _engine_call(OnnxEngine(graphs), work.layer, task)


def _engine_call(engine: Engine, layer: str, task: str) -> Call:
    needs = Needs(layers=() if task == PREDICT else (layer,), guided=task in (EXPLAIN, EXPLAIN_OF_FIVE))
    targets = [TOP, *range(4)] if task in (GRADCAM_OF_FIVE, EXPLAIN_OF_FIVE) else [TOP]

    def call(inputs: Floats) -> Outputs:
        evidence = engine.run(inputs, [targets] * len(inputs), needs)
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


_TABLE: dict[str, tuple[Builder, tuple[str, ...]]] = {
    EAGER: (eager, (PREDICT,)),
    PYTORCH_GRAD_CAM: (pytorch_grad_cam, (GRADCAM, EXPLAIN)),
    CAPTUM: (captum, (GRADCAM, EXPLAIN)),
    TORCHCAM: (torchcam, (GRADCAM,)),
    COMPILED: (compiled, (PREDICT,)),
    INDUCTOR: (inductor, (GRADCAM, EXPLAIN)),
    OPENVINO: (openvino, (PREDICT, GRADCAM, EXPLAIN)),
    OURS_TORCH: (ours_torch, TASKS),
    OURS_ONNX: (ours_onnx, TASKS),
}
# (task, name), in the order of the tables
CONTENDERS = {(task, name): builder for name, (builder, tasks) in _TABLE.items() for task in tasks}
