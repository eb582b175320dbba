"""What a step of simplifying says where it does not fit a network."""

from torch import fx, nn

from handler.errors import in_one_line


class NotApplicable(Exception):
    """The step does not fit this network, which stays as it is; the message says why."""


def traced(module: nn.Module, tracer: fx.Tracer | None = None) -> fx.Graph:
    """The graph that ``torch.fx`` makes of a network.

    Raises:
        NotApplicable: its forward cannot be traced, as one that branches on values.
    """
    try:
        return (tracer or fx.Tracer()).trace(module)
    except Exception as error:  # the network's own code, run with proxies, raises whatever it stumbles over
        raise NotApplicable(f"torch.fx cannot trace {type(module).__name__} ({in_one_line(error)})") from error
