import numpy as np
import pytest
import torch

from handler.explanation.cam import METHODS, CamMethod, gradcam, method
from handler.explanation.evidence import Evidence, LayerEvidence
from handler.explanation.maps import make_maps
from handler.protocol.options import Options, parse_options

# two rows of two channels of 2x2 cells; the gradients' means are (1, -0.5) and (-1, 0.5)
ACTIVATION = np.float32([[[[1, 2], [3, 4]], [[4, 3], [2, 1]]]] * 2)
GRADIENT = np.float32([[[4, 0], [0, 0]], [[-1, -1], [0, 0]]])[None] * np.float32([1, -1])[:, None, None, None]
EXPECTED = np.float32([[[0, 0.5], [2, 3.5]], [[1, 0], [0, 0]]])


@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_gradcam_weights_channels_by_their_mean_gradient_and_cuts_negative_evidence(array):
    np.testing.assert_array_equal(np.asarray(gradcam(array(ACTIVATION), array(GRADIENT))), EXPECTED)


def test_gradcam_of_a_row_does_not_depend_on_its_neighbours():
    np.testing.assert_array_equal(gradcam(ACTIVATION[1:], GRADIENT[1:]), EXPECTED[1:])


def test_gradcam_of_negative_evidence_only_is_zero():
    np.testing.assert_array_equal(gradcam(ACTIVATION, -np.ones_like(ACTIVATION)), np.zeros((2, 2, 2)))


@pytest.mark.parametrize("name", METHODS)
def test_numpy_and_torch_give_the_same(name):
    activation, gradient = np.random.default_rng(0).standard_normal((2, 3, 16, 5, 7)).astype(np.float32)
    formula = METHODS[name].formula
    by_torch = formula(torch.from_numpy(activation), torch.from_numpy(gradient)).numpy()
    assert by_torch.max() > 0.1
    np.testing.assert_allclose(formula(activation, gradient), by_torch, rtol=1e-5, atol=1e-6)


def test_a_name_that_is_taken_is_refused_and_keeps_its_formula():
    with pytest.raises(ValueError, match="'gradcam' is registered already"):
        method("gradcam")(lambda activation, gradient: activation)
    assert METHODS["gradcam"].formula is gradcam


def test_a_formula_without_a_docstring_has_no_summary(monkeypatch):
    monkeypatch.setitem(METHODS, "bare", None)
    del METHODS["bare"]
    method("bare")(lambda activation, gradient: activation)
    assert METHODS["bare"].summary == ""


def test_a_new_formula_is_an_option_and_makes_the_map(monkeypatch):
    monkeypatch.setitem(METHODS, "strongest", None)  # whatever is there afterwards is taken out again
    del METHODS["strongest"]

    @method("strongest")
    def strongest(activation, gradient):
        """The strongest channel alone.

        The rest is not told.
        """
        return (activation * gradient).max(axis=1)

    assert METHODS["strongest"] == CamMethod("strongest", strongest, "The strongest channel alone.")
    assert parse_options({"method": "strongest"}, Options()).method == "strongest"
    evidence = Evidence(
        logits=np.zeros((2, 2), np.float32),
        input_size=(2, 2),
        rows=np.arange(2),
        classes=np.zeros(2, np.int64),
        layers={"last": LayerEvidence(ACTIVATION, GRADIENT)},
    )
    for pair, expected in enumerate([[[1, 0], [0, 0]], [[1, 0.75], [0, 0]]]):  # of [[4, 0], [0, 0]], [[4, 3], [0, 0]]
        made = make_maps(evidence, pair, ["gradcam"], "strongest", at_layer=True)["gradcam"]
        np.testing.assert_allclose(made.values, expected, atol=1e-6)
        assert made.maximum == 4
