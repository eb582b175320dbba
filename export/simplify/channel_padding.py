"""Pads channel counts that ONNX Runtime's blocked convolutions do not take, with channels that are always zero.

Exact: an added channel is zero behind a convolution and its ReLU, and the next convolution multiplies it by zero.
"""

from collections.abc import Sequence

from torch import nn

from export.simplify.applicable import traced
from export.simplify.channels import ELEMENTWISE, NOTHING, is_dense, is_depthwise, reorder_inputs, reorder_outputs
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
        if NOTHING in wide and not _kept((first, *between), keep):
            for path in (first, *between):
                if isinstance(convolution := padded.get_submodule(path), nn.Conv2d):
                    reorder_outputs(convolution, wide)
            reorder_inputs(padded.get_submodule(last), wide)
    return padded


def _chains(module: nn.Module) -> list[list[str]]:
    """Paths from one dense convolution to the next: each module is called once, and read by its successor alone."""
    calls = [node for node in traced(module).nodes if node.op == "call_module"]
    paths = [str(node.target) for node in calls]
    chains = []
    for node in calls:
        if not is_dense(module.get_submodule(str(node.target))):
            continue
        chain = [node]
        while len(chain[-1].users) == 1:
            following = next(iter(chain[-1].users))
            if following.op != "call_module":
                break
            chain.append(following)
            if not _passes(module.get_submodule(str(following.target))):
                break
        ends = is_dense(module.get_submodule(str(chain[-1].target))) and len(chain) > 1
        if ends and all(paths.count(str(link.target)) == 1 for link in chain):
            chains.append([str(link.target) for link in chain])
    return chains


def _kept(paths: Sequence[str], keep: Sequence[str]) -> bool:
    """Whether one of the paths, or a module around it, is to be kept."""
    return any(path == kept or path.startswith(f"{kept}.") for path in paths for kept in keep)


def _passes(module: nn.Module) -> bool:
    """Whether a channel that is zero before it is zero behind it, and touches no other channel."""
    return isinstance(module, ELEMENTWISE) or is_depthwise(module)
