"""Folds batch norms into the convolutions before them, so that neither direction of a graph has to compute them."""

from collections.abc import Iterator, Sequence

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from export.simplify.applicable import traced
from export.simplify.copying import copy_of


def fold_batch_norms(module: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """A copy of an eval-mode network in which convolutions contain the batch norms that directly follow them.

    An identity takes the place of each such batch norm, so that module paths stay the same.

    Args:
        module: left as it is.
        keep: paths of layers whose own output matters; a convolution among them stays as it is.

    Raises:
        NotApplicable: the network cannot be traced.
    """
    folded = copy_of(module)
    for convolution_path, norm_path in _pairs(folded):
        if convolution_path in keep:
            continue
        convolution, norm = folded.get_submodule(convolution_path), folded.get_submodule(norm_path)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        if norm.running_mean is None or norm.running_var is None:
            continue  # it normalises by the batch, even in eval mode
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        folded.set_submodule(norm_path, nn.Identity())
    return folded.eval().requires_grad_(False)


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Paths of convolutions and of the batch norms that alone read their output, if each module is called once."""
    graph = traced(module)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = {path: sum(node.target == path for node in calls) for path in {str(node.target) for node in calls}}
    for node in calls:
        before = node.args[0]
        if not isinstance(module.get_submodule(str(node.target)), nn.BatchNorm2d) or not isinstance(before, fx.Node):
            continue
        if before.op != "call_module" or not isinstance(module.get_submodule(str(before.target)), nn.Conv2d):
            continue
        if len(before.users) == 1 and times[str(node.target)] == times[str(before.target)] == 1:
            yield str(before.target), str(node.target)
