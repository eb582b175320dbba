import inspect

import numpy as np
import pytest
import torch

from handler.autograd.layer_maps import ChannelLayout
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.explanation.maps import needs_of
from handler.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from handler.model.classifier import build_network, in_fast_layout
from handler.model.custom_architecture import find_factory
from handler.model.sources import find_checkpoint, load_classifier
from handler.picture.preprocess import Preprocessing
from handler.protocol.options import DEFAULT_MAPS
from tests.support.own import save_state

SCALED = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def built(architecture, **known):
    return build_network(Checkpoint(architecture=architecture, **known))


@pytest.mark.usefixtures("ownnet")
def test_a_factory_becomes_a_classifier_with_layers_and_every_map():
    classifier = load_classifier("ownnet.net:Network")
    assert classifier.labels == ["red", "green", "blue"]
    assert classifier.preprocessing.crop_size == 32
    assert list(classifier.layers) == ["pair.first", "pair.second", "pair"]
    assert classifier.default_layer == "pair"
    assert not classifier.module.training
    inputs = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    evidence = TorchEngine(classifier).run(inputs, [[1]], needs_of(DEFAULT_MAPS, ["pair"]))
    assert evidence.coverage == "2 of 2 activations"
    assert np.abs(evidence.guided).max() > 0


@pytest.mark.usefixtures("ownnet")
def test_the_head_is_sized_from_the_labels_if_the_factory_takes_num_classes(tmp_path):
    state = built("ownnet.net:Network", labels=list("abcde")).state_dict()
    path, five = save_state(tmp_path / "five.pth", state), list("abcde")
    classifier = load_classifier("ownnet.net:Network", checkpoint=path, labels=five)
    assert classifier.labels == five
    assert torch.equal(classifier.module.head.weight, state["head.weight"])
    with pytest.raises(ModelError, match="head 'head.weight' scores 5 classes, but there are 3 labels"):
        load_classifier("ownnet.net:Network", checkpoint=path)
    with pytest.raises(ModelError, match=r"'head.weight' has shape \(5, 8\), ownnet.net:fixed wants \(3, 8\)"):
        load_classifier("ownnet.net:fixed", checkpoint=path, labels=five)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("ownnet.net", "is no torchvision classifier.*package.module:factory"),
        ("ownnet.net:", "valid is package.module:factory"),
        ("own-net:Network", "valid is package.module:factory"),
        ("ownnet.nothing:Network", "ownnet.nothing cannot be imported .ModuleNotFoundError.*valid is a module"),
        ("nowhere:Network", "No module named 'nowhere'"),
        ("broken:network", r"broken cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("ownnet.net:Netwrk", "there is no 'Netwrk', but InPlace, Network, Pair, Path, ends_in_softmax"),
        ("leaves:network", r"leaves cannot be imported \(SystemExit: 0\)"),
        ("ownnet.net:constant", "constant is an int and cannot be called, valid is a function or class"),
        ("ownnet.net:no_network", "returns a dict, valid is a torch.nn.Module"),
        ("ownnet.net:no_weights", "has no weights"),
        ("ownnet.net:fails", r"ownnet.net:fails fails \(RuntimeError: out of cheese\)"),
    ],
)
def test_a_factory_that_is_none_is_refused(ownnet, tmp_path, architecture, said):
    (ownnet.parent / "broken.py").write_text("1 / 0")
    (ownnet.parent / "leaves.py").write_text("import sys\nsys.exit(0)")
    path = save_state(tmp_path / "a.pth", {"weight": torch.zeros(1)})
    with pytest.raises(ModelError, match=said):
        load_classifier(architecture, checkpoint=path, labels=["a", "b", "c"])


@pytest.mark.usefixtures("ownnet")
@pytest.mark.parametrize(
    ("factory", "labels", "said"),
    [
        ("tuple_of_scores", 3, r"answers with a tuple; valid is output= with the name of the scores: 0 \(1, 3\), 1 "),
        ("maps", 3, r"answers one picture with torch.float32 \(1, 3, 32, 32\), valid is"),
        ("infinite", 3, "not finite"),
        ("ends_in_softmax", 3, "ends in a softmax; valid are logits"),
        ("random", 3, "answers the same picture differently each time.*F.dropout needs training=self.training"),
        ("wants_grey", 3, r"fails on a picture \(1, 3, 32, 32\) \(RuntimeError.*valid is a network that takes float32"),
        ("fixed", 2, "scores 3 classes, but there are 2 labels"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, factory, labels, said):
    architecture = f"ownnet.net:{factory}"
    path = save_state(tmp_path / "a.pth", built(architecture, labels=list("abc")).state_dict())
    with pytest.raises(ModelError, match=said):
        load_classifier(architecture, checkpoint=path, labels=list("abc")[:labels])


@pytest.mark.usefixtures("ownnet")
def test_a_network_that_works_in_place_leaves_its_pictures_as_they_are():
    engine = TorchEngine(load_classifier("ownnet.net:InPlace"))
    inputs = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    before = inputs.copy()
    first = engine.run(inputs, [[1]], needs_of([], []))
    explained = engine.run(inputs, [[1]], needs_of(DEFAULT_MAPS, ["pair"]))
    assert np.array_equal(inputs, before)
    assert np.array_equal(first.logits, explained.logits)


GUESSED = """
from torch import nn
LABELS = ["a", "b"]
PREPROCESSING = {"resize_size": 32, "crop_size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}

def flattened():
    blocks = [nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(256, 1), nn.Flatten(1), nn.Linear(64, 2)]
    return nn.Sequential(*blocks)

class Scale(nn.Module):
    def forward(self, x):
        return x / (x * x).mean(-1, keepdim=True).add(1e-6).sqrt()

class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.head = nn.Conv2d(3, 24, 3, 4, 1), Scale(), nn.Linear(24, 2)

    def forward(self, x):
        return self.head(self.scale(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))

def weights_of(network):
    return network().state_dict()
"""


@pytest.mark.parametrize(
    ("factory", "layer", "view"),
    [("flattened", "2", ChannelLayout(grid=(16, 16))), ("Last", "scale", ChannelLayout(channel_axis=3))],
)
def test_channels_are_found_wherever_they_lie(importable, tmp_path, factory, layer, view):
    (importable / "guessed.py").write_text(GUESSED)
    architecture = f"guessed:{factory}"
    path = save_state(tmp_path / "a.pth", built(architecture).state_dict())
    classifier = load_classifier(architecture, checkpoint=path)
    assert (classifier.default_layer, classifier.views[layer]) == (layer, view)


@pytest.mark.usefixtures("ownnet")
def test_a_checkpoint_alone_does_not_run_the_code_that_it_names(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", find_checkpoint("ownnet.net:Network"))
    with pytest.raises(ModelError, match="which is code: say that it may run, architecture=ownnet.net:Network"):
        load_classifier(checkpoint=tmp_path / "a.safetensors")
    assert load_classifier("ownnet.net:Network", checkpoint=tmp_path / "a.safetensors").labels[0] == "red"


@pytest.mark.usefixtures("ownnet")
def test_its_layout_in_memory_is_left_to_its_code():
    classifier = in_fast_layout(load_classifier("ownnet.net:Network"))
    assert classifier.module.pair.second.weight.is_contiguous()


@pytest.mark.usefixtures("ownnet")
def test_a_factory_may_stand_in_a_class():
    assert callable(find_factory("ownnet.net:Network.forward"))


def test_weights_that_two_layers_share_are_stored(importable, tmp_path):
    (importable / "tied.py").write_text(
        "from torch import nn\nLABELS = ['a', 'b']\n"
        "PREPROCESSING = {'resize_size': 8, 'crop_size': 8, 'mean': [0, 0, 0], 'std': [1, 1, 1]}\n"
        "def network():\n"
        "    one = nn.Conv2d(3, 3, 3, padding=1)\n"
        "    return nn.Sequential(one, nn.ReLU(), one, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
        "def weights():\n    return network().state_dict()\n"
    )
    write_checkpoint(tmp_path / "tied.safetensors", find_checkpoint("tied:network"))
    state = read_checkpoint(tmp_path / "tied.safetensors").state
    assert torch.equal(state["0.weight"], state["2.weight"])


@pytest.mark.usefixtures("ownnet")
def test_a_factory_without_a_signature_is_called_without_arguments(monkeypatch):
    def none(_factory):
        raise ValueError("no signature found")  # as of callables that are written in C

    monkeypatch.setattr(inspect, "signature", none)
    assert built("ownnet.net:fixed", labels=list("abcde")).head.out_features == 3


@pytest.mark.parametrize("labels", ["numpy.array(['a', 'b'])", "0", "''"])
def test_declared_labels_that_are_no_list_are_refused(importable, labels):
    (importable / "declares.py").write_text(
        f"import numpy\nfrom torch import nn\nLABELS = {labels}\n\ndef factory():\n    return nn.Conv2d(3, 2, 1)\n"
        "\ndef weights():\n    return factory().state_dict()\n"
    )
    with pytest.raises(ModelError, match="^declares.LABELS must be a list of texts"):
        find_checkpoint("declares:factory")


COMPILED = """
import torch
from torch import nn
LABELS = ["a", "b"]
PREPROCESSING = {"resize_size": 32, "crop_size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))

def whole():
    return torch.compile(Network())

def part():
    network = Network()
    network.body[2] = torch.compile(network.body[2])
    network.body = torch.compile(network.body)
    return network

def called():
    network = Network()
    network.compile()
    network.body.compile()
    return network

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = Network()

    def forward(self, x):
        return self.module(x)

def lazy():
    blocks = [nn.LazyConv2d(8, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)]
    return nn.Sequential(*blocks)

class HalfLazy(Network):
    def __init__(self):
        super().__init__()
        self.auxiliary = nn.LazyLinear(3)
"""


@pytest.mark.parametrize("factory", ["whole", "part", "called"])
def test_a_compiled_network_is_used_as_it_was_written(importable, tmp_path, factory):
    """Hooks run in it, and a checkpoint fits that the compiled or the plain network wrote."""
    (importable / "compiled.py").write_text(COMPILED)
    network = built(f"compiled:{factory}")
    assert not any("_orig_mod" in name for name in network.state_dict())
    assert not any(module._compiled_call_impl for module in network.modules())
    state = find_factory(f"compiled:{factory}")().state_dict()
    assert any("_orig_mod." in name for name in state) == (factory != "called")
    for named in (state, {name.replace("_orig_mod.", ""): value for name, value in state.items()}):
        classifier = load_classifier(f"compiled:{factory}", checkpoint=save_state(tmp_path / "a.pth", named))
        assert classifier.default_layer == "body"
        assert torch.equal(classifier.module.fc.weight, next(v for n, v in state.items() if n.endswith("fc.weight")))


def test_a_child_called_module_keeps_its_name(importable, tmp_path):
    (importable / "compiled.py").write_text(COMPILED)
    state = built("compiled:Named").state_dict()
    assert all(name.startswith("module.") for name in state)
    for named in (state, {f"module.{name}": value for name, value in state.items()}):
        classifier = load_classifier("compiled:Named", checkpoint=save_state(tmp_path / "a.pth", named))
        assert torch.equal(classifier.module.module.fc.weight, state["module.fc.weight"])


def test_lazy_weights_get_their_shapes_and_then_the_checkpoints_values(importable, tmp_path):
    (importable / "compiled.py").write_text(COMPILED)
    network = built("compiled:lazy", preprocessing=Preprocessing(resize_size=32, crop_size=32, **SCALED))
    assert network[4].in_features == 8 * 16 * 16
    path = save_state(tmp_path / "a.pth", network.state_dict())
    assert torch.equal(load_classifier("compiled:lazy", checkpoint=path).module[4].weight, network[4].weight)
    wrong = save_state(tmp_path / "b.pth", {**network.state_dict(), "4.weight": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match=r"'4.weight' has shape \(2, 3\), compiled:lazy wants \(2, 2048\)"):
        load_classifier("compiled:lazy", checkpoint=wrong)


def test_lazy_weights_without_a_shape_are_refused(importable, tmp_path):
    (importable / "compiled.py").write_text(COMPILED)
    path = save_state(tmp_path / "a.pth", built("compiled:whole").state_dict())
    with pytest.raises(ModelError, match=r"is lazy, and after a picture auxiliary.weight, auxiliary.bias still"):
        load_classifier("compiled:HalfLazy", checkpoint=path)
