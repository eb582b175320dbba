"""Writes the work: ``python -m benchmarks.prepare NETWORK FOLDER``. A process of its own, because it loads torch."""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.work import PICTURES, Work, is_fresh
from benchmarks.zoo.weights import random_classifier
from export.graphs.explanation import export_explanation, export_gradcam
from export.graphs.prediction import export_prediction
from export.verify.compare import fresh_pictures
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.model.classifier import build_classifier
from handler.picture.preprocess import Preprocessing

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")


def prepare(network: str, folder: Path, *, side: int = 224, classes: int = 1000, pictures: int = 32) -> Work:
    """Makes weights, pictures and graphs, or leaves the folder as it is if this code made it before.

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
    drawn = random_classifier(network, side, classes=classes)
    checkpoint = Checkpoint(
        architecture=network, labels=drawn.labels, preprocessing=how, state=drawn.module.state_dict()
    )
    classifier = build_classifier(checkpoint)
    work = Work(folder, network, classifier.default_layer, drawn.labels, how, classifier.weights_sha256, stamp)
    write_checkpoint(work.checkpoint, checkpoint)
    np.save(folder / PICTURES, fresh_pictures(np.random.default_rng(0), pictures, how))
    export_prediction(classifier, folder / "model.onnx")
    export_gradcam(classifier, folder / "model.gradcam.onnx")
    export_explanation(classifier, folder / "model.explain.onnx")
    work.write()
    return work


def _stamp(*arguments: object) -> str:
    sources = [path for part in ("handler", "export") for path in sorted((_ROOT / part).glob("*.py"))]
    digest = hashlib.sha256(json.dumps([*arguments, *map(version, _PACKAGES)]).encode())
    for path in (*sources, Path(__file__), _ROOT / "benchmarks" / "zoo" / "weights.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]))
