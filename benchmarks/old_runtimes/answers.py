"""What an environment's ONNX Runtime answers with each graph of a folder.

Runs without torch, on fixed pictures: the bare graphs, and a picture through the project's own client.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.verify.compare import Floats, fresh_pictures
from handler.client.graph import GraphModel
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.graphs.session import GraphSession
from handler.rendering.render import encode_png

PICTURES = 3


def answers(path: Path) -> Mapping[str, Floats]:
    """Output to values, and what a client says of one picture: its best classes' probabilities."""
    graph = GraphSession.open(path)
    known = graph.description
    pictures = fresh_pictures(np.random.default_rng(3), PICTURES, known.preprocessing)
    targets = {"target": np.array([TOP, 0, len(known.labels) - 1])} if "target" in KINDS[known.kind].inputs else {}
    outputs = list(KINDS[known.kind].outputs)
    found = dict(zip(outputs, graph.infer({"input": pictures, **targets}, outputs), strict=True))
    return found | {"client": np.array(_probabilities(path, known.kind), np.float32)}


def _probabilities(path: Path, kind: str) -> list[float]:
    upload = encode_png(np.random.default_rng(4).integers(0, 256, (90, 70, 3), np.uint8))
    result = GraphModel(path).explain(upload)
    if kind != KIND_PREDICTION:
        result.sheet()
    return [one.probability for one in result.predictions]


def main(folder: Path, file: Path) -> None:
    """Writes the answers of all graphs as one file, by "graph output"."""
    found = {path.name: answers(path) for path in sorted(folder.glob("*.onnx"))}
    named: dict[str, Any] = {
        f"{graph} {name}": values for graph, each in found.items() for name, values in each.items()
    }
    np.savez(file, **named)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
