"""What all contenders work on: one network's weights, pictures and graphs in a folder. Loads no torch."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handler.explanation.evidence import Floats
from handler.picture.preprocess import Preprocessing

PREDICT, GRADCAM, EXPLAIN = "predict", "gradcam", "explain"
GRADCAM_OF_FIVE, EXPLAIN_OF_FIVE = "gradcam of five", "explain of five"  # classes
OURS, NAIVE, STOCK = "ours", "naive", "stock"  # archives that are served
TASKS = (PREDICT, GRADCAM, EXPLAIN, GRADCAM_OF_FIVE, EXPLAIN_OF_FIVE)
KEY_NETWORK = "shufflenet_v2_x2_0"
NETWORKS = (KEY_NETWORK, "resnet18", "resnet50", "mobilenet_v2", "vgg16")
PICTURES = "pictures.npy"
_DESCRIPTION = "work.json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One network with random weights, ready for every contender."""

    folder: Path  # of the files above and the graphs model.onnx, model.gradcam.onnx, model.explain.onnx
    network: str  # a torchvision registry name
    layer: str  # module path of the layer that Grad-CAM looks at
    labels: list[str]
    preprocessing: Preprocessing
    weights_sha256: str
    stamp: str  # of the code and the package versions that wrote the folder

    @classmethod
    def read(cls, folder: Path) -> "Work":
        """Reads what ``write`` wrote."""
        content = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        return cls(**content | {"folder": folder, "preprocessing": Preprocessing.from_json(content["preprocessing"])})

    def write(self) -> None:
        """Writes the description; last of all files, so that a folder that has one is complete."""
        content = {**vars(self), "folder": None, "preprocessing": self.preprocessing.to_json()}
        (self.folder / _DESCRIPTION).write_text(json.dumps(content), encoding="utf-8")

    @property
    def checkpoint(self) -> Path:
        """The weights as safetensors, with the project's description in its metadata."""
        return self.folder / "model.safetensors"

    def pictures(self) -> Floats:
        """(P, 3, H, W), normalised, no two alike."""
        pictures: Floats = np.load(self.folder / PICTURES)
        return pictures


def batches(pictures: Floats, size: int) -> Iterator[Floats]:
    """Batches (size, 3, H, W) of different pictures, one after the other and round again: nothing can be cached.

    Raises:
        ValueError: too few pictures for two batches.
    """
    if size * 2 > len(pictures):
        raise ValueError(f"{len(pictures)} pictures are too few for batches of {size} that differ")
    starts = range(0, len(pictures) - size + 1, size)
    return itertools.cycle([np.ascontiguousarray(pictures[start : start + size]) for start in starts])
