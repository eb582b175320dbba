"""Refuses what a network found if it is not made of numbers: NaN and infinity say nothing of a picture."""

from collections.abc import Mapping

import numpy as np

from handler.errors import NotFinite
from handler.explanation.evidence import Evidence, Floats
from handler.explanation.maps import Map


def check_scores(logits: Floats) -> None:
    """Refuses scores (K,) among which one is NaN or infinite.

    Raises:
        NotFinite: saying so.
    """
    _check("scores", logits)


def check_evidence(evidence: Evidence, pair: int) -> None:
    """Refuses what the maps of a pair would be made of; a sum or a maximum over it would hide an infinite value.

    Raises:
        NotFinite: naming what.
    """
    for path, layer in evidence.layers.items():
        _check(f"activations at layer {path}", layer.activation[pair])
        _check(f"gradients at layer {path}", layer.gradient[pair])
    for name, gradient in (("guided gradients", evidence.guided), ("gradients at the input", evidence.saliency)):
        if gradient is not None:
            _check(name, gradient[pair])


def check_maps(maps: Mapping[str, Map]) -> None:
    """Refuses maps that became too large for a float32 where the evidence was not.

    Raises:
        NotFinite: naming which.
    """
    for name, one in maps.items():
        _check(f"values of {name}", np.asarray(one.maximum))


def _check(what: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        raise NotFinite(
            f"for this picture the network gives {what} that are not finite (NaN or infinity), which mean nothing; "
            "valid are pictures for which all of its values are finite"
        )
