"""Maps of evidence that is worked out by hand: one layer of 2x2 cells, two pairs, inputs of 2x2 pixels."""

from dataclasses import replace

import numpy as np
import pytest

from handler.explanation.evidence import Evidence, LayerEvidence, Needs
from handler.explanation.maps import MAP_KINDS, make_maps, needs_of

CELLS = np.float32([[[[0, 0], [0, 0]]], [[[2, 1], [0, 0]]]])  # no evidence for the first pair
PIXELS = np.zeros((2, 3, 2, 2), np.float32)
PIXELS[1, :, 0, 1] = (1, -4, 2)
EVIDENCE = Evidence(
    logits=np.zeros((2, 2), np.float32),
    input_size=(2, 2),
    rows=np.arange(2),
    classes=np.zeros(2, np.int64),
    layers={"last": LayerEvidence(CELLS, np.ones_like(CELLS))},
    guided=PIXELS,
    saliency=PIXELS * 2,
    coverage="5 of 5 activations",
)


@pytest.mark.parametrize(
    ("name", "values", "maximum", "coverage"),
    [
        ("gradcam", [[1, 0.5], [0, 0]], 2, None),
        ("guided_backprop", [[[0, 0, 0], [1, -4, 2]], [[0, 0, 0], [0, 0, 0]]], 4, "5 of 5 activations"),
        ("guided_gradcam", [[[0, 0, 0], [0.5, -2, 1]], [[0, 0, 0], [0, 0, 0]]], 2, "5 of 5 activations"),
        ("saliency", [[[0, 0, 0], [2, -8, 4]], [[0, 0, 0], [0, 0, 0]]], 8, None),
    ],
)
def test_a_map_is_of_its_own_evidence_and_says_how_strong_it_is(name, values, maximum, coverage):
    made = make_maps(EVIDENCE, 1, [name], "gradcam", at_layer=False)[name]
    np.testing.assert_allclose(made.values, values, atol=1e-6)
    assert made.maximum == pytest.approx(maximum)
    assert (made.degenerate, made.coverage) == (False, coverage)


@pytest.mark.parametrize("name", MAP_KINDS)
def test_a_map_without_evidence_is_degenerate(name):
    made = make_maps(EVIDENCE, 0, [name], "gradcam", at_layer=False)[name]
    assert (made.values.any(), made.maximum, made.degenerate) == (False, 0, True)


@pytest.mark.parametrize("maximum", [0.5, 1.0])
@pytest.mark.parametrize("name", ["guided_backprop", "guided_gradcam", "saliency"])
def test_a_weak_gradient_is_not_degenerate(name, maximum):
    weak = replace(EVIDENCE, guided=PIXELS * 0 + maximum, saliency=PIXELS * 0 + maximum)
    assert not make_maps(weak, 1, [name], "gradcam", at_layer=False)[name].degenerate


def test_maps_keep_the_order_they_are_asked_in():
    asked = ["saliency", "gradcam", "guided_gradcam", "guided_backprop"]
    assert list(make_maps(EVIDENCE, 1, asked, "gradcam", at_layer=False)) == asked


@pytest.mark.parametrize(("at_layer", "size"), [(True, (2, 2)), (False, (4, 6))])
def test_gradcam_has_the_size_of_the_input_or_of_the_layer(at_layer, size):
    larger = replace(EVIDENCE, input_size=(4, 6))
    assert make_maps(larger, 1, ["gradcam"], "gradcam", at_layer=at_layer)["gradcam"].values.shape == size


@pytest.mark.parametrize("lacking", [0, 1])
def test_the_maximum_of_several_layers_is_told_for_each(lacking):
    cells = CELLS.copy()
    cells[1] *= lacking
    both = replace(EVIDENCE, layers={**EVIDENCE.layers, "first": LayerEvidence(cells, np.ones_like(cells))})
    made = make_maps(both, 1, ["gradcam"], "gradcam", at_layer=False)["gradcam"]
    assert (made.maximum, made.degenerate) == ([2.0, 2.0 * lacking], False)


@pytest.mark.parametrize("name", ["guided_backprop", "saliency"])
def test_evidence_that_was_not_computed_is_missed(name):
    without = replace(EVIDENCE, guided=None, saliency=None)
    with pytest.raises(ValueError, match="^the evidence lacks the gradient at the input$"):
        make_maps(without, 1, [name], "gradcam", at_layer=False)


@pytest.mark.parametrize(
    ("maps", "needs"),
    [
        ([], Needs()),
        (["gradcam"], Needs(layers=("a", "b"))),
        (["guided_backprop"], Needs(guided=True)),
        (["guided_gradcam"], Needs(layers=("a", "b"), guided=True)),
        (["saliency"], Needs(saliency=True)),
        (["saliency", "gradcam"], Needs(layers=("a", "b"), saliency=True)),
    ],
)
def test_only_the_evidence_that_maps_are_made_of_is_needed(maps, needs):
    assert needs_of(maps, ["a", "b"]) == needs
    assert needs.backward == bool(maps)
