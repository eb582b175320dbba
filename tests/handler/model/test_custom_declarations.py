import pytest
import torch

from handler.errors import ModelError
from handler.model.custom_architecture import sources
from handler.model.sources import find_checkpoint
from tests.support.own import save_state

BARE = """
import torch
from torch import nn

def network(num_classes=2):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""
HOW = "PREPROCESSING = {'resize_size': 8, 'crop_size': 8, 'mean': [0, 0, 0], 'std': [1, 1, 1]}\n"


@pytest.fixture
def bare(importable):
    def write(*lines: str) -> str:
        (importable / "bare.py").write_text("\n".join([BARE, *lines]))
        return "bare:network"

    return write


def test_all_of_it_may_be_declared(bare):
    found = find_checkpoint(bare(HOW, "LABELS = ('a', 'b')", "def weights(): return network().state_dict()"))
    assert (found.architecture, found.labels, found.preprocessing.crop_size) == ("bare:network", ["a", "b"], 8)
    assert isinstance(found.state["0.weight"], torch.Tensor)
    assert find_checkpoint("bare:network", labels=["c", "d"]).labels == ["c", "d"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([HOW], r"comes without weights: give a file, checkpoint=, or define weights\(\) in bare"),
        (["def weights(): raise OSError('gone')"], r"bare.weights\(\) fails \(OSError: gone\)"),
        (["def weights(): return [1]"], "returns a list, valid is a state dict"),
        (["def weights(): return network()"], "returns a Sequential, valid is a state dict"),
        (["def weights(): return network().state_dict()", HOW], "bare:network does not say its labels"),
        (["def weights(): return network().state_dict()", "LABELS = ['a', 'b']"], "what is done to a picture"),
        (["LABELS = 'ab'", "def weights(): return network().state_dict()"], "LABELS must be a list of texts"),
        (["LABELS = 3", "def weights(): return network().state_dict()"], "LABELS must be a list of texts"),
        (["PREPROCESSING = {'mean': 3}", "def weights(): return {'a': torch.ones(1)}"], "PREPROCESSING is not valid"),
    ],
)
def test_what_is_missing_or_wrong_is_named(bare, lines, said):
    with pytest.raises(ModelError, match=said):
        find_checkpoint(bare(*lines))


def test_preprocessing_may_be_said_instead_or_in_part(bare):
    said = "resize=16 crop=8 mean=0,0,0 std=1,1,1"
    lines = ["LABELS = ['a', 'b']", "def weights(): return network().state_dict()"]
    found = find_checkpoint(bare(*lines), preprocessing=said)
    assert (found.preprocessing.resize_size, found.preprocessing.crop_size) == (16, 8)
    assert found.origins == {"labels": "as bare declares it", "preprocessing": "as said"}
    with pytest.raises(ModelError, match="lacks mean, std, which nothing else says"):
        find_checkpoint("bare:network", preprocessing="resize=16 crop=8")


def test_preprocessing_that_is_declared_stays_where_nothing_is_said(bare):
    lines = [HOW, "LABELS = ['a', 'b']", "def weights(): return network().state_dict()"]
    found = find_checkpoint(bare(*lines), preprocessing="resize=16")
    assert (found.preprocessing.resize_size, found.preprocessing.crop_size) == (16, 8)
    assert found.origins["preprocessing"] == "resize as said, the rest as bare declares it"


def test_torchvisions_weights_are_not_its_own(bare):
    with pytest.raises(ModelError, match=r"weights 'DEFAULT' are torchvision's; bare:network takes a file of its own"):
        find_checkpoint(bare(), weights="DEFAULT")


def test_packages_are_a_list(bare):
    assert sources(bare("PACKED = ['one', 'two.three']")) == ["bare", "one", "two.three"]


@pytest.mark.parametrize("packed", ["'one'", "3", "[1]"])
def test_packages_that_are_none_are_refused(bare, packed):
    with pytest.raises(ModelError, match="PACKED must be a list"):
        sources(bare(f"PACKED = {packed}"))


def test_a_plain_state_dict_takes_labels_and_preprocessing_from_the_module(bare, tmp_path):
    architecture = bare(HOW, "LABELS = ['a', 'b']")
    from bare import network

    found = find_checkpoint(architecture, checkpoint=save_state(tmp_path / "a.pth", network().state_dict()))
    assert found.labels == ["a", "b"]
