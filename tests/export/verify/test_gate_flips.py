import numpy as np
import pytest

from export.verify.compare import RoundingCheck


def pictures(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def flipped(exact, which, by=0.05):
    """Some cells of some pictures are off by much, as behind a gate in an early layer that flipped."""
    found = exact.copy()
    found[which, :, 2, 3] += by
    return found


def verdict(exact, torch, graph):
    batches = [[values[rows] for values in (exact, torch, graph)] for rows in (slice(0, 1), slice(1, 4), slice(4, 12))]
    return RoundingCheck.of("guided_backprop", batches)


def test_rounding_passes_and_is_measured():
    exact = pictures(12)
    check = verdict(exact, exact, exact * np.float32(1 + 2e-6))
    assert check.passed
    assert check.batch == 12
    assert check.graph[:2] == pytest.approx((2e-6, 2e-6), rel=0.1)
    assert check.share_beyond == 0
    assert check.torch == (0, 0, 0)


def test_a_few_flips_pass_even_where_pytorch_has_none():
    exact = pictures(12)
    check = verdict(exact, exact, flipped(exact, [2, 7]))
    assert check.passed
    assert check.max_error == pytest.approx(0.02, rel=0.5)
    assert check.share_beyond == pytest.approx(2 / 12 / 64)


def test_flips_in_most_pictures_pass_only_where_pytorch_has_them_too():
    exact = pictures(12)
    graph = flipped(exact, slice(0, 9))
    assert not verdict(exact, exact, graph).passed
    assert verdict(exact, flipped(exact, slice(3, 12)), graph).passed
    assert not verdict(exact, flipped(exact, slice(3, 12), by=0.01), graph).passed


def test_it_does_not_matter_by_chance_whether_half_of_the_pictures_have_a_flip():
    exact = pictures(12)
    assert verdict(exact, flipped(exact, slice(0, 5)), flipped(exact, slice(5, 12))).passed


def test_a_batch_whose_pictures_are_mixed_fails_even_where_pytorch_has_a_flip():
    exact = pictures(12)
    graph = exact.copy()
    graph[4:] += np.float32(0.1) * np.roll(exact[4:], 1, axis=0)
    assert not verdict(exact, flipped(exact, [2], by=3), graph).passed


@pytest.mark.parametrize("wrong", [1, 2, 11])
def test_one_wrong_picture_is_enough_to_fail(wrong):
    exact = pictures(12)
    graph = exact.copy()
    graph[wrong] = pictures(1, seed=1)
    assert not verdict(exact, exact, graph).passed


def test_all_pictures_a_little_wrong_fail():
    exact = pictures(12)
    assert not verdict(exact, exact, exact * np.float32(1.0005)).passed


def test_however_bad_pytorch_is_another_gradient_fails():
    exact = pictures(12)
    bad = exact + 0.26 * pictures(12, seed=1)
    assert not verdict(exact, bad, np.zeros_like(exact)).passed
    one_bad = exact.copy()
    one_bad[9] = bad[9]
    first_four = exact.copy()
    first_four[:4] = 0
    assert not verdict(exact, one_bad, first_four).passed


def test_errors_are_relative_to_the_pictures_own_largest_value():
    exact = np.float32([[[1, 2], [-4, 0]], [[100, 0], [0, 0]]])
    check = RoundingCheck.of("map", [(exact, exact, exact + np.float32([[[0.5, 0], [0, 0]], [[0, 0.5], [0, 0]]]))])
    assert check.max_error == 0.125
    assert check.share_beyond == 2 / 8


def test_the_lower_quartile_is_the_error_of_a_picture():
    exact = np.ones((4, 4), np.float32)
    found = exact + np.float32([[0], [0.25], [0.5], [0.75]])
    check = RoundingCheck.of("map", [(exact, exact, found)])
    assert (check.graph[:2], check.torch[:2]) == ((0.25, 0.75), (0, 0))


@pytest.mark.parametrize(("sizes", "worst"), [((1,), 0), ((1, 1), 0), ((2,), 0.5), ((1, 2), 0.5), ((1, 3, 2), 0.25)])
def test_batches_of_several_pictures_have_a_best_one_each_and_the_worst_of_them_counts(sizes, worst):
    errors = {1: [1.0], 2: [0.5, 0.75] if 3 not in sizes else [0, 0.75], 3: [0.5, 0.25, 1.0]}
    batches = []
    for size in sizes:
        exact = np.ones((size, 4), np.float32)
        batches.append((exact, exact, exact + np.float32(errors[size])[:, None]))
    check = RoundingCheck.of("map", batches)
    assert (check.graph[2], check.torch[2]) == (worst, 0)


def test_the_limits_are_told():
    exact = pictures(12)
    said = verdict(exact, exact, exact).limit
    assert said == "RMS of the quartile 1e-04 (is 0e+00), of the worst 1e-02 (is 0e+00)"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_fails(value):
    exact = pictures(12)
    graph = exact.copy()
    graph[5, 0, 0, 0] = value
    check = verdict(exact, exact, graph)
    assert not check.passed
    assert check.max_error == np.inf


def test_a_gradient_that_is_zero_must_stay_zero():
    exact = pictures(12)
    exact[[0, 6]] = 0
    graph = exact.copy()
    assert verdict(exact, exact, graph).passed
    graph[0, 0, 0, 0] = 1
    assert not verdict(exact, exact, graph).passed
