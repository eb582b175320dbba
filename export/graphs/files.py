"""Writes a graph whole or not at all: one file, or two where the weights are too large for one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from handler.graphs.session import weights_file

LARGEST = 2**31 - 2**26  # bytes of weights in the graph's own file, which protobuf limits to 2 GB


@contextmanager
def whole_graph(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Writes a graph elsewhere, and yields its path; the files take their places if the block raises no exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graph-", dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST
        onnx.save(model, unfinished, save_as_external_data=external, location=weights_file(path).name)
        yield unfinished
        weights_file(path).unlink(missing_ok=True)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # the weights first
            os.replace(file, path.with_name(file.name))
