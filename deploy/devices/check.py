"""Which operators of a graph the runtimes for devices are not known to take, by the tables in ``targets.toml``."""

import tomllib
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from handler.errors import ModelError

_TABLES = Path(__file__).with_name("targets.toml")
_STANDARD = "", "ai.onnx"  # ONNX's own domain


def targets() -> dict[str, dict[str, Any]]:
    """The tables of the targets, by their short names: such as ``webgpu``."""
    return tomllib.loads(_TABLES.read_text("utf-8"))


def read_graph(path: Path) -> onnx.ModelProto:
    """Reads a graph without its weights' file; a ModelError says that the file is none, or cannot be read."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's, which have no common base with the system's
        raise ModelError(f"{path} is no ONNX file: {' '.join(str(error).split())[:200]}") from error
    if not any(one.domain in _STANDARD for one in model.opset_import):
        raise ModelError(f"{path} is no ONNX file: it names no opset")
    return model


def missing(model: onnx.ModelProto, target: Mapping[str, Any]) -> dict[str, int]:
    """What a target is not known to take of a graph, and how many nodes that concerns; empty if it takes all.

    Nodes of constants alone do not count, because runtimes compute them once, before they look at devices.
    """
    graph, opset = model.graph, next(one.version for one in model.opset_import if one.domain in _STANDARD)
    given = {one.name for one in graph.input if model.ir_version >= 4}  # before, each initializer is an input, too
    constants, found = {tensor.name for tensor in graph.initializer} - given, Counter[str]()
    versions = {name: said for said, names in target["operators"].items() for name in names.split()}
    if not _holds(target.get("opsets", "any"), opset):
        found[f"opset {opset}, known are {target['opsets']}"] = len(graph.node)
    sizes = [one.type.tensor_type.shape.dim for one in graph.input]
    if target.get("fixed_shapes") and any(size.dim_param for dims in sizes for size in dims):
        found["inputs with a free batch"] = 1
    for node in _nodes(graph, constants):
        found.update(_lacks(node, opset, constants, target, versions.get(node.op_type, "")))
    return dict(found)


def _nodes(graph: onnx.GraphProto, constants: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes that are not of constants alone, those of inner graphs, too; the constants' names are added."""
    for node in graph.node:
        inner = [one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
        if not inner and {*node.input} - {""} <= constants:
            constants |= {*node.output}
            continue
        yield node
        for one in inner:
            constants |= {tensor.name for tensor in one.initializer}
            yield from _nodes(one, constants)


def _lacks(
    node: onnx.NodeProto, opset: int, constants: set[str], target: Mapping[str, Any], versions: str
) -> Iterator[str]:
    if node.domain not in _STANDARD:
        yield f"{node.domain}:{node.op_type}"
    elif not versions:
        yield node.op_type
    elif not _holds(versions, since := onnx.defs.get_schema(node.op_type, opset).since_version):
        yield f"{node.op_type} of opset {since}"
    elif node.op_type in target.get("one_output", "").split() and len([*filter(None, node.output)]) > 1:
        yield f"{node.op_type} with a second output"
    elif node.op_type in target.get("unreduced", "").split() and any(
        one.s not in (b"", b"none") for one in node.attribute
    ):
        yield f"{node.op_type} with a reduction"
    else:
        known = target.get("constant", {}).get(node.op_type, ())
        if any(node.input[place : place + 1] and node.input[place] not in {"", *constants} for place in known):
            yield f"{node.op_type} by values that are not constant"


def _holds(said: str, version: int) -> bool:
    """Whether "any", or one of versions and ranges such as "6-12 13", has a version in it."""
    ranges = [part.partition("-") for part in said.split()]
    return said == "any" or any(int(low) <= version <= int(high or low) for low, _, high in ranges)


def report(path: Path) -> Iterator[tuple[str, str]]:
    """For each target its name, and as text the nodes that the target is not known to take; empty if there are none."""
    model = read_graph(path)
    for name, target in targets().items():
        yield name, ", ".join(f"{what} ({count})" for what, count in sorted(missing(model, target).items()))


def print_report(path: Path) -> dict[str, str]:
    """Prints ``report``, a line for each target, and returns it."""
    found = dict(report(path))
    for name, lacking in found.items():
        print(f"{name:<13} {f'not known to take {lacking}' if lacking else 'takes the whole graph'}")
    return found


def devices(options: Namespace) -> int:
    """The command ``devices``; returns 1 if ``--target`` is not known to take the whole graph."""
    if options.sources:
        for name, target in targets().items():
            print(f"{name:<13} {target['name']}: {target['source']}; {target['as_of']}")
    return int(bool(print_report(options.file).get(options.target)))
