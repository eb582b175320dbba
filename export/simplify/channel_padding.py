"""Pads channel counts that ONNX Runtime's blocked convolutions do not take, with channels that are always zero.

Exact: what is added is zero behind a convolution and its ReLU, and multiplied by zero before the next convolution.
"""

from collections.abc import Sequence

from torch import nn

from export.simplify.applicable import traced
from export.simplify.channels import NOTHING, is_dense, is_depthwise, reorder_inputs, reorder_outputs
from export.simplify.copying import copy_of

MULTIPLE = 16  # float32 values in an AVX-512 register; ONNX Runtime's blocked layout has 8 or 16 channels in a block
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)  # what keeps a zero zero


def pad_channels(module: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """A copy of an eval-mode network in which inner channel counts are multiples of ``MULTIPLE``.

    Padded is what lies between two dense convolutions with nothing but depthwise convolutions and ReLUs in between:
    ShuffleNet's branches, inverted residuals. All else, and all that is returned or shared, stays as it is.

    Args:
        module: with batch norms folded, see ``batch_norms``; left as it is.
        keep: paths of layers whose own output matters; a chain that one of them is part of is not padded.

    Raises:
        NotApplicable: the network cannot be traced.
    """
    padded = copy_of(module)
    for chain in _chains(padded):
        first, *between, last = chain
        width = _width(padded.get_submodule(first))
        wide = [*range(width), *[NOTHING] * (-width % MULTIPLE)]
        inside = [path for path in chain if path != last]
        if len(wide) > width and not _kept(inside, keep):
            for path in (first, *between):
                if isinstance(convolution := padded.get_submodule(path), nn.Conv2d):
                    reorder_outputs(convolution, wide)
            reorder_inputs(padded.get_submodule(last), wide)
    return padded


def _chains(module: nn.Module) -> list[list[str]]:
    """Paths from one dense convolution to the next, each module called once and read by the next one alone."""
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
        if ends and all(paths.count(str(one.target)) == 1 for one in chain):
            chains.append([str(one.target) for one in chain])
    return chains


def _kept(paths: Sequence[str], keep: Sequence[str]) -> bool:
    """Whether one of the paths, or a module around it, is to be kept."""
    return any(path == one or path.startswith(f"{one}.") for path in paths for one in keep)


def _passes(module: nn.Module) -> bool:
    """Whether a channel that is zero before it is zero behind it, and touches no other channel."""
    return isinstance(module, _ELEMENTWISE) or is_depthwise(module)


def _width(module: nn.Module) -> int:
    assert isinstance(module, nn.Conv2d)
    return module.out_channels
