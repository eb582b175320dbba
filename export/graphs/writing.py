"""Writes a graph that was verified, with its description in its metadata: whole, or not at all."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx

from export.verify.compare import Verdict, table
from export.verify.reference import verify_graph
from export.verify.runtime import graph_run
from handler.atomic_write import write_whole
from handler.engine_choice import origin_of
from handler.graphs.description import GraphDescription
from handler.model.classifier import Classifier


@contextmanager
def no_older_file(path: Path) -> Iterator[None]:
    """Removes the file if the block fails: an older graph must not be taken for the one that could not be made."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_verified(
    model: onnx.ModelProto,
    path: Path,
    classifier: Classifier,
    kind: str,
    *,
    coverage: str = "",
    simplified: Sequence[str] = (),
) -> list[Verdict]:
    """Compares a graph with PyTorch, describes the graph in its metadata and writes it.

    Args:
        model: the graph, without metadata.
        path: of the file.
        classifier: the graph was made from it.
        kind: of graph, see ``handler.graphs.description``.
        coverage: how many activations guided backpropagation reaches, as text; for explanations only.
        simplified: the steps of ``export.simplify`` that were applied, in words.

    Returns:
        The comparison, one entry per output and batch size.

    Raises:
        NotExportableError: ONNX Runtime does not load the graph.
        VerificationError: the graph differs from PyTorch.
    """
    checks = verify_graph(graph_run(model), classifier, kind)
    description = GraphDescription(
        **vars(origin_of(classifier)),
        kind=kind,
        versions=_versions(),
        verification=table(checks),
        layer=classifier.default_layer,
        coverage=coverage,
        simplified=tuple(simplified),
    )
    onnx.helper.set_model_props(model, description.to_properties())
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString())
    return checks


def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
