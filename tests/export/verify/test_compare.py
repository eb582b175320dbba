"""The verdict on a graph, with functions in the place of PyTorch and of the graph."""

import numpy as np
import pytest

from export.verify.compare import (
    Check,
    RoundingCheck,
    Tolerance,
    VerificationError,
    batch_sizes,
    compare,
    fresh_pictures,
    table,
    verify,
)
from tests.support.graphs import HOW

TOLERANCES = {"logits": Tolerance(1e-4), "map": Tolerance(1e-4, relative=True)}
TIED = np.float32([0.2, 1.00000, 0.99995])  # two classes closer than the tolerance


def inputs(rng, count):
    return {"input": rng.standard_normal((count, 3, 2, 2)).astype(np.float32)}


def reference(given):
    return {"logits": np.tile(TIED, (len(given["input"]), 1)), "map": given["input"].mean(1)}


def exact(given, _found):
    return {name: values.astype(np.float64) for name, values in reference(given).items()}


def changed(batch=None, name="logits", change=lambda values: values):
    """A graph that is PyTorch but for one output, of one batch or of all."""

    def graph(given):
        outputs = dict(reference(given))
        if batch in (None, len(given["input"])):
            outputs[name] = change(outputs[name].copy())
        return outputs

    return graph


def move(values):
    values.flat[-1] += 0.004
    return values


@pytest.mark.parametrize(
    ("change", "tolerance", "max_error", "share"),
    [
        ([0.5, 0, 0.25, 0.75], Tolerance(0.5), 0.75, 0.25),
        ([0.5, 0, 0.25, 0.75], Tolerance(0.0625, relative=True), 0.09375, 0.25),
        ([0.5, 0, 0.25, -0.5], Tolerance(0.5), 0.5, 0),
        ([np.nan, 0, 0, 0], Tolerance(0.5), np.nan, 0.25),
    ],
)
@pytest.mark.parametrize("scale", [1, 1 / 1024])
def test_an_element_is_beyond_if_its_error_exceeds_the_tolerance(scale, change, tolerance, max_error, share):
    expected = np.float32([[4, -8], [0, 2]]) * np.float32(scale)
    actual = expected + np.float32(change).reshape(2, 2) * np.float32(scale)
    if not tolerance.relative:
        tolerance, max_error = Tolerance(tolerance.error * scale), max_error * scale
    (check,) = compare({"map": expected, "other": expected}, {"map": actual, "other": actual}, {"map": tolerance})
    assert (check.output, check.batch, check.share_beyond, check.passed) == ("map", 2, share, share == 0)
    np.testing.assert_equal(check.max_error, max_error)


@pytest.mark.parametrize(
    ("actual", "said"),
    [
        ({"map": TIED}, r"the graph's outputs are \['map'\], PyTorch's are \['logits', 'map'\]"),
        ({"map": TIED, "logits": TIED[:2]}, r"output logits has shape \(2,\), PyTorch's has \(3,\)"),
    ],
)
def test_names_and_shapes_must_be_the_same(actual, said):
    with pytest.raises(VerificationError, match=f"^{said}$") as refused:
        compare({"map": TIED, "logits": TIED}, actual, TOLERANCES)
    assert refused.value.summary == str(refused.value)


def test_the_table_has_a_line_for_each_check():
    measured = Check(output="map", batch=3, max_error=0.0123, share_beyond=0.0125, tolerance=TOLERANCES["map"])
    fine = Check(output="logits", batch=8, max_error=0, share_beyond=0, tolerance=TOLERANCES["logits"])
    assert table([measured, fine]).splitlines() == [
        "output   pictures  largest error  beyond 1e-4  verdict  held to",
        "map             3       1.23e-02       1.250%  DIFFERS  1e-04 of the largest",
        "logits          8       0.00e+00       0.000%  equal    1e-04 absolute",
    ]


def test_the_summary_has_the_largest_error_of_each_output_and_the_top_class():
    def graph(given):
        outputs, count = reference(given), len(given["input"])
        swapped = TIED[[2, 0, 1]] if count == 8 else TIED
        error = {1: 0.125, 3: 0.5, 8: 0.25}[count] * np.abs(outputs["map"]).max()
        return {"logits": np.tile(swapped, (count, 1)), "map": outputs["map"] + np.float32(error)}

    with pytest.raises(VerificationError) as refused:
        verify(reference, graph, inputs, TOLERANCES, exact=exact)
    assert refused.value.summary == (
        "the graph differs from PyTorch in map by 5.0e-01 (1e-04 of the largest), "
        "logits by 8.0e-01 (1e-04 absolute), the top class"
    )


def test_what_is_far_from_float32_passes_if_it_is_close_to_float64():
    """Each output by itself: what is close to float32 need not be close to float64."""
    rounded = changed(3, "map", move)
    for off in (5e-5, 0.01):
        checks = verify(
            lambda given: rounded(given),
            reference,
            inputs,
            TOLERANCES,
            exact=lambda given, found, off=off: {**exact(given, found), "logits": found["logits"] + off},
        )
        assert [check.max_error for check in checks] == [0] * 6
    with pytest.raises(VerificationError, match="map .*DIFFERS"):
        verify(rounded, reference, inputs, TOLERANCES, exact=lambda given, _: rounded(given))


@pytest.mark.parametrize(("batch", "judged"), [(None, False), (8, True)])
def test_a_gated_output_is_judged_by_its_rounding_if_an_element_is_beyond(batch, judged):
    graph = changed(batch, "map", move if judged else lambda values: values)
    checks = verify(reference, graph, inputs, TOLERANCES, exact=exact, gated=("logits", "map"))
    found = [(type(check), check.output, check.batch) for check in checks]
    logits, maps = ([(Check, name, size) for size in (1, 3, 8)] for name in TOLERANCES)
    if judged:
        assert found == [*logits, (RoundingCheck, "map", 12)]
    else:
        assert sorted(found, key=str) == sorted([*logits, *maps], key=str)


def test_an_output_without_a_tolerance_is_judged_by_its_rounding():
    def judge(graph):
        return verify(reference, graph, inputs, {"logits": TOLERANCES["logits"]}, exact=exact)

    *_, check = judge(changed(8, "map", move))
    assert (type(check), check.output, check.batch, check.passed) == (RoundingCheck, "map", 12, True)
    with pytest.raises(VerificationError, match="^the graph differs from PyTorch:\noutput .*\n(.*\n)*map .*DIFFERS"):
        judge(changed(8, "map", lambda values: values[::-1]))


@pytest.mark.parametrize(("seed", "said"), [(1, {}), (5, {"seed": 5})])
def test_the_batches_are_made_from_the_seed(seed, said):
    given = []

    def recorded(batch):
        given.append(batch["input"])
        return reference(batch)

    verify(recorded, reference, inputs, TOLERANCES, exact=exact, batches=(2,), **said)
    (found,) = given
    np.testing.assert_array_equal(found, inputs(np.random.default_rng(seed), 2)["input"])


def test_what_is_the_same_at_every_batch_size_passes():
    checks = verify(reference, reference, inputs, TOLERANCES, exact=exact)
    assert [(check.output, check.batch) for check in checks] == [
        (name, batch) for batch in (1, 3, 8) for name in TOLERANCES
    ]
    assert all(check.max_error == 0 for check in checks)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_another_top_class_differs_however_close_the_scores_are(batch):
    def swap(logits):
        logits[-1] = logits[-1, [0, 2, 1]]
        return logits

    said = "^the graph differs from PyTorch:\nthe top classes differ\noutput "
    with pytest.raises(VerificationError, match=said) as refused:
        verify(reference, changed(batch, "logits", swap), inputs, TOLERANCES, exact=exact)
    assert "DIFFERS" not in str(refused.value)
    assert refused.value.summary == "the graph differs from PyTorch in the top class"


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", TOLERANCES)
def test_one_element_of_one_batch_is_enough(batch, name):
    with pytest.raises(VerificationError, match=f"{name} .*DIFFERS") as refused:
        verify(reference, changed(batch, name, move), inputs, TOLERANCES, exact=exact)
    assert str(refused.value).count("DIFFERS") == 1
    assert refused.value.summary.startswith(f"the graph differs from PyTorch in {name} by ")


def test_the_exact_scores_forgive_no_batch_that_is_wrong_itself():
    """PyTorch in float64 stands in for the batch that needs it, not for the others."""
    graph = changed(3, "map", lambda values: values + 0.01)
    with pytest.raises(VerificationError, match="map .*DIFFERS"):
        verify(reference, graph, inputs, TOLERANCES, exact=exact)


@pytest.mark.parametrize(("side", "largest"), [(32, 8), (448, 8), (500, 6), (600, 4), (5000, 4)])
def test_the_largest_batch_is_what_memory_has_room_for(side, largest):
    assert batch_sizes((side, side)) == (1, 3, largest)


def test_fresh_pictures_are_others_each_time_and_each_seed():
    first, again, other = (fresh_pictures(np.random.default_rng(seed), 2, HOW) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 3, 2, 2)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
