"""A model in the caller's own process, with an engine that fails on demand."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from handler.client.model import Model
from handler.errors import BadRequest, ModelError, Unprocessable
from handler.serving.explainer import Explainer
from tests.support.engines import CARD, SIDE, BrightnessEngine, picture

ONLY = {"maps": "gradcam"}  # what the engine has evidence for


@pytest.fixture
def model():
    return Model(Explainer(BrightnessEngine(), CARD))


def grey(value, height=SIDE, width=SIDE):
    return np.full((height, width, 3), value, np.uint8)


def test_a_result_names_the_bytes_that_it_is_about(model, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(50))
    forms = {
        "path": (tmp_path / "a.png", picture(50)),
        "text": (str(tmp_path / "a.png"), picture(50)),
        "bytes": (picture(50), picture(50)),
        "array": (grey(50), grey(50).tobytes()),
    }
    for name, (form, content) in forms.items():
        image = model.explain(form, **ONLY).receipt()["image"]
        assert image == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}, name


def test_a_pillow_image_is_explained_upright(model):
    lying = Image.fromarray(grey(50, 10, 20))
    lying.getexif()[0x0112] = 6
    assert model.explain(lying, **ONLY).canvas.seen.crop.image == (20, 10)
    assert model.explain(Image.fromarray(grey(50, 10, 20)), **ONLY).canvas.seen.crop.image == (10, 20)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (255, ModelError, "^the engine failed on this picture: RuntimeError: too bright: secret detail$"),
        (0, Unprocessable, "^too dark$"),
    ],
)
def test_the_first_picture_that_fails_is_told_by_the_kind_of_its_failure(model, value, error, said):
    with pytest.raises(error, match=said):
        model.explain(grey(value), **ONLY)
    with pytest.raises(error, match=said):
        model.explain_batch([grey(50), grey(value), grey(60)], **ONLY)


def test_a_batch_is_one_pass_and_keeps_its_order_and_each_pictures_target():
    engine = BrightnessEngine()
    model = Model(Explainer(engine, CARD))
    found = model.explain_batch([grey(value) for value in (200, 50, 60)], targets=["dark", 1, "top"], **ONLY)
    assert engine.batches == [3]
    assert [one.predictions[0].label for one in found] == ["light", "dark", "dark"]
    assert [one.explanations[0].target.label for one in found] == ["dark", "light", "dark"]
    assert model.explain_batch([]) == []


def test_a_prediction_makes_no_maps_and_has_as_many_classes_as_wanted(model):
    assert [one.label for one in model.predict(grey(50))] == ["dark", "light"]
    assert [one.label for one in model.predict(grey(200), 1)] == ["light"]
    with pytest.raises(BadRequest, match="top_k 3 is not valid, valid are 1 to 2"):
        model.predict(grey(50), 3)


def test_options_are_those_of_requests(model):
    found = model.explain(grey(50), target=("light", 0), maps=("gradcam",), size="layer")
    assert [one.target.label for one in found.explanations] == ["light", "dark"]
    assert found.explanations[0].maps["gradcam"].values.shape == (2, 2)
    assert model.explain(grey(50, 9, 20), size="image", **ONLY).draw().shape == (9, 20, 3)
    for options, said in [
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"target": "zebra"}, "'zebra' is no label"),
        ({"layer": "d"}, "has no map"),
        ({"top_k": 3}, "valid are 1 to 2"),
    ]:
        for ask in (model.check, lambda **given: model.explain(grey(50), **given)):
            with pytest.raises(BadRequest, match=said):
                ask(**options)
    model.check(target=["light", 0], **ONLY)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\) has no pixels"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\) is no picture; valid are a path, bytes"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\) is no picture"),
        (np.zeros((4, 4, 3)), r"float64 \(4, 4, 3\) is no picture"),
        (None, "NoneType is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_what_it_is(model, wrong, said):
    with pytest.raises(BadRequest, match=said):
        model.explain(wrong)


def test_a_file_that_is_not_there_is_the_systems_own_error(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        model.explain(tmp_path / "gone.png")
