"""Evidence of several runs put together, and what is read out of scores."""

from dataclasses import replace

import numpy as np
import pytest

from handler.explanation.evidence import Evidence, LayerEvidence, best_classes, joined, softmax


def part(first: int, pairs: list[int], classes: list[int], inputs: int = 2) -> Evidence:
    """A run's evidence, whose numbers begin at ``first``."""
    numbers = np.arange(first, first + len(pairs) * 12, dtype=np.float32).reshape(-1, 3, 2, 2)
    return Evidence(
        logits=np.full((inputs, 3), first, np.float32),
        input_size=(2, 2),
        rows=np.int64(pairs),
        classes=np.int64(classes),
        layers={"a": LayerEvidence(numbers, numbers + 1), "b": LayerEvidence(numbers + 2, numbers + 3)},
        guided=numbers + 4,
        saliency=numbers + 5,
        coverage="5 of 5 activations",
        infer_ms=first + 0.5,
        explain_ms=first + 2.0,
        engine="onnx",
    )


PARTS = [part(100, [0, 0, 1], [2, 1, 0]), part(200, [0], [1], inputs=1), part(300, [1], [2])]


def test_runs_are_joined_as_if_their_inputs_had_been_run_together():
    whole = joined(PARTS)
    np.testing.assert_array_equal(whole.logits[:, 0], [100, 100, 200, 300, 300])
    np.testing.assert_array_equal(whole.rows, [0, 0, 1, 2, 4])
    np.testing.assert_array_equal(whole.classes, [2, 1, 0, 1, 2])
    together = np.concatenate([one.layers["a"].activation for one in PARTS])
    arrays = [
        *(array for layer in whole.layers.values() for array in (layer.activation, layer.gradient)),
        whole.guided,
        whole.saliency,
    ]
    for more, array in enumerate(arrays):
        np.testing.assert_array_equal(array, together + more)
    assert list(whole.layers) == ["a", "b"]
    assert (whole.infer_ms, whole.explain_ms) == (601.5, 606.0)
    assert (whole.input_size, whole.coverage, whole.engine) == ((2, 2), "5 of 5 activations", "onnx")


def test_the_evidence_of_one_run_is_the_whole():
    alone = joined(PARTS[2:])
    np.testing.assert_array_equal(alone.rows, [1])
    np.testing.assert_array_equal(alone.guided, PARTS[2].guided)
    assert (alone.infer_ms, alone.explain_ms) == (300.5, 302.0)


def test_evidence_that_no_run_has_is_missing_in_the_whole_too():
    whole = joined([replace(one, layers={}, guided=None, saliency=None) for one in PARTS])
    assert (whole.layers, whole.guided, whole.saliency) == ({}, None, None)


def test_probabilities_add_up_to_1_however_large_the_scores_are():
    found = softmax(np.float32([[0, np.log(3), 0], [-1e4, 1e4, 1e4]]))
    np.testing.assert_allclose(found, [[0.2, 0.6, 0.2], [0, 0.5, 0.5]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("count", "best"), [(0, []), (1, [2]), (3, [2, 0, 3]), (9, [2, 0, 3, 1])])
def test_the_best_classes_go_first_and_ties_by_their_index(count, best):
    assert best_classes(np.float32([0.2, 0.1, 0.5, 0.2]), count) == best
