"""Refuses scores, evidence and maps with NaN or infinite values, which say nothing of a picture."""

from collections.abc import Mapping

import numpy as np

from handler.errors import NotFinite
from handler.explanation.evidence import Evidence, Floats
from handler.explanation.maps import Map


def check_scores(logits: Floats) -> None:
    """Raises NotFinite if a score of a picture, (K,), is NaN or infinite."""
    _check("scores", logits)


def check_evidence(evidence: Evidence, pair: int) -> None:
    """Raises NotFinite, which names the array, for a value of a pair's evidence; its map can be finite all the same."""
    for path, layer in evidence.layers.items():
        _check(f"activations at layer {path}", layer.activation[pair])
        _check(f"gradients at layer {path}", layer.gradient[pair])
    others = {"guided gradients": evidence.guided, "gradients at the input": evidence.saliency}
    for name, values in (others | {"maps of attention": evidence.attention}).items():
        if values is not None:
            _check(name, values[pair])


def check_maps(maps: Mapping[str, Map]) -> None:
    """Raises NotFinite, which names the map, for a map whose maximum is not finite, as its evidence may be."""
    for name, made in maps.items():
        _check(f"values of {name}", np.asarray(made.maximum))


def _check(what: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        valid = "valid are pictures for which all values are finite"
        why = f"the network gives {what} that are not finite (NaN or infinity), which mean nothing"
        raise NotFinite(f"for this picture {why}; {valid}")
