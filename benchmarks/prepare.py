"""Writes the work: ``python -m benchmarks.prepare NETWORK FOLDER``. A process of its own, because it loads torch."""

import argparse
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.work import PICTURES, Work, is_fresh
from export.graphs.explanation import export_explanation, export_gradcam
from export.graphs.prediction import export_prediction
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.model.classifier import build_classifier
from handler.picture.preprocess import Preprocessing
from tests.support.models import random_classifier, random_inputs

_ROOT = Path(__file__).parent.parent
_SPREAD = 3.0  # standard deviation of the scores
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")


def prepare(network: str, folder: Path, *, side: int = 224, classes: int = 1000, pictures: int = 32) -> Work:
    """Makes weights, pictures and graphs, or leaves the folder as it is if this code made it before.

    The weights are random with the magnitudes of trained ones, and the statistics of the batch norms are those of a
    few pictures: activations neither vanish nor explode. Scores spread as those of trained classifiers do.

    Args:
        network: a torchvision registry name.
        folder: to write into.
        side: of the square pictures, in pixels.
        classes: number of scores.
        pictures: how many different ones.
    """
    stamp = _stamp(network, side, classes, pictures)
    if is_fresh(folder, stamp):
        return Work.read(folder)
    folder.mkdir(parents=True, exist_ok=True)
    how = Preprocessing(
        resize_size=side * 8 // 7, crop_size=side, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    state = _with_ordinary_scores(random_classifier(network, classes, side).module, side)
    labels = [f"class {index}" for index in range(classes)]
    checkpoint = Checkpoint(architecture=network, labels=labels, preprocessing=how, state=state)
    classifier = build_classifier(checkpoint)
    work = Work(folder, network, classifier.default_layer, labels, how, classifier.weights_sha256, stamp)
    write_checkpoint(work.checkpoint, checkpoint)
    np.save(folder / PICTURES, random_inputs(pictures, side))
    export_prediction(classifier, folder / "model.onnx")
    export_gradcam(classifier, folder / "model.gradcam.onnx")
    export_explanation(classifier, folder / "model.explain.onnx")
    work.write()
    return work


def _with_ordinary_scores(module: nn.Module, side: int) -> dict[str, torch.Tensor]:
    """The state with a head so scaled that scores have the standard deviation ``_SPREAD``.

    A deep network's random scores are in the hundreds, where float32 itself is coarser than what exports are held to.
    """
    heads = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    with torch.inference_mode():
        spread = float(module(torch.from_numpy(random_inputs(8, side))).std())
    factors = dict.fromkeys((f"{heads[-1]}.weight", f"{heads[-1]}.bias"), _SPREAD / spread)
    return {name: value * factors[name] if name in factors else value for name, value in module.state_dict().items()}


def _stamp(*arguments: object) -> str:
    sources = [path for part in ("handler", "export") for path in sorted((_ROOT / part).rglob("*.py"))]
    digest = hashlib.sha256(json.dumps([*arguments, *map(version, _PACKAGES)]).encode())
    for path in (*sources, Path(__file__), _ROOT / "tests" / "support" / "models.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    prepare(options.network, options.folder)


if __name__ == "__main__":
    main()
