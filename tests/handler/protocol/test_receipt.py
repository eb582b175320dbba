import hashlib
import json

import numpy as np
import pytest

from handler.protocol.receipt import digest, distance, hash_image, provenance
from tests.support.engines import CARD


def test_a_picture_is_named_by_the_bytes_that_arrived():
    assert hash_image(b"abc") == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}
    assert hash_image(b"abc")["sha256"].startswith("ba7816bf")  # FIPS 180-2, appendix B.1


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, lambda values: values.astype(">f4")], ids="CFB")
def test_the_hash_is_that_of_the_float32_values_row_by_row(layout):
    values = np.float32([[0.5, -3], [2, 1], [0, 1e-9]])
    made = digest(layout(values))
    assert made["sha256"] == hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    assert (made["shape"], made["max"]) == ([3, 2], 3.0)


def test_a_sketch_of_today_can_be_compared_with_one_of_later():
    sketch = (
        "AACAvwAAAEAAAEDAAAAQQQAAwEAAAOBAAAAAQQAAgL8AADDBAABAwQAAUMEAAIA/AACAwQAAiEEAAJBBAAAcwgAAqM"
        "EAALDBAAC4QQAAgD8AANBBAADYwQAA4EEAAIC/AAD4wQAAAEIAAARCAACAvwAAEMIAABRCAAAYQgAAnkI="
    )
    assert digest(np.arange(1, 41, dtype=np.float32))["sketch"] == sketch


def true_distance(before, after):
    return np.sqrt(np.mean((before - after) ** 2)) / max(abs(before).max(), abs(after).max())


@pytest.mark.parametrize("size", [1, 7, 32])
def test_the_distance_of_few_values_is_exact(size):
    before, after = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    assert distance(digest(before), digest(after)) == pytest.approx(true_distance(before, after), rel=1e-5)


SMOOTH = np.sin(np.arange(64 * 64 * 3) / 500).reshape(64, 64, 3)
DIFFERENCES = {
    "noise": np.random.default_rng(1).standard_normal((64, 64, 3)),
    "one pixel": np.eye(1, 64 * 64 * 3, 4321).reshape(64, 64, 3),
    "the same everywhere": np.ones((64, 64, 3)),
    "smooth, with both signs": SMOOTH,
    "as large as float32 resolves": 1e-3 * SMOOTH,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_distance_of_many_values_is_estimated_whatever_their_difference_looks_like(name):
    before = np.random.default_rng(2).standard_normal((64, 64, 3)).astype(np.float32)
    after = (before + 0.01 * DIFFERENCES[name]).astype(np.float32)
    ratio = distance(digest(before), digest(after)) / true_distance(before, after)
    assert 0.65 < ratio < 1.35  # the estimate's standard deviation is an eighth


def test_equal_arrays_are_no_distance_apart_and_those_of_two_shapes_infinitely_far():
    values = np.zeros((2, 3), np.float32)
    assert distance(digest(values), digest(values.copy())) == 0
    assert distance(digest(values), digest(values.T)) == np.inf
    assert distance(digest(values), digest(values + np.float32(1e-30))) == pytest.approx(1)


def test_what_an_answer_is_made_of_is_json_and_names_the_code_and_its_packages():
    made = provenance(CARD, "onnx", hash_image(b""), {"seed": 3})
    assert json.loads(json.dumps(made))["preprocessing"]["mean"] == [0, 0, 0]
    assert (made["weights_sha256"], made["graphs"], made["options"]) == (None, {}, {"seed": 3})
    assert len(made["versions"]["handler"]) == 16
    assert {"python", "machine", "numpy", "cv2", "PIL"} <= set(made["versions"])
    assert made["versions"]["numpy"] == np.__version__
