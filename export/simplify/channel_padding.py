"""Pads channel counts that ONNX Runtime's blocked convolutions do not take, with channels that are always zero.

Exact: an added channel is zero behind a convolution and its ReLU, and the next convolution multiplies it by zero.
"""

from collections.abc import Sequence

from torch import nn

from export.simplify.applicable import traced
from export.simplify.channels import NOTHING, behind, is_dense, reorder_inputs, reorder_outputs, way_to_dense
from export.simplify.copying import copy_of

MULTIPLE = 16  # float32 values in an AVX-512 register; ONNX Runtime's blocked layout has 8 or 16 channels in a block


def pad_channels(module: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """A copy of an eval-mode network in which inner channel counts are multiples of ``MULTIPLE``.

    The step pads channels between two dense convolutions with nothing but depthwise convolutions and ReLUs in between,
    as in ShuffleNet's branches and in inverted residuals. All other channels, and those that are returned or shared,
    stay as they are.

    Args:
        module: with batch norms folded, see ``batch_norms``; left as it is.
        keep: paths of layers whose own output matters; a chain with one of these layers is not padded.

    Raises:
        NotApplicable: the network cannot be traced.
    """
    padded = copy_of(module)
    for chain in _chains(padded):
        first, *between, last = chain
        opening = padded.get_submodule(first)
        assert isinstance(opening, nn.Conv2d)
        wide = [*range(opening.out_channels), *[NOTHING] * (-opening.out_channels % MULTIPLE)]
        inside = [first, *between]
        kept = any(path == layer or path.startswith(f"{layer}.") for path in inside for layer in keep)
        if NOTHING in wide and not kept:
            for path in inside:
                reorder_outputs(padded.get_submodule(path), wide)
            reorder_inputs(padded.get_submodule(last), wide)
    return padded


def _chains(module: nn.Module) -> list[list[str]]:
    """Paths from one dense convolution to the next: each module is called once, and read by its successor alone."""
    graph = traced(module)
    calls = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
    paths = list(calls.values())
    dense = [node for node, path in calls.items() if paths.count(path) == 1 and is_dense(module.get_submodule(path))]
    ways = [(calls[node], way_to_dense(module, graph, behind(node))) for node in dense]
    return [[first, *way] for first, way in ways if way]
