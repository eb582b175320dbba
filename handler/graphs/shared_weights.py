"""Sessions of ONNX Runtime that share weights: each is in memory once, however many graphs and sessions use it.

ONNX Runtime rearranges the weights of a graph for the processor, and each session keeps a copy. Here it does so once
and writes the graph that it would run; of that the weights are read, and those that are known already are not kept.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime

_FEWEST_BYTES = 1024  # of a weight that is shared
_PACKED_BYTES = 64 << 20  # of matrices that each session copies
_KNOWN: WeakValueDictionary[tuple[str, bytes], Any] = WeakValueDictionary()  # by the weight's type and shape, and hash


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that keeps the weights that it was given."""

    def __init__(self, model: str | bytes, options: Any, weights: Mapping[str, Any]) -> None:
        self._weights = weights
        super().__init__(model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A graph for as many sessions as are needed."""

    graph: str | bytes  # a file, or the content of one; without the weights
    weights: Mapping[str, Any] = field(default_factory=dict)  # onnxruntime.OrtValue by name
    size: int = 0  # bytes of all weights
    packs: bool = True  # whether sessions copy matrices; without a copy, scores depend on the batch by rounding

    @classmethod
    def of(cls, model: str | bytes, beside: Path = Path()) -> "Prepared":
        """Prepares a file or the content of one; without the package onnx, sessions have weights of their own.

        A content's weights may be in files of the folder ``beside``. Raises ONNX Runtime's exceptions, which have no
        common base, if the graph cannot be used.
        """
        try:
            import onnx
        except ImportError:
            return cls(graph=model)
        with TemporaryDirectory(prefix="graph-") as folder:
            path, data = Path(folder, "graph.onnx"), Path(folder, "weights")
            options = _options(1)
            options.optimized_model_filepath = str(path)
            for name, value in {"file_name": data.name, "min_size_in_bytes": str(_FEWEST_BYTES)}.items():
                options.add_session_config_entry(f"session.optimized_model_external_initializers_{name}", value)
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
            _Session(model, options, {})
            if not (data.exists() and data.stat().st_size):
                return cls(graph=path.read_bytes())
            graph = onnx.load(path, load_external_data=False).graph
            outside = {one.name: one for one in graph.initializer if one.external_data}
            content = np.memmap(data, np.uint8, "r")
            weights = {name: _weight(tensor, content) for name, tensor in outside.items()}
            known: Any = {"size": content.size, "packs": _packs(graph, outside)}
            return cls(graph=path.read_bytes(), weights=weights, **known)

    def session(self, threads: int) -> Any:
        """Opens an ``InferenceSession`` with so many threads for a run, 0 for one per core."""
        options = _options(threads)
        if not self.weights:
            return _Session(self.graph, options, {})
        options.add_session_config_entry("session.disable_prepacking", str(int(not self.packs)))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was optimised
        for name, weight in self.weights.items():
            options.add_initializer(name, weight)
        with TemporaryDirectory(prefix="graph-") as folder:
            Path(folder, "graph.onnx").write_bytes(self.graph)  # type: ignore[arg-type]
            Path(folder, "weights").touch()
            os.truncate(Path(folder, "weights"), self.size)  # which is not read
            return _Session(str(Path(folder, "graph.onnx")), options, self.weights)


def _weight(tensor: Any, content: Any) -> Any:
    """The weight of a tensor whose bytes are in a file; the known one, if there is an equal one."""
    import onnx

    where = {entry.key: entry.value for entry in tensor.external_data}
    start, kind = int(where["offset"]), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    values = content[start : start + int(where["length"])].view(kind).reshape(tensor.dims)
    key = f"{values.dtype} {values.shape}", hashlib.sha256(values).digest()
    if (known := _KNOWN.get(key)) is None:
        known = _KNOWN[key] = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(values))
    return known


def _packs(graph: Any, weights: Mapping[str, Any]) -> bool:
    """Whether a session may copy its matrices: they are small, or most weights are matrices, as in a transformer.

    Packing pays where a matrix multiplies many rows of a picture. In a network of convolutions it multiplies one.
    """
    users = [(node.op_type, weights.keys() & {*node.input}) for node in graph.node]
    held = [names for kind, names in users if kind.endswith(("MatMul", "Gemm")) and names]
    kernels = sum("Conv" in kind and bool(names) for kind, names in users)
    size = sum(4 * math.prod(weights[name].dims) for name in set().union(*held))
    return size <= _PACKED_BYTES or len(held) > kernels


def _options(threads: int) -> Any:
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone, which are raised, too
    # threads spin during a run, which is faster, and stop afterwards, where they would halve torch's speed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@cache
def _share_memory() -> None:
    """Lets the runs of all sessions take their memory from one place, which grows by what is needed."""
    memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    grows = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", *memory), grows)
