"""The archives that are served: ours, the plain handler around pytorch-grad-cam, TorchServe's stock one. Same weights.

``python -m benchmarks.archives WORK STORE``: a process of its own, because it loads torch.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.ratios import NAIVE, OURS, STOCK
from benchmarks.work import Work
from examples.shapes.draw import draw_random
from export.packing.archive import DEFAULT_CONFIG, write_archive
from handler.model.checkpoint import read_checkpoint

_HERE = Path(__file__).parent
_HANDLERS = {NAIVE: str(_HERE / "naive_handler.py"), STOCK: "image_classifier"}
PICTURES = "{:02}.jpg"  # in the store's folder pictures


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
    _draw_pictures(store / "pictures")


def _draw_pictures(folder: Path, count: int = 16) -> None:
    """Drawn pictures of a photo's size as JPEG files."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        drawn = draw_random(np.random.default_rng(number), 2, 500).image[:375]
        cv2.imwrite(str(folder / PICTURES.format(number)), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    write_archives(Work.read(Path(sys.argv[1])), Path(sys.argv[2]))
