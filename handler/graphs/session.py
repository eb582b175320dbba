"""Opens graphs in ONNX Runtime, as no other file does; refuses foreign files, and graphs of another model."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from handler.errors import ModelError
from handler.explanation.evidence import Floats
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import KIND_PREDICTION, KINDS, GraphDescription, Origin
from handler.graphs.shared_weights import Prepared

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class GraphSession:
    """An open graph. Runs may overlap."""

    description: GraphDescription
    prepared: Prepared  # for further sessions
    session: Any  # onnxruntime.InferenceSession, which has no types
    path: Path = Path()
    sha256: str = ""  # of the file, and of its weights' file, if there is one
    threads: int = 0  # of a run; 0: one per core

    @classmethod
    def open(cls, path: Path, kind: str | None = None, *, threads: int = 0, shared: bool = False) -> "GraphSession":
        """Opens a graph of a kind, a key of ``KINDS``, or of any; a ModelError says why the file is no such graph.

        With ``shared`` the session takes equal weights from other sessions, for which the package onnx is needed.
        """
        if not path.is_file():
            commands = "`shufflenet-cam prediction`, `explanation` and `gradcam`"
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ModelError(f"graph {path} {what}; {commands} write graphs")
        prepared, session = _load(path, str(path), threads, shared)
        try:
            description = GraphDescription.from_properties(session.get_modelmeta().custom_metadata_map)
        except ModelError as error:
            raise ModelError(f"graph {path}: {error}") from error
        needed = [kind] if kind else KINDS
        if description.kind not in needed:
            raise ModelError(f"graph {path} is of the kind {description.kind!r}, needed is {' or '.join(needed)}")
        if description.takes:  # this program prepares pictures itself, and notes where the crop lies
            prepared, session = _load(path, taking_input(path.read_bytes()), threads, shared)
        _check_signature(path, session, description)
        check_files(path.parent, description.files, str(path))
        known: Any = {"path": path, "sha256": hashed(path), "threads": threads, "prepared": prepared}
        return cls(description=description, session=session, **known)

    def with_threads(self, threads: int) -> "GraphSession":
        """The graph with another number of threads, which takes a new session."""
        return replace(self, session=self.prepared.session(threads), threads=threads)

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> list[Floats]:
        """The wanted outputs for an array for each of the graph's inputs, by name; the first axis is the batch.

        An array with one row counts for all rows of the others. A picture's outputs do not depend on the batch: without
        packed matrices, pictures run one by one.
        """
        count, size = max(map(len, inputs.values())), self.description.batch or int(not self.prepared.packs)
        if not size:
            return list(self.session.run(list(outputs), dict(inputs)))
        parts = []
        for start in range(0, count, size):  # of a fixed number of pictures the last run has some twice
            rows = np.minimum(np.arange(start, start + size), count - 1)
            given = {name: values[np.minimum(rows, len(values) - 1)] for name, values in inputs.items()}
            parts.append(self.session.run(list(outputs), given))
        return [np.concatenate(found)[:count] for found in zip(*parts, strict=True)]

    def infer_targets(self, picture: Floats, of_targets: Arrays, outputs: Sequence[str]) -> list[Floats]:
        """The outputs (M, …) of a picture (1, C, H, W) and M targets' inputs (M, …), which share one half."""
        count = len(next(iter(of_targets.values())))
        if self.description.batch:
            return self.infer({"input": picture.repeat(count, 0), **of_targets}, outputs)
        rows = [{name: values[row : row + 1] for name, values in of_targets.items()} for row in range(count)]
        first, second = self._halves or (None, self.session)
        found = {"input": picture}
        if first:
            names = [output.name for output in first.get_outputs()]
            found |= zip(names, first.run(names, found), strict=True)
        asked = [name for name in outputs if name not in found]
        if asked:
            saved = {value.name: found[value.name] for value in second.get_inputs() if value.name in found}
            parts = [second.run(asked, {**saved, **row}) for row in rows]
            found |= dict(zip(asked, map(np.concatenate, zip(*parts, strict=True)), strict=True))
        return [np.broadcast_to(found[name], (count, *found[name].shape[1:])) for name in outputs]

    @cached_property
    def _halves(self) -> tuple[Any, Any] | None:
        """The halves of ``_split``; None without onnx, or for files that have changed."""
        with suppress(ImportError, OSError, ValueError, ModelError):
            check_files(self.path.parent, self.description.files, str(self.path))
            content = self.path.read_bytes()
            if hashed(self.path) == self.sha256:
                halves = _split(taking_input(content) if self.description.takes else content)
                first, second = (_load(self.path, half, self.threads)[1] if half else None for half in halves)
                return first, second
        return None


def find_graphs(folder: Path) -> dict[str, Path]:
    """The paths of a folder's graphs by kind; the file's name tells the kind."""
    return {kind: path for kind, known in KINDS.items() if (path := folder / known.file).exists()}


def open_graphs(folder: Path, origin: Origin, *, threads: int) -> dict[str, GraphSession]:
    """Opens the graphs of an unpacked archive, at least one, by kind; a ModelError names one that is refused."""
    paths = find_graphs(folder)
    if not paths:
        raise ModelError(f"{folder} holds no graph, valid are {', '.join(known.file for known in KINDS.values())}")
    graphs = {kind: GraphSession.open(path, kind, threads=threads, shared=True) for kind, path in paths.items()}
    for kind, graph in graphs.items():
        check_origin(paths[kind], graph.description, origin)
    layers = {graph.description.layer for kind, graph in graphs.items() if kind != KIND_PREDICTION}
    if len(layers) > 1:
        raise ModelError(f"the graphs in {folder} were made for different layers: {', '.join(sorted(layers))}")
    return graphs


def check_origin(path: Path, description: GraphDescription, origin: Origin) -> None:
    """Raises ModelError if a graph was made from another model; the message names what differs."""
    differing = [part for part in vars(origin) if getattr(description, part) != getattr(origin, part)]
    if differing:
        parts = " and ".join(part.replace("weights_sha256", "weights") for part in differing)
        raise ModelError(f"graph {path} was made for other {parts} than the model's; export it from the same model")


def weights_file(path: Path) -> Path:
    """The file beside a graph's file that holds the weights, as ONNX's external data, where they exceed 2 GB."""
    return path.with_name(f"{path.name}.data")


def hashed(path: Path) -> str:
    """The SHA-256 of a graph's file and, where the weights have a file beside it, of both files."""
    digest = hashlib.sha256()
    for part in filter(Path.exists, (path, weights_file(path))):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def check_files(folder: Path, files: Mapping[str, str], of: str) -> None:
    """Raises ModelError unless the folder holds files of these names with these values of ``hashed``."""
    for name, expected in files.items():
        if Path(name).name != name or not (folder / name).is_file() or hashed(folder / name) != expected:
            raise ModelError(f"{name} of {of} is missing or was changed since it was packed; pack the archive anew")


def _load(path: Path, model: str | bytes, threads: int, shared: bool = True) -> tuple[Prepared, Any]:
    """Opens a file, or the content of a graph that was made of it."""
    try:
        prepared = Prepared.of(model, path.parent) if shared else Prepared(graph=model)
        return prepared, prepared.session(threads)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base
        raise ModelError(f"graph {path} cannot be loaded by ONNX Runtime: {_explained(str(error))}") from error


def _explained(message: str) -> str:
    """ONNX Runtime's message in one line, with its messages about versions in plain words."""
    about = f"ONNX Runtime {onnxruntime.__version__} reads"
    if found := re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", message):
        return f"the file has ONNX IR version {found[1]}, {about} at most {found[2]}"
    if found := re.search(r"Opset (\d+) is under development.*till opset (\d+)", message, re.DOTALL):
        return f"the file has opset {found[1]}, {about} at most {found[2]}"
    return " ".join(message.rpartition(" FAIL : ")[2].split())[:300]  # the innermost of several


def _check_signature(path: Path, session: Any, description: GraphDescription) -> None:
    """Checks names, types and shapes of the inputs and outputs."""
    shapes = _shapes(description)
    inputs = {tensor.name: tensor for tensor in (*session.get_inputs(), *session.get_overridable_initializers())}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    wanted = {"inputs": (*description.inputs, *description.optional), "outputs": description.outputs}
    for (what, names), found in zip(wanted.items(), (inputs, outputs), strict=True):
        if {*found} != {*names}:
            raise ModelError(f"graph {path} has the {what} {', '.join(found)}, needed are {', '.join(names)}")
    for name, tensor in {**inputs, **outputs}.items():
        needed, shape = "tensor(int64)" if name == "target" else "tensor(float)", shapes[name]
        if tensor.type != needed or not _fits(tensor.shape, shape, description.batch):
            raise ModelError(f"graph {path}: {name} is {tensor.type} {tensor.shape}, needed is {needed} {shape}")


def _shapes(description: GraphDescription) -> dict[str, list[int | str]]:
    """The shapes of inputs and outputs; a name stands for any size, "batch" for the size that each run chooses."""
    classes, pictures, cells = len(description.labels), description.preprocessing.shape, ("height", "width")
    shapes: dict[str, list[int | str]] = {
        "target": ["batch"],
        "weights": ["rows", classes],
        **dict.fromkeys(("logits", "probabilities"), ["batch", classes]),
        **dict.fromkeys(("input", "guided_backprop", "saliency"), ["batch", *pictures]),
        **dict.fromkeys(ATTENTION_METHODS, ["batch", *cells]),
    }
    for ending in ("", *description.layers.values()):
        shapes |= dict.fromkeys((f"activations{ending}", f"gradients{ending}"), ["batch", "channels", *cells])
        shapes[f"gradcam{ending}"] = ["batch", *cells]
    return shapes


def _fits(found: list[int | str | None], needed: list[int | str], batch: int) -> bool:
    if len(found) != len(needed):
        return False
    free = not isinstance(found[0], int)
    first = found[0] == batch or (free and needed[0] == "rows") if batch else free
    return first and all(isinstance(size, str) or size == given for size, given in zip(needed, found, strict=True))


def _split(content: bytes) -> list[bytes]:
    """A graph as two, empty without outputs: what depends on the picture alone, which targets share, and the rest.

    The first takes ``input``. Its outputs are the graph's own outputs that no target changes, and the values that the
    second graph takes beside the graph's other inputs. The outputs of the second are the rest of the graph's outputs.
    """
    import onnx  # not above: graphs are opened without it
    from onnx.utils import Extractor

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))  # names the types of all values
    graph, others = model.graph, [value.name for value in model.graph.input if value.name != "input"]
    of_target = _reached(graph, others)
    before = _reached(graph, ["input"]) - of_target
    users = [node for node in graph.node if of_target & {*node.output}]
    saved = dict.fromkeys(name for node in users for name in node.input if name in before)
    outputs = [value.name for value in graph.output]
    kept = dict.fromkeys([*saved, *(name for name in outputs if name not in of_target)])
    first = ["input"], [name for name in kept if name != "input"]
    second = [*saved, *others], [name for name in outputs if name in of_target]
    extractor = Extractor(model)
    return [extractor.extract_model(*names).SerializeToString() if names[1] else b"" for names in (first, second)]


def taking_input(content: bytes) -> bytes:
    """The graph that takes ``input``, of one that takes pictures; ModelError where the package onnx is missing."""
    try:
        import onnx  # not above: other graphs are opened without it
        from onnx.utils import Extractor
    except ImportError as error:
        advice = "install the package onnx, or take a graph that was exported without --pictures"
        raise ModelError(f"the graph takes pictures as they are, and here its input is needed; {advice}") from error
    model = onnx.load_from_string(content)
    inputs = ["input", *(value.name for value in model.graph.input if value.name != "picture")]
    outputs = [value.name for value in model.graph.output if value.name != "crop"]
    return bytes(Extractor(model).extract_model(inputs, outputs).SerializeToString())


def _reached(graph: Any, names: Iterable[str]) -> set[str]:
    """The values that depend on others, and these; the nodes are in topological order."""
    found = {*names}
    for node in graph.node:
        if found & {*node.input}:
            found |= {*node.output}
    return found
