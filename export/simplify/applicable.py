"""The error of a simplification that does not fit a network."""

from torch import fx, nn

from handler.errors import in_one_line


class NotApplicable(Exception):
    """A step of simplification does not fit this network; the message says why."""


def traced(module: nn.Module, tracer: fx.Tracer | None = None) -> fx.Graph:
    """The graph that ``torch.fx`` makes of a network.

    Raises:
        NotApplicable: the network's forward cannot be traced, because it branches on values for instance.
    """
    try:
        return (tracer or fx.Tracer()).trace(module)
    except Exception as error:  # the network's own code may raise anything when it runs with proxies
        raise NotApplicable(f"torch.fx cannot trace {type(module).__name__} ({in_one_line(error)})") from error
