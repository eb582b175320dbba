"""Traces the maps of a vision transformer's attention: the eager functions of ``handler.autograd.attention``."""

import torch
from torch import fx

from export.errors import NotExportableError, network_code
from export.tracing.explanation import classes_of, traced
from export.tracing.exportable import check_exportable
from export.tracing.poles import has_poles
from handler.autograd.attention import attend, relevance
from handler.explanation.methods import ATTENTION_METHODS, METHODS, OF_BLOCKS
from handler.model.classifier import Classifier


def trace_attention(classifier: Classifier) -> fx.GraphModule:
    """Traces scores, and the maps of all methods of attention, of pictures (N, 3, H, W) and targets (N).

    The two forward passes, with and without the scores of blocks, become one where they compute the same.

    Raises:
        NoRuleError: the trace has backward operators without a rule.
        NotExportableError: the network has no such maps, cannot be traced, or is too large for one file.
    """
    layout, module = classifier.attention, classifier.module
    if isinstance(layout, str):
        raise NotExportableError(f"{classifier.architecture} has no maps of attention: {layout}")
    check_exportable(classifier)
    side = classifier.preprocessing.crop_size
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with network_code(f"{classifier.architecture} cannot be explained"):
        poles = has_poles(attend(module, example, layout, by_block=True).explained)

    def explain(pictures: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        passes = {by_block: attend(module, pictures, layout, by_block=by_block) for by_block in (False, True)}
        scores = passes[False].scores
        classes, methods = classes_of(target, scores), [METHODS[name] for name in ATTENTION_METHODS]
        maps = [relevance(passes[method.attention == OF_BLOCKS], layout, method, classes) for method in methods]
        return scores, *maps

    return traced(classifier, explain, example, poles=poles)
