"""Runs graphs of every kind with old ONNX Runtimes: ``python -m tests.support.old_runtimes``. Needs a package index.

Each runtime gets an environment of its own, without torch; its answers must be those of the runtime in constraints.txt.
"""

import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.verify.compare import Floats, fresh_pictures
from handler.client.model import GraphModel
from handler.explanation.evidence import TOP
from handler.graphs.description import KIND_PREDICTION, KINDS
from handler.graphs.session import GraphSession
from handler.rendering.render import encode_png

RUNTIMES = {  # to the numpy that it was built for
    "1.15.1": "numpy<2",
    "1.17.3": "numpy<2",
    "1.20.1": "numpy<3",
}
CLOSE = 1e-5  # of an output's largest value
OUT = Path("out/old-runtimes")
PICTURES = 3  # that the bare graphs are asked for
_PACKAGES = ("opencv-python-headless", "pillow")  # they run with either numpy


def write_graphs(folder: Path) -> None:
    """The embedded model's three graphs, and those of a transformer, which has a saliency graph."""
    from examples.random_weights import random_classifier
    from handler.model.sources import load_classifier
    from tests.support.exports import export_explanation, export_gradcam, export_prediction

    shapes, swin = load_classifier(checkpoint="examples/shapes/shapes.safetensors"), random_classifier("swin_t", 64)
    for classifier in (shapes, swin):
        export_prediction(classifier, folder / f"{classifier.architecture}.onnx")
        export_gradcam(classifier, folder / f"{classifier.architecture}.gradcam.onnx")
        export_explanation(classifier, folder / f"{classifier.architecture}.explain.onnx")


def python_with(runtime: str) -> Path:
    """The interpreter of an environment with that ONNX Runtime, made if need be."""
    folder = OUT / f"onnxruntime-{runtime}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, f"onnxruntime=={runtime}", RUNTIMES[runtime]], check=True)
        subprocess.run([*install, "--no-deps", "-c", "constraints.txt", *_PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def answers(path: Path) -> Mapping[str, Floats]:
    """Output of a graph to values on fixed pictures, and what a client says of one: its best classes' probabilities."""
    graph = GraphSession.open(path)
    known, kind = graph.description, KINDS[graph.description.kind]
    pictures = fresh_pictures(np.random.default_rng(3), PICTURES, known.preprocessing)
    feeds = {"input": pictures, "target": np.array([TOP, 0, len(known.labels) - 1])}
    outputs = list(known.outputs)
    found = graph.infer({name: feeds[name] for name in kind.inputs}, outputs)
    upload = encode_png(np.random.default_rng(4).integers(0, 256, (90, 70, 3), np.uint8))
    result = GraphModel(path).explain(upload)
    if known.kind != KIND_PREDICTION:
        result.sheet()
    client = [one.probability for one in result.predictions]
    return {**dict(zip(outputs, found, strict=True)), "client": np.array(client, np.float32)}


def answers_of(python: Path | str, graphs: Path, name: str) -> dict[str, np.ndarray]:
    """What an interpreter's ONNX Runtime answers with each graph of a folder, by "graph output"."""
    file = OUT / f"{name}.npz"
    subprocess.run([str(python), "-m", "tests.support.old_runtimes", str(graphs), str(file)], check=True)
    with np.load(file) as found:
        return dict(found)


def differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each output, of its largest value."""
    if set(found) != set(expected):
        raise ValueError(f"one runtime answers {sorted(found)}, the other {sorted(expected)}")
    return {name: float(np.abs(found[name] - values).max() / np.abs(values).max()) for name, values in expected.items()}


def main() -> int:
    """Exit status 1 if a runtime's answers are others."""
    graphs = OUT / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)
    write_graphs(graphs)
    newest = answers_of(sys.executable, graphs, "newest")
    bad = 0
    for runtime in RUNTIMES:
        apart = differences(answers_of(python_with(runtime), graphs, runtime), newest)
        beyond = {name: error for name, error in apart.items() if not error <= CLOSE}
        bad += len(beyond)
        print(f"ONNX Runtime {runtime}: {len(apart)} outputs, largest difference {max(apart.values()):.1e}", flush=True)
        for name, error in beyond.items():
            print(f"  {name} DIFFERS: {error:.1e} of the largest")
    return int(bad > 0)


if __name__ == "__main__":
    if arguments := [Path(one) for one in sys.argv[1:]]:  # the graphs, and the file for their answers
        found = {path.name: answers(path) for path in sorted(arguments[0].glob("*.onnx"))}
        named: dict[str, Any] = {f"{graph} {name}": its[name] for graph, its in found.items() for name in its}
        np.savez(arguments[1], **named)
    else:
        sys.exit(main())
