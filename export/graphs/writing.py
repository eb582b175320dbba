"""Writes a graph that was verified, with its description in its metadata: whole, or not at all."""

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx

from export.verify.compare import Verdict, table
from handler.atomic_write import write_whole
from handler.graphs.description import GraphDescription
from handler.model.classifier import Classifier
from handler.model.fingerprint import hash_state


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
    verified: Callable[[], list[Verdict]],
    *,
    coverage: str = "",
    simplified: Sequence[str] = (),
) -> list[Verdict]:
    """Verifies a graph, describes it in its metadata and writes it.

    Args:
        model: the graph, without metadata.
        path: of the file.
        classifier: that it was made from.
        kind: of graph, see ``handler.graphs.description``.
        verified: compares it with PyTorch.
        coverage: how far guided backpropagation reaches, of explanations only.
        simplified: steps of ``export.simplify`` that were applied, in words.

    Returns:
        What ``verified`` returned.

    Raises:
        VerificationError: from ``verified``.
    """
    checks = verified()
    description = GraphDescription(
        kind=kind,
        architecture=classifier.architecture,
        labels=classifier.labels,
        preprocessing=classifier.preprocessing,
        weights_sha256=classifier.weights_sha256 or hash_state(classifier.module),
        versions=package_versions(),
        verification=table(checks),
        layer=classifier.default_layer,
        coverage=coverage,
        simplified=tuple(simplified),
    )
    onnx.helper.set_model_props(model, description.to_properties())
    write_model(model, path)
    return checks


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks the model with ``onnx.checker`` and writes it, whole or not at all."""
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString())


def package_versions() -> dict[str, str]:
    """The versions of the packages that have a part in a graph."""
    packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
