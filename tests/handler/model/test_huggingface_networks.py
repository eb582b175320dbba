import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from examples.random_weights import enliven
from handler.errors import ModelError
from handler.model import makers
from handler.model.checkpoint import write_checkpoint
from handler.model.classifier import build_classifier
from handler.model.huggingface_networks import declare
from handler.model.sources import find_checkpoint
from handler.picture.preprocess import preprocess
from tests.soundness import huggingface_networks
from tests.soundness.huggingface_networks import Scores

NAMES = {index: f"kind {index}" for index in range(10)}
# processors of different geometry: squash, squash then crop, crop after resizing, by a share, blue first, crop first
PROCESSORS = {
    "vit": (transformers.ViTImageProcessorPil, {"size": {"height": 64, "width": 64}}),
    "deit": (transformers.DeiTImageProcessorPil, {"size": {"height": 72, "width": 72}, "crop_size": 64}),
    "bit": (transformers.BitImageProcessorPil, {"size": {"shortest_edge": 70}, "crop_size": 64}),
    "convnext": (transformers.ConvNextImageProcessorPil, {"size": {"shortest_edge": 64}, "crop_pct": 0.8}),
    "levit": (transformers.LevitImageProcessorPil, {"size": {"shortest_edge": 56}, "crop_size": 56}),
    "mobilevit": (transformers.MobileViTImageProcessorPil, {"size": {"shortest_edge": 72}, "crop_size": 64}),
    "perceiver": (transformers.PerceiverImageProcessorPil, {"size": {"height": 64, "width": 64}, "crop_size": 72}),
    "efficientnet": (transformers.EfficientNetImageProcessorPil, {"size": {"height": 64, "width": 64}, "resample": 0}),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def save(tmp_path):
    """Writes what save_pretrained writes of a network, and of an image processor."""

    def write(kind, processor=None, **options):
        builder = huggingface_networks.builder(kind)
        config = builder.config_class(**huggingface_networks.NETWORKS[kind][1] | options, id2label=NAMES)
        torch.manual_seed(0)
        module = builder(config).eval()
        enliven(Scores(module, "pixel_values"), torch.randn(4, 3, 64, 64), classes=10)
        module.save_pretrained(tmp_path / "mine")
        if processor:
            made, said = PROCESSORS[processor]
            made(**said).save_pretrained(tmp_path / "mine")
        return module, tmp_path / "mine"

    return write


def pictures():
    """Of which every resized side leaves an even margin, and some more."""
    for number, (rows, columns) in enumerate([(16, 32), (40, 20), (12, 12)]):
        cells = np.random.default_rng(number).integers(0, 256, (rows, columns, 3), np.uint8)
        yield cells.repeat(15, axis=0).repeat(15, axis=1)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_preprocessing_equals_the_image_processors(save, kind):
    _, folder = save("vit", kind)
    found = declare(f"hf/{folder}")
    made, said = PROCESSORS[kind]
    for picture in pictures():
        (expected,) = made(**said)(images=Image.fromarray(picture), return_tensors="np")["pixel_values"]
        ours = preprocess(picture, found.preprocessing).tensor
        np.testing.assert_allclose(ours[::-1] if found.options["flipped"] else ours, expected, atol=1e-6)
    cropped = found.preprocessing.crop_mode == "center" and not found.preprocessing.crop_first
    assert ("one pixel further up or left" in found.origins["preprocessing"]) == cropped


def test_what_the_library_computes_differently_is_told(save):
    _, folder = save("vit")
    transformers.DINOv3ViTImageProcessor(size={"height": 72, "width": 72}).save_pretrained(folder)  # resizes tensors
    assert "whose own pictures differ by up to 1.0 grey levels" in declare(f"hf/{folder}").origins["preprocessing"]


def test_a_processor_that_nothing_equals_must_be_described(save):
    _, folder = save("vit")
    made = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64}, do_pad=True, do_resize=False)
    made.save_pretrained(folder)
    with pytest.raises(ModelError, match="nothing says what is done to a picture for hf/mine: say preprocessing="):
        find_checkpoint(f"hf/{folder}")


@pytest.mark.parametrize(("kind", "processor"), [("vit", "vit"), ("resnet", "bit"), ("mobilevit", "mobilevit")])
def test_scores_are_the_librarys_and_the_folder_is_needed_no_longer(save, tmp_path, kind, processor):
    module, folder = save(kind, processor)
    found = find_checkpoint(f"hf/{folder}")
    assert (found.architecture, found.labels) == ("hf/mine", list(NAMES.values()))
    assert found.origins["labels"] == "as mine's configuration has them"
    assert str(tmp_path) not in json.dumps(found.options)
    write_checkpoint(tmp_path / "a.safetensors", found)
    shutil.rmtree(folder)
    classifier = build_classifier(find_checkpoint(checkpoint=tmp_path / "a.safetensors"))
    made, said = PROCESSORS[processor]
    for picture in pictures():
        theirs = made(**said)(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        ours = torch.from_numpy(preprocess(picture, classifier.preprocessing).tensor)[None]
        with torch.no_grad():
            torch.testing.assert_close(classifier.module(ours), module(theirs).logits)


def test_a_plain_state_dict_takes_the_description_of_the_folder(save, tmp_path):
    module, folder = save("vit", "vit")
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    found = find_checkpoint(f"hf/{folder}", checkpoint=tmp_path / "a.safetensors")
    assert (found.architecture, found.labels) == ("hf/mine", list(NAMES.values()))
    assert "assumed" in found.origins["preprocessing"]
    build_classifier(found)


def test_weights_without_a_classifier_are_refused(save):
    module, folder = save("vit", "vit")
    module.vit.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"has no weights for classifier\.bias.*it is no trained classifier"):
        find_checkpoint(f"hf/{folder}")


def test_code_of_a_repository_does_not_run(save):
    _, folder = save("vit", "vit")
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "code.py").write_text("raise SystemExit('code of the repository runs')")
    with pytest.raises(ModelError, match=r"could not be loaded \(ValueError"):
        find_checkpoint(f"hf/{folder}")


def test_a_network_of_timms_is_sent_to_timm(save):
    _, folder = save("vit", "vit")
    content = {"model_type": "timm_wrapper", "architecture": "test_resnet", "num_classes": 3}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="is timm's: valid is model=timm/hf-hub:ID, or timm/local-dir:FOLDER"):
        find_checkpoint(f"hf/{folder}")


@pytest.mark.parametrize("place", ["nowhere/at-all", "/nowhere/at/all", ""])
def test_what_cannot_be_loaded_says_what_to_do(place):
    with pytest.raises(ModelError, match=f"hf/{place} could not be loaded .*save_pretrained wrote.*HF_HOME") as said:
        find_checkpoint(f"hf/{place}")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(("name", "package"), [("hf/a", "transformers"), ("timm/a", "timm")])
def test_a_package_that_is_missing_is_named(monkeypatch, name, package):
    monkeypatch.setattr(makers, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=f"{name} needs {package}: pip install {package}"):
        find_checkpoint(name)
    assert makers.maker_of("resnet18").tried
