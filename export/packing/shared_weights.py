"""The weights of an archive's graphs, each once: in the checkpoint, or in a file of those that the checkpoint lacks."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import set_external_data

from handler.graphs.session import find_graphs, hashed, weights_file
from handler.loading import CHECKPOINT_NAME

WEIGHTS_NAME = "model.weights"  # in an archive: bytes of tensors one after the other, each at a multiple of 64
_FEWEST_BYTES = 256  # of a tensor outside of the graph, which keeps sizes and axes


def share_weights(folder: Path) -> None:
    """Takes weights out of a folder's graphs, which then refer to equal bytes of the checkpoint or of a common file.

    The references are ONNX's external data; the graphs' metadata get the SHA-256 of both files.
    """
    places, models = dict(_tensors(folder / CHECKPOINT_NAME)), {}
    with (folder / WEIGHTS_NAME).open("wb") as others:
        for path in find_graphs(folder).values():
            models[path] = onnx.load(path)
            for tensor in models[path].graph.initializer:
                if len(content := tensor.raw_data) >= _FEWEST_BYTES:
                    if (key := hashlib.sha256(content).digest()) not in places:
                        others.write(bytes(-others.tell() % 64))
                        places[key] = WEIGHTS_NAME, others.tell()
                        others.write(content)
                    set_external_data(tensor, *places[key], len(content))
                    tensor.ClearField("raw_data")
    files = {name: hashed(folder / name) for name in (CHECKPOINT_NAME, WEIGHTS_NAME)}
    for path, model in models.items():
        model.metadata_props.add(key="files", value=json.dumps(files))
        onnx.save(model, path)
        weights_file(path).unlink(missing_ok=True)


def _tensors(checkpoint: Path) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """For each tensor of a safetensors file the SHA-256 of its bytes, and the file's name and the bytes' offset."""
    content = np.memmap(checkpoint, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    for name, entry in json.loads(content[8:start].tobytes()).items():
        if name != "__metadata__":
            first, end = (start + offset for offset in entry["data_offsets"])
            yield hashlib.sha256(content[first:end].data).digest(), (checkpoint.name, first)
