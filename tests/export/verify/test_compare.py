"""The verdict on a graph, with functions in the place of PyTorch and of the graph."""

import numpy as np
import pytest

from export.verify.compare import Tolerance, VerificationError, batch_sizes, fresh_pictures, verify
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

    with pytest.raises(VerificationError, match="the top classes differ\n") as refused:
        verify(reference, changed(batch, "logits", swap), inputs, TOLERANCES, exact=exact)
    assert "DIFFERS" not in str(refused.value)
    assert refused.value.summary == "the graph differs from PyTorch in the top class"


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", TOLERANCES)
def test_one_element_of_one_batch_is_enough(batch, name):
    def move(values):
        values.flat[-1] += 0.01
        return values

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
    assert batch_sizes(side) == (1, 3, largest)


def test_fresh_pictures_are_others_each_time_and_each_seed():
    first, again, other = (fresh_pictures(np.random.default_rng(seed), 2, HOW) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 3, 2, 2)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
