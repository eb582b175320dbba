"""The tutorial's script before and after, as the page has them: their pictures are the same."""

import numpy as np

from tests.support.pages import blocks
from tests.support.serving import ROOT


def pictures_of(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(text, "docs/PYTHON.md", "exec"), names)
    return names["pictures"]


def test_both_scripts_make_the_same_pictures(monkeypatch):
    before, after = (block.text for block in blocks("python") if "\npictures = {" in block.text)
    assert "pytorch_grad_cam" in before
    assert "handler.wrap" in after
    expected, found = pictures_of(before, monkeypatch), pictures_of(after, monkeypatch)
    assert list(found) == list(expected) == ["gradcam", "guided_backprop", "guided_gradcam"]
    for name, picture in expected.items():
        assert picture.std() > 5, name
        assert np.abs(found[name].astype(int) - picture).max() <= 1, name
