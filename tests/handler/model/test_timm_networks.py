import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from examples.random_weights import enliven
from handler.errors import ModelError
from handler.model.checkpoint import write_checkpoint
from handler.model.classifier import build_classifier, build_network
from handler.model.sources import find_checkpoint
from handler.model.timm_networks import declare
from handler.picture.preprocess import preprocess
from tests.support.own import save_state

NAMES = ["cat", "dog", "bird"]
# centre, squash and border; larger pictures for tests, other means, bilinear
CONFIGURED = [
    *("resnet18.a1_in1k", "test_vit.r160_in1k", "swin_tiny_patch4_window7_224.ms_in1k", "resnetv2_50x1_bit.goog_in21k"),
    *(
        "tf_efficientnet_b0.in1k",
        "vit_base_patch16_siglip_224.webli",
        "inception_v3.tv_in1k",
        "mixer_b16_224.goog_in21k",
    ),
    *("vit_base_patch32_clip_224.laion2b_ft_in1k", "hgnetv2_b0.ssld_stage2_ft_in1k", "levit_128s.fb_dist_in1k"),
    *("coat_lite_medium_384.in1k", "deepseek_vit_412m.deepseek_v4_flash_vision_exp"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path):
    """What timm saves of a network that someone trained on three classes."""
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=3).eval()
    enliven(module, torch.randn(4, 3, 64, 64), classes=3)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    how = {"input_size": [3, 64, 64], "crop_pct": 0.8, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}
    content = {"architecture": "test_resnet", "num_classes": 3, "label_names": NAMES, "pretrained_cfg": how}
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path


def pictures():
    for number, (rows, columns) in enumerate([(15, 20), (22, 13), (4, 31)]):
        cells = np.random.default_rng(number).integers(0, 256, (rows, columns, 3), np.uint8)
        yield cells.repeat(20, axis=0).repeat(20, axis=1)


@pytest.mark.parametrize("name", CONFIGURED)
def test_preprocessing_equals_timms_own_transform(name):
    known = timm.get_pretrained_cfg(name).to_dict()
    expected, how = (
        create_transform(**resolve_data_config(pretrained_cfg=known, use_test_size=True)),
        declare(name_of(name)),
    )
    for picture in pictures():
        found = preprocess(picture, how.preprocessing).tensor
        np.testing.assert_allclose(found, expected(Image.fromarray(picture)).numpy(), atol=1e-6)


def name_of(name):
    return f"timm/{name}"


def test_the_configurations_above_are_of_all_kinds():
    kinds = {timm.get_pretrained_cfg(name).crop_mode for name in CONFIGURED}
    assert kinds == {"center", "squash", "border"}
    assert any(timm.get_pretrained_cfg(name).test_input_size for name in CONFIGURED)
    assert {timm.get_pretrained_cfg(name).interpolation for name in CONFIGURED} == {"bicubic", "bilinear"}


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [("resnet18.a1_in1k", 1000, "tench, Tinca tinca"), ("vit_tiny_patch16_224.augreg_in21k", 21843, "organism, being")],
)
def test_labels_are_those_of_the_data_by_the_number_of_scores(name, count, first):
    labels = declare(name_of(name)).labels
    assert (len(labels), labels[0]) == (count, first)


def test_labels_of_other_data_must_be_said(tmp_path):
    assert declare("timm/vit_small_patch14_dinov2.lvd142m").labels is None
    path = save_state(tmp_path / "a.pth", {"head.weight": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match="does not say its labels"):
        find_checkpoint("timm/vit_small_patch14_dinov2.lvd142m", checkpoint=path)


@pytest.mark.parametrize("name", ["resnet18.a9_in1k", "resnet_18", ""])
def test_an_unknown_name_is_refused_and_near_ones_are_named(name):
    with pytest.raises(ModelError, match=f"timm has no classifier '{name}', near are.*valid is timm/NAME") as said:
        find_checkpoint(name_of(name))
    assert not name or "resnet18" in str(said.value)


def test_a_folder_of_timms_is_read_by_timm_and_needed_no_longer(folder, tmp_path):
    found = find_checkpoint(f"timm/local-dir:{folder}")
    assert (found.architecture, found.labels) == ("timm/test_resnet", NAMES)
    assert found.origins["labels"] == found.origins["preprocessing"] == "as timm's test_resnet weights have it"
    original = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    own = create_transform(**resolve_data_config(model=original))
    write_checkpoint(tmp_path / "a.safetensors", found)
    (folder / "config.json").unlink()
    classifier = build_classifier(find_checkpoint(checkpoint=tmp_path / "a.safetensors"))
    for picture in pictures():
        seen = preprocess(picture, classifier.preprocessing).tensor
        with torch.no_grad():
            torch.testing.assert_close(
                classifier.module(torch.from_numpy(seen)[None]), original(own(Image.fromarray(picture))[None])
            )


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read by timm \(FileNotFoundError: Config file not found"):
        find_checkpoint(f"timm/local-dir:{tmp_path}")


def test_a_plain_state_dict_is_assumed_to_be_as_timms_weights(tmp_path):
    path = save_state(tmp_path / "a.pth", timm.create_model("test_resnet", num_classes=3).state_dict())
    found = find_checkpoint("timm/test_resnet", checkpoint=path, labels=NAMES, preprocessing="resize=80 crop=64")
    assert (found.preprocessing.crop_size, found.preprocessing.interpolation) == (64, "bilinear")
    assert found.origins["labels"] == "as said"
    assert "assumed" in find_checkpoint("timm/test_resnet", checkpoint=path, labels=NAMES).origins["preprocessing"]


def test_a_download_that_fails_says_what_to_do():
    with pytest.raises(ModelError, match=r"could not be loaded \(.*timm/resnet18\.a1_in1k.*local-dir:FOLDER") as said:
        find_checkpoint("timm/resnet18.a1_in1k")
    assert "\n" not in str(said.value)
    assert "HF_HOME" in str(said.value)


def test_a_folder_without_weights_says_what_to_do(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"could not be loaded \(.*; give a file, checkpoint="):
        find_checkpoint(f"timm/local-dir:{folder}")


def test_torchvisions_weights_are_not_timms():
    with pytest.raises(ModelError, match="weights 'IMAGENET1K_V1' are torchvision's"):
        find_checkpoint("timm/test_resnet", weights="IMAGENET1K_V1")


def test_pictures_that_timm_would_border_in_black_must_be_described(tmp_path):
    path = save_state(tmp_path / "a.pth", {"head.weight": torch.zeros(2, 3)})
    with pytest.raises(
        ModelError, match=r"nothing says what is done to a picture for timm/volo_d5_512.sail_in1k: say p"
    ):
        find_checkpoint("timm/volo_d5_512.sail_in1k", checkpoint=path)


@pytest.mark.parametrize(
    ("name", "said", "shape"),
    [
        ("vit_tiny_patch16_224", "resize=96 crop=96", (3, 96, 96)),  # built for 224
        ("test_resnet", "resize=96x64 crop=96x64", (3, 96, 64)),
        ("test_resnet", "channels=1 mean=0.5 std=0.5 resize=64 crop=64", (1, 64, 64)),
    ],
)
def test_it_is_built_for_the_pictures_that_are_said(tmp_path, name, said, shape):
    path = save_state(tmp_path / "a.pth", {"head.weight": torch.zeros(3, 3)})
    checkpoint = find_checkpoint(name_of(name), checkpoint=path, labels=NAMES, preprocessing=said)
    assert build_network(checkpoint).eval()(torch.zeros(1, *shape)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {"depth": 2}),
        ("vit_wee_patch16_reg1_gap_256", {"depth": 2}),
        ("vit_medium_patch16_reg4_gap_256", {"depth": 2, "embed_dim": 64, "num_heads": 2}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
    ],
)
def test_tokens_lie_where_timm_declares_them(name, options):
    bare = replace(declare(name_of(name)), labels=NAMES, options=options)
    module = build_network(bare).eval()
    enliven(module, torch.randn(4, *bare.preprocessing.shape), classes=3)
    classifier = build_classifier(replace(bare, state=module.state_dict()))
    view = classifier.views[classifier.default_layer]
    if name.startswith("swin"):  # channels last
        assert (view.channel_axis, view.grid) == (3, None)
    else:
        assert (view.first_token, view.grid) == (module.num_prefix_tokens, tuple(module.patch_embed.grid_size))
