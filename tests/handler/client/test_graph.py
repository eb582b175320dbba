"""What a graph says of itself is what its model says."""

import numpy as np
import pytest

import handler
from handler.client.model import GraphModel
from handler.errors import ModelError, RequestError
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KIND_SALIENCY
from tests.support.graphs import HOW, describe, write_graph

PIXELS = np.zeros((2, 2, 3), np.uint8)
PIXELS[:, :, 1] = 100


@pytest.mark.parametrize(
    ("kind", "maps", "coverage"),
    [
        (KIND_PREDICTION, (), None),
        (KIND_GRADCAM, ("gradcam",), None),
        (KIND_EXPLANATION, ("gradcam", "guided_backprop", "guided_gradcam"), "5 of 5 activations"),
        (KIND_SALIENCY, ("gradcam", "saliency"), None),
    ],
)
def test_the_card_is_the_graphs_description(tmp_path, kind, maps, coverage):
    model = GraphModel(
        write_graph(tmp_path, describe(kind, coverage=coverage or "", weights_sha256="0123456789abcdef"))
    )
    card = model.card
    assert (card.name, card.version, card.architecture) == ("model", "0123456789ab", "tiny")
    assert (card.labels, card.preprocessing, card.default_layer) == (["red", "green", "blue"], HOW, "last")
    assert (card.maps, card.guided_coverage) == (maps, coverage)
    assert card.layers == ({} if kind == KIND_PREDICTION else {"last": (3, 2, 2)})
    found = model.explain(PIXELS, target="blue", maps="all")
    assert found.predictions[0].label == "green"
    assert found.model["engine"] == "onnx"
    assert [list(one.maps) for one in found.explanations] == ([list(maps)] if maps else [])
    held = ", ".join(maps) or "no maps"
    absent = "saliency" if "saliency" not in maps else "guided_backprop"
    with pytest.raises(RequestError, match=f"^{absent}: this graph holds {held}$"):
        model.explain(PIXELS, maps=absent)


def test_nothing_can_be_said_of_a_graph_that_it_says_itself(tmp_path):
    path = write_graph(tmp_path, describe())
    with pytest.raises(ModelError, match=r"says this itself: labels, device cannot be given with a file \.onnx"):
        handler.load(path, labels=["a"], device="cpu")
    assert handler.load(path).card.architecture == "tiny"
