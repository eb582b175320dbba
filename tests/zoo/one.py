"""Measures a network and writes ``FOLDER/NETWORK.json``: ``python -m tests.zoo.one NETWORK FOLDER [SIDE]``.

Each network has its own process, so that a process that is killed for its memory ends no other measurement.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe_machine, peak_memory
from export.graphs.exporters import explanation_kind
from export.verify.compare import RoundingCheck, Verdict, fresh_pictures
from handler.atomic_write import write_whole
from handler.autograd.layer_maps import CHANNELS_FIRST
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError, Unprocessable
from handler.explanation.evidence import TOP, Engine, Floats, Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.maps import scale
from handler.graphs.description import KIND_GRADCAM, KIND_PREDICTION, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession, open_graphs
from handler.loading import origin_of
from handler.model.classifier import Classifier, in_fast_layout
from tests.support.exports import export_explanation, export_gradcam, export_prediction
from tests.zoo.networks import random_network, side_of
from tests.zoo.plain_autograd import Found, explain

PICTURES = 2  # that engines are compared with plain autograd on, one after the other
SEED = 77  # of them: neither the export's nor the verification's
ROUNDS = 7  # of timing
ROW_VERSION = 1  # rises with what makes older rows incomparable


def look_at(architecture: str, side: int | None = None) -> dict[str, Any]:
    """The row of one network, or why it is refused; the arguments are those of ``random_network``."""
    started = time.perf_counter()
    try:
        classifier = random_network(architecture, side)
    except ModelError as error:
        known = {"version": ROW_VERSION, "network": architecture, "side": side_of(architecture, side)}
        return known | {"refused": str(error)}
    layer, how = classifier.default_layer, classifier.preprocessing
    view = classifier.views.get(layer, CHANNELS_FIRST)
    pictures = [fresh_pictures(np.random.default_rng([SEED, number]), 1, how) for number in range(PICTURES)]
    row: dict[str, Any] = {
        "version": ROW_VERSION,
        "network": architecture,
        "cpu": describe_machine()["cpu"],
        "parameters": sum(one.numel() for one in classifier.module.parameters()),
        "side": how.crop_size,
        "own_side": side_of(architecture),
        "layer": layer,
        "map": list(classifier.layers[layer]),
        "layers": len(classifier.layers),
    }
    try:
        evidence = TorchEngine(classifier).run(pictures[0], [[TOP]], Needs(guided=True))
        row["guided"] = {"coverage": evidence.coverage or ""}
    except Unprocessable as error:
        row["guided"] = {"refused": str(error)}
    engine = TorchEngine(in_fast_layout(classifier))
    # by plain autograd, in the engine's layout: in another one a ReLU near zero may open
    cells = {
        "channel_axis": view.channel_axis - 1,
        "grid": view.grid,
        "first": view.first_token,
        "element": view.element,
    }
    truth = [(one, explain(classifier.module, torch.from_numpy(one), layer, **cells)) for one in pictures]
    if "refused" in row["guided"]:
        truth = [(one, replace(found, guided=None)) for one, found in truth]
    row["engines"] = {"torch": _errors(engine, layer, truth)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row["graphs"] = graphs = _graphs(classifier, folder)
        usable = [kind for kind, its in graphs.items() if "refused" not in its]
        if set(usable) - {KIND_PREDICTION}:
            onnx = OnnxEngine(open_graphs(folder, origin_of(classifier), threads=torch.get_num_threads()))
            row["engines"]["onnx"] = _errors(onnx, layer, truth)
            row["times"] = _times(pictures[0], folder, usable)
    row["peak_mb"] = round(peak_memory() / 2**20)
    row["seconds"] = round(time.perf_counter() - started)
    return row


def _errors(engine: Engine, layer: str, truth: Sequence[tuple[Floats, Found]]) -> dict[str, float | None]:
    """Of one engine against plain autograd, the largest over all pictures; None for a gradient that it does not give.

    Of scores and saliency, the difference as a part of the largest value; of Grad-CAM, on [0, 1]; of the guided
    gradient, the relative RMS error, gates that rounding flips included.
    """
    errors: dict[str, list[float]] = {"scores": [], "gradcam": [], "guided": [], "saliency": []}
    for picture, found in truth:
        for needs in (Needs(layers=(layer,)), Needs(guided=True), Needs(saliency=True)):
            if isinstance(engine, OnnxEngine) and not engine.covers(needs) or (needs.guided and found.guided is None):
                continue
            evidence = engine.run(picture, [[TOP]], needs)
            if needs.layers:
                its = evidence.layers[layer]
                cam = scale(gradcam(its.activation, its.gradient)[0])
                errors["scores"].append(_relative(evidence.logits[0], found.scores))
                errors["gradcam"].append(float(np.abs(cam - scale(found.gradcam.numpy())).max()))
            if evidence.guided is not None and found.guided is not None:
                errors["guided"].append(_relative(evidence.guided[0], found.guided, order=2))
            if evidence.saliency is not None:
                errors["saliency"].append(_relative(evidence.saliency[0], found.saliency))
    always = {"scores": math.nan, "gradcam": math.nan}
    return {name: float(np.max(its)) if its else always.get(name) for name, its in errors.items()}


def _relative(found: Floats, expected: Tensor, order: float = math.inf) -> float:
    """The difference as a part of what is expected, by the largest values or, of order 2, by the root mean squares."""
    exact = expected.numpy().astype(np.float64).ravel()
    return float(np.linalg.norm(found.ravel() - exact, order) / max(float(np.linalg.norm(exact, order)), 1e-30))


def _graphs(classifier: Classifier, folder: Path) -> dict[str, dict[str, Any]]:
    exports: dict[str, Callable[[Classifier, Path], list[Verdict]]] = {
        KIND_PREDICTION: export_prediction,
        KIND_GRADCAM: export_gradcam,
    }
    graphs: dict[str, dict[str, Any]] = {}
    if classifier.alone:
        return dict.fromkeys([*exports, "explanation"], {"refused": f"pictures are run one by one: {classifier.alone}"})
    try:
        exports[explanation_kind(classifier)] = export_explanation
    except ModelError as error:
        graphs["explanation"] = {"refused": str(error)}
    for kind, export in exports.items():
        path, started, errors = folder / KINDS[kind].file, time.perf_counter(), dict[str, Any]()
        try:
            for check in export(classifier, path):
                if isinstance(check, RoundingCheck):  # relative RMS: lower quartile, worst
                    errors[check.output] = {"graph": check.graph[:2], "torch": check.torch[:2]}
                else:  # NaN if any is
                    errors[check.output] = float(np.maximum(check.max_error, errors.get(check.output, 0.0)))
            graphs[kind] = {"errors": errors, "bytes": path.stat().st_size}
        except (ModelError, Unprocessable) as error:
            graphs[kind] = {"refused": str(error)}
        graphs[kind]["seconds"] = round(time.perf_counter() - started, 1)
    return graphs


def _times(picture: Floats, folder: Path, kinds: Sequence[str]) -> dict[str, float]:
    """Milliseconds of one picture in ONNX Runtime, medians of rounds that take turns."""
    graphs = {kind: GraphSession.open(folder / KINDS[kind].file, threads=torch.get_num_threads()) for kind in kinds}
    feeds = {"input": picture, "target": np.array([TOP])}
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(ROUNDS + 1):
        for kind, graph in graphs.items():
            started = time.perf_counter()
            graph.infer({name: feeds[name] for name in KINDS[kind].inputs}, KINDS[kind].outputs)
            if number:  # the first is a warm-up
                spent[kind].append((time.perf_counter() - started) * 1e3)
    return {kind: round(float(np.median(its)), 2) for kind, its in spent.items()}


def main() -> None:
    """The command line: the network, the folder, and the side of the pictures where it is not the network's own."""
    network, folder, *side = sys.argv[1:]
    row = look_at(network, *map(int, side))
    write_whole(Path(folder, f"{network}.json"), json.dumps(row, indent=1).encode())


if __name__ == "__main__":
    main()
