"""Writes what is measured: ``python -m benchmarks.prepare NETWORK FOLDER [STORE]``, a process of its own.

``FOLDER`` gets the work, ``STORE`` the archives that are served: ours, the plain handler around pytorch-grad-cam,
TorchServe's stock one, all with the same weights.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.work import NAIVE, OURS, PICTURES, STOCK, Work
from examples.random_weights import random_classifier
from examples.shapes.draw import draw_random
from export.graphs.exporters import export_graph
from export.packing.archive import DEFAULT_CONFIG, write_archive
from export.verify.compare import fresh_pictures
from handler.graphs.description import KINDS
from handler.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from handler.model.classifier import build_classifier

_HERE = Path(__file__).parent
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
_HANDLERS = {NAIVE: str(_HERE / "naive_handler.py"), STOCK: "image_classifier"}
_DRAWN = 16  # pictures that are posted


def prepare(network: str, folder: Path, *, side: int = 224, classes: int = 1000, pictures: int = 32) -> Work:
    """Makes weights, square pictures and graphs, or leaves the folder as it is if this code made it before."""
    stamp = _stamp(network, side, classes, pictures)
    with suppress(OSError, TypeError, KeyError):  # not there yet, or described in another way
        if (made := Work.read(folder)).stamp == stamp:
            return made
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random_classifier(network, side, classes=classes)
    how = replace(drawn.preprocessing, resize_size=side * 8 // 7)
    state = drawn.module.state_dict()
    checkpoint = Checkpoint(architecture=network, labels=drawn.labels, preprocessing=how, state=state)
    classifier = build_classifier(checkpoint)
    work = Work(
        folder=folder,
        network=network,
        layer=classifier.default_layer,
        labels=drawn.labels,
        preprocessing=how,
        weights_sha256=classifier.weights_sha256,
        stamp=stamp,
    )
    write_checkpoint(work.checkpoint, checkpoint)
    np.save(folder / PICTURES, fresh_pictures(np.random.default_rng(0), pictures, how))
    for kind in ("prediction", "gradcam", "explanation"):
        export_graph(classifier, folder / KINDS[kind].file, kind)
    work.write()
    return work


def _stamp(*arguments: object) -> str:
    sources = [path for part in ("handler", "export", "deploy") for path in sorted((_HERE.parent / part).rglob("*.py"))]
    digest = hashlib.sha256(json.dumps([*arguments, *map(version, _PACKAGES)]).encode())
    for path in (*sources, Path(__file__), _HERE.parent / "examples/random_weights.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_archives(work: Work, store: Path) -> None:
    """Writes ``ours.mar``, ``naive.mar`` and ``stock.mar``, all with the same frontend settings, and the pictures."""
    store.mkdir(parents=True, exist_ok=True)
    checkpoint = read_checkpoint(work.checkpoint)
    write_archive(checkpoint, store, OURS)
    weights = work.folder / "state_dict.pth"
    torch.save(checkpoint.state, weights)
    for name, handler in _HANDLERS.items():
        command = [sys.executable, "-m", "model_archiver.model_packaging", "--force", "--export-path", str(store)]
        command += ["--model-name", name, "--version", "1.0", "--handler", handler, "--serialized-file", str(weights)]
        command += ["--model-file", str(_HERE / "served_network.py"), "--config-file", str(DEFAULT_CONFIG)]
        with tempfile.TemporaryDirectory() as folder:  # the archiver empties a folder of the model's name there
            subprocess.run(command, check=True, env={**os.environ, "TMPDIR": folder}, stderr=subprocess.DEVNULL)
    for number in range(_DRAWN):
        drawn = draw_random(np.random.default_rng(number), 2, 500).image[:375]  # of a photo's size
        cv2.imwrite(str(store / f"{number:02}.jpg"), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    network, folder, *store = sys.argv[1:]
    work = prepare(network, Path(folder))
    if store:
        write_archives(work, Path(store[0]))
