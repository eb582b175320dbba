"""What is made of activations alone, held to numbers worked out by hand and to scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA, KernelPCA

from handler.errors import Unprocessable
from handler.explanation.activation_cams import eigencam, eigengradcam, fem, kpca_cam, random_cam
from handler.explanation.evidence import Evidence, LayerEvidence
from handler.explanation.maps import make_maps

RNG = np.random.default_rng(0)
FEW_CELLS, MANY_CELLS = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 30, 3, 4), (2, 5, 6, 7)))


def positive(projection, shape, like=None):
    """The positive part, with the sign of ``like``, or that makes the value of the largest magnitude positive."""
    sign = projection[np.abs(projection).argmax()] if like is None else projection @ (like - like.mean())
    return (projection * np.sign(sign)).clip(min=0).reshape(shape)


@pytest.mark.parametrize("activation", [FEW_CELLS, MANY_CELLS], ids=["few cells", "many cells"])
def test_eigencam_is_scikit_learns_first_component(activation):
    found = eigencam(activation, activation)
    for picture, values in zip(activation, found, strict=True):
        cells = picture.reshape(len(picture), -1).T
        expected = positive(PCA(1).fit_transform(cells)[:, 0], values.shape, like=cells.sum(axis=1))
        assert expected.max() > 0.1
        np.testing.assert_allclose(values, expected, atol=1e-4)
    np.testing.assert_array_equal(eigengradcam(activation / 2, np.full_like(activation, 2)), found)


@pytest.mark.parametrize("activation", [FEW_CELLS, MANY_CELLS], ids=["few cells", "many cells"])
def test_kpca_cam_is_scikit_learns_first_kernel_component(activation):
    for picture, values in zip(activation, kpca_cam(activation, activation), strict=True):
        cells = picture.reshape(len(picture), -1).T.astype(np.float64)
        projection = KernelPCA(1, kernel="sigmoid").fit_transform(cells - cells.mean(axis=0))[:, 0]
        expected = positive(projection, values.shape)
        assert expected.max() > 0.1
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_kpca_cam_of_too_many_cells_is_refused():
    with pytest.raises(Unprocessable, match="this layer has 1056 cells; valid are layers of at most 1024"):
        kpca_cam(np.zeros((1, 1, 33, 32), np.float32), np.zeros(()))


def test_a_component_of_equal_cells_is_zero():
    equal = np.ones((1, 3, 4, 4), np.float32)
    for formula in (eigencam, kpca_cam):
        np.testing.assert_array_equal(formula(equal, equal), np.zeros((1, 4, 4)))


def test_fem_counts_the_cells_that_stand_out():
    activation = np.zeros((1, 2, 3, 3), np.float32)
    activation[0, 0, 1, 1] = 9  # mean 1, deviation 2.83: one cell of nine is above 6.66
    activation[0, 1, :2] = 1  # no cell is above mean 0.67 + 2 · 0.47
    expected = np.zeros((3, 3))
    expected[1, 1] = 1
    np.testing.assert_allclose(fem(activation, activation)[0], expected)


def test_random_cam_is_the_seeds_and_any_pictures():
    weights = np.random.default_rng(5).uniform(-1, 1, 30).astype(np.float32)
    expected = np.einsum("c,nchw->nhw", weights, FEW_CELLS).clip(min=0)
    np.testing.assert_allclose(random_cam(FEW_CELLS, FEW_CELLS, seed=5), expected, atol=1e-5)
    assert np.abs(random_cam(FEW_CELLS, FEW_CELLS, seed=6) - expected).max() > 0.1


def test_a_seed_reaches_the_random_method_alone():
    evidence = Evidence(
        logits=np.zeros((1, 2), np.float32),
        input_size=(3, 4),
        rows=np.zeros(1, np.int64),
        classes=np.zeros(1, np.int64),
        layers={"last": LayerEvidence(FEW_CELLS[:1], FEW_CELLS[:1])},
    )
    for method, alike in (("randomcam", False), ("gradcam", True)):
        first, second = (make_maps(evidence, 0, ["gradcam"], method, at_layer=True, seed=seed) for seed in (1, 2))
        assert np.array_equal(first["gradcam"].values, second["gradcam"].values) == alike
