import numpy as np
import pytest
import torch

from handler.explanation.maps import combine, resize, scale


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 3], [5, 1]], [[0, 0.5], [1, 0]]),
        ([[-2, 0], [2, 1]], [[0, 0.5], [1, 0.75]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[3, 3], [3, 3]], [[0, 0], [0, 0]]),
    ],
)
def test_scale_puts_the_minimum_at_0_and_the_maximum_at_1(values, expected):
    np.testing.assert_allclose(scale(np.float32(values)), expected, atol=1e-7)


def test_scale_adds_pytorch_grad_cams_epsilon_to_the_maximum():
    np.testing.assert_allclose(scale(np.float32([[0, 1e-7]])), [[0, 0.5]], rtol=1e-6)


def test_resize_is_bilinear_with_half_pixel_centres():
    corner = np.outer([1, 0.75, 0.25, 0], [1, 0.75, 0.25, 0])
    np.testing.assert_allclose(resize(np.float32([[1, 0], [0, 0]]), 4, 4), corner, atol=1e-7)


@pytest.mark.parametrize("size", [(7, 7), (224, 224), (30, 50), (3, 4)])
def test_resize_equals_torch_without_aligned_corners(size):
    values = np.random.default_rng(0).random((7, 5), np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(resize(values, *size), expected.numpy(), atol=1e-6)


def test_resize_keeps_the_channels_apart():
    values = np.random.default_rng(0).random((3, 4, 3), np.float32)
    resized = resize(values, 6, 9)
    for channel in range(3):
        alone = resize(np.ascontiguousarray(values[:, :, channel]), 6, 9)
        np.testing.assert_allclose(resized[:, :, channel], alone, atol=1e-6)


def test_combine_scales_each_layer_before_the_average_and_the_average_again():
    # scaled to (0, 0.5, 1) and (1, 0, 0), on average (0.5, 0.25, 0.5)
    layers = [np.float32([[0, 10, 20]]), np.float32([[0.3, 0, 0]])]
    np.testing.assert_allclose(combine(layers, 1, 3), [[1, 0, 1]], atol=1e-6)


def test_combine_brings_layers_of_different_sizes_to_one():
    # (1, 0) becomes (1, 0.75, 0.25, 0); with (0, 0, 0, 1) on average (0.5, 0.375, 0.125, 0.5)
    combined = combine([np.float32([[2, 0]]), np.float32([[0, 0, 0, 5]])], 1, 4)
    np.testing.assert_allclose(combined, [[1, 2 / 3, 0, 1]], atol=1e-6)


def test_combine_of_layers_without_evidence_is_zero():
    np.testing.assert_array_equal(combine([np.zeros((2, 2), np.float32)] * 2, 4, 4), np.zeros((4, 4)))
