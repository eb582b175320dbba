import re
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torchvision

from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.model.classifier import build_network
from handler.model.sources import find_checkpoint, load_classifier
from tests.support.models import random_classifier


def saved(tmp_path, architecture="shufflenet_v2_x0_5", labels=None, **description):
    """A checkpoint of ten classes that describes itself only as told."""
    state = dict(random_classifier(architecture).module.state_dict())
    path = tmp_path / "model.safetensors"
    write_checkpoint(
        path, Checkpoint(architecture=description.get("says"), labels=labels, preprocessing=None, state=state)
    )
    return path


TEN = [str(number) for number in range(10)]


def test_a_checkpoint_becomes_a_frozen_classifier_in_eval_mode(tmp_path):
    classifier = load_classifier("shufflenet_v2_x0_5", checkpoint=saved(tmp_path), labels=TEN)
    assert classifier.labels == TEN
    assert not any(module.training for module in classifier.module.modules())
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters())
    assert classifier.preprocessing.crop_size == 224  # of torchvision's weights for this architecture


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("shufflenet_v2_x0_5", "conv5"),
        ("resnet18", "layer4"),
        pytest.param("vgg11", "features", marks=pytest.mark.slow),
        ("densenet121", "features"),
        ("mobilenet_v2", "features"),
        ("googlenet", "inception5b"),
    ],
)
def test_the_last_feature_layer_is_found(architecture, layer):
    assert random_classifier(architecture).default_layer == layer


def test_a_head_that_disagrees_with_the_labels_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"head 'fc.(weight|bias)' scores 10 classes, but there are 2 labels"):
        load_classifier("shufflenet_v2_x0_5", checkpoint=saved(tmp_path), labels=["cat", "dog"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "either torchvision's weights"),
        ({"weights": "DEFAULT"}, "belong to an architecture"),
        (
            {"architecture": "resnet19", "weights": "DEFAULT"},
            "'resnet19' is no torchvision classifier, valid are alexnet",
        ),
        ({"architecture": "fcn_resnet50", "weights": "DEFAULT"}, "is no torchvision classifier"),
        ({"architecture": "resnet18", "weights": "BEST"}, "valid are IMAGENET1K_V1, DEFAULT"),
    ],
)
def test_a_source_that_is_no_source_is_refused(arguments, said):
    with pytest.raises(ModelError, match=said):
        load_classifier(**arguments)


def test_a_checkpoint_without_description_needs_one(tmp_path):
    with pytest.raises(ModelError, match="architecture"):
        load_classifier(checkpoint=saved(tmp_path), labels=TEN)
    with pytest.raises(ModelError, match="labels="):
        load_classifier("shufflenet_v2_x0_5", checkpoint=saved(tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path):
    with pytest.raises(ModelError, match="not of resnet18"):
        load_classifier("resnet18", checkpoint=saved(tmp_path, says="shufflenet_v2_x0_5", labels=TEN))
    with pytest.raises(ModelError, match=r"weights missing|wants"):
        load_classifier("resnet18", checkpoint=saved(tmp_path), labels=TEN)


def test_default_weights_bring_their_labels_and_preprocessing(monkeypatch):
    """The download is torchvision's own code; here its last step, the transfer, hands over random weights."""
    asked = []

    def transfer(url, *_args, **_kwargs):
        asked.append(url)
        return torchvision.models.squeezenet1_1(num_classes=1000).state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", transfer)
    checkpoint = find_checkpoint("squeezenet1_1", weights="DEFAULT")
    assert asked[0].startswith("https://download.pytorch.org/models/squeezenet1_1")
    assert len(checkpoint.labels) == 1000
    assert "tabby" in checkpoint.labels
    assert checkpoint.preprocessing.resize_size == 256
    assert isinstance(checkpoint.state["features.0.weight"], torch.Tensor)


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_networks_that_transform_their_input_do_so_with_torchvisions_weights(tmp_path, monkeypatch, architecture):
    """torchvision's builder sets transform_input when it is given weights, and so must we."""
    theirs = torchvision.models.get_model(architecture, weights=None, init_weights=False)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: theirs.state_dict())
    builder = torchvision.models.get_model_builder(architecture)
    expected = builder(weights=torchvision.models.get_model_weights(architecture).DEFAULT).eval()
    checkpoint = find_checkpoint(architecture, weights="DEFAULT")
    write_checkpoint(tmp_path / "a.safetensors", checkpoint)
    ours = load_classifier(checkpoint=tmp_path / "a.safetensors").module
    assert ours.transform_input is expected.transform_input is True
    picture = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(picture), expected(picture))


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_an_input_transform_can_be_said_and_travels_with_the_weights(tmp_path, architecture):
    path = tmp_path / "scratch.pth"
    torch.save(torchvision.models.get_model(architecture, num_classes=10, init_weights=False).state_dict(), path)
    assumed = find_checkpoint(architecture, checkpoint=path, labels=TEN)
    assert assumed.options == {"transform_input": True}
    assert "assumed, say transform_input=0" in assumed.origins["transform_input"]
    said = find_checkpoint(architecture, checkpoint=path, labels=TEN, transform_input=False)
    assert said.origins["transform_input"] == "as said"
    write_checkpoint(tmp_path / "a.safetensors", said)
    again = find_checkpoint(checkpoint=tmp_path / "a.safetensors")
    assert again.origins["transform_input"] == "as the checkpoint says"
    assert build_network(again).transform_input is False
    assert build_network(find_checkpoint(checkpoint=tmp_path / "a.safetensors", transform_input=True)).transform_input


def test_an_input_transform_is_for_two_networks_alone(tmp_path):
    with pytest.raises(ModelError, match="has no input transform: transform_input= is for googlenet and inception_v3"):
        find_checkpoint("shufflenet_v2_x0_5", checkpoint=saved(tmp_path), labels=TEN, transform_input=False)


def test_preprocessing_can_be_said_and_its_origin_is_known(tmp_path):
    plain = {"checkpoint": saved(tmp_path), "labels": TEN}
    taken = find_checkpoint("shufflenet_v2_x0_5", **plain)
    assert taken.origins["preprocessing"].startswith("as torchvision's IMAGENET1K_V1 weights have it: assumed, say")
    assert taken.origins["labels"] == "as said"
    said = find_checkpoint("shufflenet_v2_x0_5", **plain, preprocessing="resize=96 crop=64")
    assert said.preprocessing == replace(taken.preprocessing, resize_size=96, crop_size=64)
    assert said.origins["preprocessing"].startswith("resize, crop as said, the rest as torchvision's IMAGENET1K_V1")
    write_checkpoint(tmp_path / "b.safetensors", said)
    again = find_checkpoint(checkpoint=tmp_path / "b.safetensors")
    assert (again.preprocessing, again.origins["preprocessing"]) == (said.preprocessing, "as the checkpoint says")


def test_messages_name_the_keys_that_are_in_the_file(tmp_path):
    state = {f"module.{name}": value for name, value in random_classifier("resnet18").module.state_dict().items()}
    path = tmp_path / "a.pth"
    torch.save(state, path)
    assert load_classifier("resnet18", checkpoint=path, labels=TEN).architecture == "resnet18"
    with pytest.raises(ModelError, match=r"head 'module.fc.(weight|bias)' scores 10 classes, but there are 2 labels"):
        load_classifier("resnet18", checkpoint=path, labels=["cat", "dog"])
    torch.save({**state, "module.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"'module.conv1.weight' has shape \(1,\), resnet18 wants \(64, 3, 7, 7\)"):
        load_classifier("resnet18", checkpoint=path, labels=TEN)
    torch.save({**state, **{f"module.extra.{index}": torch.zeros(1) for index in range(5)}}, path)
    unknown = r"0 weights missing, 5 unknown \(module.extra.0, module.extra.1, module.extra.2, …\)"
    with pytest.raises(ModelError, match=unknown):
        load_classifier("resnet18", checkpoint=path, labels=TEN)


def test_the_old_names_in_torchvisions_densenet_files_are_understood(tmp_path):
    state = random_classifier("densenet121").module.state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value for name, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    loaded = load_classifier("densenet121", checkpoint=tmp_path / "densenet121-a639ec97.pth", labels=TEN)
    assert loaded.module.state_dict().keys() == state.keys()


def test_heads_that_only_train_are_not_missed(tmp_path):
    state = random_classifier("googlenet").module.state_dict()
    path = tmp_path / "a.pth"
    torch.save({name: value for name, value in state.items() if not name.startswith("aux")}, path)
    assert load_classifier("googlenet", checkpoint=path, labels=TEN).architecture == "googlenet"


def test_a_download_that_fails_names_the_way_out(monkeypatch):
    def transfer(*_args, **_kwargs):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", transfer)
    with pytest.raises(ModelError, match=r"could not be downloaded .*no route.*checkpoint="):
        load_classifier("resnet18", weights="DEFAULT")


def test_a_network_that_asks_for_the_version_of_its_weights_takes_those_of_a_file(tmp_path):
    state = torchvision.models.mnasnet0_5(weights=None, num_classes=10).state_dict()
    torch.save(dict(state), tmp_path / "a.pth")
    assert load_classifier("mnasnet0_5", checkpoint=tmp_path / "a.pth", labels=TEN).default_layer == "layers"
