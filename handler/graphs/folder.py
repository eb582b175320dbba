"""Finds and opens the graphs of an archive, and refuses graphs that were not made from the archive's model."""

from pathlib import Path

from handler.errors import ModelError
from handler.graphs.description import KIND_PREDICTION, KINDS, GraphDescription, Origin
from handler.graphs.session import GraphSession


def find_graphs(folder: Path) -> dict[str, Path]:
    """The paths of a folder's graphs by kind; the file's name tells the kind."""
    files = {kind: folder / known.file for kind, known in KINDS.items()}
    return {kind: path for kind, path in files.items() if path.exists()}


def open_graphs(folder: Path, origin: Origin, *, threads: int) -> dict[str, GraphSession]:
    """Opens the graphs of an unpacked archive, at least one, by kind; a ModelError names one that is refused."""
    paths = find_graphs(folder)
    if not paths:
        raise ModelError(f"{folder} holds no graph, valid are {', '.join(known.file for known in KINDS.values())}")
    graphs = {kind: GraphSession.open(path, kind, threads=threads) for kind, path in paths.items()}
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
