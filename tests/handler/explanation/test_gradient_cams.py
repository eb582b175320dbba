import numpy as np
import pytest
import torch

from handler.errors import Unprocessable
from handler.explanation.evidence import Evidence, LayerEvidence
from handler.explanation.gradient_cams import (
    cam,
    gradcam,
    gradcam_elementwise,
    gradcam_plus_plus,
    hirescam,
    layercam,
    xgradcam,
)
from handler.explanation.maps import make_maps
from handler.explanation.methods import METHODS, Method
from handler.protocol.options import Options, parse_options
from handler.serving.jobs import check_method

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


# the same evidence by hand: gradients [[4, 0], [0, 0]] and [[-1, -1], [0, 0]] on [[1, 2], [3, 4]] and [[4, 3], [2, 1]]
@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        # sums 10: shares 16/(32+640) and 1/(2-10); only the first channel's gradient is positive: weight 4·16/672
        (gradcam_plus_plus, 4 * 16 / 672 * np.float32([[1, 2], [3, 4]])),
        (xgradcam, [[0, 0], [0, 0.9]]),  # weights 4/10 and -7/10
        (layercam, [[4, 0], [0, 0]]),
        (hirescam, [[0, 0], [0, 0]]),  # 4 - 4 and -3
        (gradcam_elementwise, [[4, 0], [0, 0]]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_formulas_give_what_was_worked_out_by_hand(formula, expected):
    np.testing.assert_allclose(formula(ACTIVATION[:1], GRADIENT[:1])[0], expected, atol=1e-6)
    np.testing.assert_array_equal(formula(ACTIVATION, GRADIENT)[:1], formula(ACTIVATION[:1], GRADIENT[:1]))


def test_cam_adds_up_to_the_score_of_a_linear_head():
    weights = np.float32([3, -2])
    gradient = np.broadcast_to(weights[:, None, None] / 4, ACTIVATION.shape)  # of mean over 4 cells, then the weights
    found = cam(ACTIVATION, gradient)
    np.testing.assert_allclose(found[0], [[-5, 0], [5, 10]])
    np.testing.assert_allclose(found.mean(axis=(1, 2)), (weights * ACTIVATION.mean(axis=(2, 3))).sum(axis=1))


def test_cam_is_refused_where_the_head_is_not_linear():
    with pytest.raises(Unprocessable, match="gradient differs between cells; valid here are the other methods"):
        cam(ACTIVATION, GRADIENT)


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise"])
def test_numpy_and_torch_give_the_same(name):
    activation, gradient = np.random.default_rng(0).standard_normal((2, 3, 16, 5, 7)).astype(np.float32)
    formula = METHODS[name].formula
    by_torch = formula(torch.from_numpy(activation), torch.from_numpy(gradient)).numpy()
    assert by_torch.max() > 0.1
    np.testing.assert_allclose(formula(activation, gradient), by_torch, rtol=1e-4, atol=1e-5)


def test_a_new_formula_is_an_option_and_makes_the_map(monkeypatch):
    def strongest(activation, gradient):
        """The strongest channel alone.

        The rest is not told.
        """
        return (activation * gradient).max(axis=1)

    monkeypatch.setitem(METHODS, "strongest", Method("Strongest", strongest))
    assert METHODS["strongest"].summary == "The strongest channel alone."
    options = parse_options({"method": "strongest", "smooth": "eigen"}, Options())
    with pytest.raises(Unprocessable, match="weights channels, not strongest; valid are gradcam, "):
        check_method(options, [])  # the formula does not take ``combine``
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
