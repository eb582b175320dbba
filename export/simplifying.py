"""A network as it is exported: batch norms folded, channel counts padded. Exact up to rounding."""

import copy
import logging
from collections.abc import Sequence

from torch import fx, nn

from export.folding import fold_batch_norms
from export.padding import pad_channels

logger = logging.getLogger(__name__)


def simplified(module: nn.Module, keep: Sequence[str] = ()) -> nn.Module:
    """A copy with fewer and faster operators; of what ``torch.fx`` cannot trace, a plain copy.

    Args:
        module: in eval mode; left as it is.
        keep: paths of layers whose own output matters.
    """
    try:
        fx.symbolic_trace(module)
    except Exception as error:  # a forward that branches on values raises whatever it stumbles over
        logger.info("exported without simplifying it: torch.fx cannot trace the network (%s)", error)
        return copy.deepcopy(module).eval().requires_grad_(False)
    return pad_channels(fold_batch_norms(module, keep), keep)
