"""The fine-tuning example, from the pictures to the maps of what it wrote."""

import _thread
import shutil
import subprocess
import sys
from dataclasses import replace
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from examples.finetune import loop, network
from examples.finetune.__main__ import main
from examples.finetune.data import HeldOutPictures, TrainingPictures, drops_last, find_pictures
from examples.finetune.network import (
    build,
    find_start,
    freeze_all_but,
    learns_batch_norm,
    scores_and_losses,
    train_mode,
)
from examples.finetune.state import Epoch, best_epoch
from examples.shapes.draw import draw
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.maps import make_maps, needs_of
from handler.model.checkpoint import read_checkpoint
from handler.model.registry import ARCHITECTURES
from handler.model.sources import load_classifier, read_labels
from handler.picture.preprocess import preprocess
from tests.support.models import random_classifier
from tests.support.serving import CHECKPOINT, ROOT

CLASSES = ["circle", "spiral", "star"]
# the embedded model knows these shapes, so that a few steps of a new head show whether it is trained
START = ["--checkpoint", str(CHECKPOINT), "--size", "64", "--workers", "0", "--device", "cpu"]


def draw_folder(folder, train=12, val=6, side=80):
    """An ImageFolder of ``CLASSES``."""
    for part, count in enumerate((train, val)):
        for place, label in enumerate(CLASSES):
            of_class = folder / ("train", "val")[part] / label
            of_class.mkdir(parents=True)
            for number in range(count):
                image = draw(np.random.default_rng([part, place, number]), [label], side, (0.6, 0.9)).image
                Image.fromarray(image).save(of_class / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def few(tmp_path):
    """A folder of its own that a test may change."""
    return draw_folder(tmp_path / "data", train=2, val=1, side=40)


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    """The folder that a run of four epochs left."""
    out = tmp_path_factory.mktemp("tuned")
    assert main([str(data), *START, "--epochs", "4", "--out", str(out)]) == 0
    return out


def weights(out):
    return read_checkpoint(out / loop.BEST).state


def history(out):
    return [Epoch(**one) for one in torch.load(out / loop.STATE, weights_only=True)["history"]]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fails(capsys, *arguments):
    """Runs a command that must be refused, and returns the one line that says why."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    return said


# ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_head_learns_what_the_pictures_show(tuned):
    epochs = history(tuned)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1].train_loss < 0.9 * epochs[0].train_loss
    assert epochs[-1].train_accuracy > epochs[0].train_accuracy + 0.2
    assert best_epoch(epochs).val_accuracy >= 0.7
    assert best_epoch(epochs).val_loss < 0.9 * np.log(len(CLASSES))


def test_all_layers_learn(tuned):
    before = read_checkpoint(CHECKPOINT).state
    still = [name for name, value in weights(tuned).items() if torch.equal(value, before[name])]
    assert [name for name in still if not name.endswith(".bias")] == []  # the next batch norm takes out some biases


def test_the_folder_holds_all_it_promises_and_nothing_half_written(tuned):
    assert sorted(path.name for path in tuned.iterdir()) == ["best.safetensors", "curves.png", "labels.txt", "state.pt"]
    assert read_labels(tuned / "labels.txt") == CLASSES
    picture = cv2.imread(str(tuned / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 200
    assert picture.std() > 5
    notes = read_checkpoint(tuned / "best.safetensors").notes
    best = best_epoch(history(tuned))
    assert (notes["epoch"], notes["val_accuracy"]) == (str(best.number), f"{best.val_accuracy:.4f}")
    assert notes["started_from"].startswith("shapes.safetensors ")


def test_the_checkpoint_is_served_as_it_was_judged(tuned, data):
    """The served classifier names the held-out pictures with the accuracy that training noted."""
    classifier = load_classifier(checkpoint=tuned / "best.safetensors")
    assert classifier.labels == CLASSES
    assert classifier.preprocessing.crop_size == classifier.preprocessing.resize_size == 64
    samples = find_pictures(data).val
    inputs = np.stack([image.numpy() for image, _ in HeldOutPictures(samples, classifier.preprocessing)])
    logits = TorchEngine(classifier).run(inputs, [[]] * len(inputs), needs_of([], [])).logits
    right = float(np.mean(logits.argmax(1) == [label for _, label in samples]))
    assert right == pytest.approx(best_epoch(history(tuned)).val_accuracy)


def test_make_archive_packs_it(tuned, tmp_path):
    source = ["--checkpoint", tuned / "best.safetensors", "--labels", tuned / "labels.txt", "--no-sidecar"]
    command = [sys.executable, "-m", "export", "archive", *source, "--store", tmp_path, "--name", "tuned"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shufflenet_v2_x0_5, 3 classes" in done.stdout
    assert (tmp_path / "tuned.mar").is_file()


@pytest.mark.parametrize("label", CLASSES)
def test_its_maps_equal_those_of_pytorch_grad_cam(tuned, data, label):
    classifier, theirs = (load_classifier(checkpoint=tuned / "best.safetensors") for _ in range(2))
    target, path = CLASSES.index(label), sorted((data / "val" / label).iterdir())[0]
    seen = preprocess(np.asarray(Image.open(path)), classifier.preprocessing).tensor[None]
    maps_wanted = ["gradcam", "guided_backprop"]
    found = TorchEngine(classifier).run(seen, [[target]], needs_of(maps_wanted, [classifier.default_layer]))
    maps = make_maps(found, 0, maps_wanted, "gradcam", at_layer=False)

    module = theirs.module.requires_grad_(True)
    with GradCAM(module, [module.get_submodule(theirs.default_layer)]) as cam:
        by_gradcam = cam(torch.from_numpy(seen), [ClassifierOutputTarget(target)])[0]
    by_guided = GuidedBackpropReLUModel(module)(torch.from_numpy(seen), target)
    assert by_gradcam.max() > 0.99
    np.testing.assert_allclose(maps["gradcam"].values, by_gradcam, rtol=0, atol=1e-5)
    assert np.abs(by_guided).max() > 1e-3
    np.testing.assert_allclose(maps["guided_backprop"].values, by_guided, rtol=0, atol=1e-6 * np.abs(by_guided).max())


# ── chance and interruptions ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_seed_gives_the_same_weights_whatever_the_number_of_workers(tuned, data, tmp_path):
    for name, more in {"two workers": ["--workers", "2"], "other seed": ["--seed", "1"]}.items():
        assert main([str(data), *START, "--epochs", "1", "--out", str(tmp_path / name), *more]) == 0
    assert history(tmp_path / "two workers") == history(tuned)[:1]
    assert history(tmp_path / "other seed") != history(tuned)[:1]
    again = tmp_path / "again"
    assert main([str(data), *START, "--epochs", "4", "--out", str(again)]) == 0
    assert same(weights(again), weights(tuned))
    assert history(again) == history(tuned)


@pytest.mark.parametrize("start", [START, ["--model", "squeezenet1_1", "--weights", "none", *START[2:]]])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(start, data, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the middle of the second epoch; momentum, and in SqueezeNet dropout, depend on all steps before."""
    whole, broken = ([str(data), *start, "--epochs", "3", "--step", "1", "--out", str(tmp_path / n)] for n in "ab")
    assert main(whole) == 0
    steps = []

    def counted(*arguments):
        steps.append(torch.is_grad_enabled())  # off while it is judged
        if sum(steps) == 9 + 4:
            _thread.interrupt_main()
        return scores_and_losses(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "scores_and_losses", counted)
        assert main(broken) == 130
    assert "interrupted: the epochs before this one are kept; the same command goes on" in capsys.readouterr().err
    assert [epoch.number for epoch in history(tmp_path / "b")] == [1]
    assert main(broken) == 0
    assert "continues after epoch 1" in capsys.readouterr().out
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert [epoch.rate for epoch in history(tmp_path / "b")] == pytest.approx([1e-3, 1e-4, 1e-5])
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    states = [torch.load(tmp_path / name / loop.STATE, weights_only=True) for name in "ab"]
    assert same(states[0]["module"], states[1]["module"])
    assert states[0]["chance"]["python"] == states[1]["chance"]["python"]


def test_ctrl_c_in_the_first_epoch_says_that_nothing_is_kept(few, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "scores_and_losses", lambda *_: _thread.interrupt_main() or _forever())
    assert main([str(few), *START, "--out", str(tmp_path / "out")]) == 130
    assert "no epoch was complete yet" in capsys.readouterr().err
    assert not (tmp_path / "out" / loop.STATE).exists()


def _forever():
    while True:
        pass


def test_a_finished_run_says_so_and_goes_on_when_asked_for_more(few, tmp_path, capsys):
    command = [str(few), *START, "--out", str(tmp_path / "out"), "--epochs"]
    assert main([*command, "1"]) == 0
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main([*command, "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("finished: 1 epoch; the best is 1")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == written
    assert main([*command, "2"]) == 0
    assert "continues after epoch 1" in capsys.readouterr().out
    assert len(history(tmp_path / "out")) == 2


def test_a_run_with_other_settings_is_refused_unless_it_restarts(few, tmp_path, capsys):
    out = tmp_path / "out"
    command = [few, *START, "--out", out, "--epochs", "1"]
    assert main([str(argument) for argument in command]) == 0
    said = fails(capsys, *command, "--seed", "3", "--freeze")
    assert "--freeze (False there, True here); --seed (0 there, 3 here)" in said
    assert "--restart" in said
    (few / "train" / "star" / "0.png").rename(few / "train" / "star" / "9.png")
    assert "pictures (" in fails(capsys, *command)
    assert main([str(argument) for argument in [*command, "--seed", "3", "--restart"]]) == 0
    assert read_checkpoint(out / loop.BEST).notes["seed"] == "3"
    (out / loop.BEST).unlink()
    assert "is missing; --restart" in fails(capsys, *command, "--seed", "3")
    (out / loop.STATE).write_bytes(b"half a file")
    assert "is damaged" in fails(capsys, *command)


def test_a_restart_that_cannot_begin_loses_nothing(few, tmp_path, capsys):
    out = tmp_path / "out"
    command = [few, *START, "--out", out, "--epochs", "1"]
    assert main([str(argument) for argument in command]) == 0
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    fails(capsys, *command, "--restart", "--batch-size", "1")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_the_best_epoch_is_that_of_the_highest_accuracy_then_the_lowest_loss_then_the_first():
    def epochs(*judged):
        return [
            Epoch(number=number, rate=0.1, train_loss=1.0, train_accuracy=0.5, val_loss=loss, val_accuracy=share)
            for number, (share, loss) in enumerate(judged, 1)
        ]

    assert best_epoch(epochs((0.5, 0.1), (0.9, 0.8), (0.9, 0.7), (0.9, 0.7), (0.8, 0.2))).number == 3


def test_the_best_epoch_is_kept_when_later_ones_are_worse(few, tmp_path, monkeypatch):
    judged = iter([(0.4, 0.5), (0.2, 1.0), (0.1, 0.5)])  # loss, accuracy
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(judged))
    assert main([str(few), *START, "--epochs", "3", "--out", str(tmp_path / "out")]) == 0
    assert read_checkpoint(tmp_path / "out" / loop.BEST).notes["epoch"] == "2"
    last = torch.load(tmp_path / "out" / loop.STATE, weights_only=True)["module"]
    assert not same(weights(tmp_path / "out"), last)


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_frozen_layers_stay_as_they_were_statistics_included(data, tmp_path):
    assert main([str(data), *START, "--epochs", "1", "--freeze", "--out", str(tmp_path)]) == 0
    before = read_checkpoint(CHECKPOINT).state
    changed = [name for name, value in weights(tmp_path).items() if not torch.equal(value, before[name])]
    assert sorted(changed) == ["fc.bias", "fc.weight"]


def test_the_optimiser_trains_the_new_head_and_the_old_trick_would_not():
    """What the one-line comment in network.py says: the number on the layer is not the layer."""
    theirs = torchvision.models.shufflenet_v2_x0_5()
    theirs.fc.out_features = 2
    assert theirs.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    ours = build(find_start("shufflenet_v2_x0_5", "none", None, ["ant", "bee"], 64)).module
    assert ours.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("architecture", "head"),
    [("timm/test_resnet", "fc"), ("timm/test_vit", "head"), ("timm/swin_tiny_patch4_window7_224", "head.fc")],
)
def test_networks_of_timm_have_a_head_that_is_found_and_can_be_trained(architecture, head):
    start = find_start(architecture, "none", None, ["ant", "bee", "cat"], None)
    network._try_out(start)
    assert network._head(start) == {f"{head}.weight", f"{head}.bias"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_classifier_of_torchvision_has_a_head_that_is_found_and_can_be_trained(architecture):
    """Shapes only, at the size of its weights: no memory is taken, and no time but Python's."""
    start = find_start(architecture, "none", None, ["ant", "bee", "cat"], None)
    head = network._head(start)
    network._try_out(start)
    assert 1 <= len(head) <= 6
    assert len({name.rpartition(".")[0] for name in head}) == {"googlenet": 3, "inception_v3": 2}.get(architecture, 1)


@pytest.mark.parametrize(
    ("architecture", "side", "head", "scores"),
    [
        ("shufflenet_v2_x0_5", 64, "fc", 1),
        ("squeezenet1_1", 64, "classifier.1", 1),
        ("mobilenet_v3_small", 64, "classifier.3", 1),
        ("googlenet", 64, "fc", 3),
        ("inception_v3", 299, "fc", 2),
        ("vit_b_32", 64, "heads.head", 1),
        ("swin_t", 64, "head", 1),
        ("maxvit_t", 224, "classifier.5", 1),
    ],
)
def test_heads_of_all_kinds_take_a_step(architecture, side, head, scores):
    """Two classes; the gradient reaches the head and the first layer, that of auxiliary heads included."""
    torch.manual_seed(0)
    start = find_start(architecture, "none", None, ["ant", "bee"], side)
    built = build(start)
    assert f"{head}.weight" in built.head
    train_mode(built.module)
    output = built.module(torch.randn(2, 3, side, side))
    assert (len(output) if isinstance(output, tuple) else 1) == scores
    logits, loss, descent = scores_and_losses(output, torch.tensor([0, 1]))
    assert logits.shape == (2, 2)
    assert (descent > loss) if scores > 1 else (descent is loss)
    descent.backward()
    without = [name for name, value in built.module.named_parameters() if value.grad is None]
    assert without == []


def test_every_weight_that_fits_is_taken_over_but_not_the_head(tmp_path):
    torch.save(random_classifier("googlenet", side=64).module.state_dict(), tmp_path / "plain.pth")
    labels = [f"class {index}" for index in range(10)]  # as many as the file's: its head would fit
    start = find_start("googlenet", "none", tmp_path / "plain.pth", labels, 64)
    built = build(start)
    assert set(built.fresh) == built.head
    ours = built.module.state_dict()
    taken = {name for name, value in start.state.items() if name in ours and torch.equal(ours[name], value)}
    assert set(ours) - taken == built.head
    assert start.options == {"transform_input": True}  # it is trained as it will be served
    assert built.module.transform_input is True


def test_a_vision_transformers_positions_are_fitted_to_another_picture_size(tmp_path):
    torch.save(random_classifier("vit_b_32", side=64).module.state_dict(), tmp_path / "small.pth")
    start = find_start("vit_b_32", "none", tmp_path / "small.pth", ["ant", "bee"], 128)
    built = build(start)
    assert set(built.fresh) == built.head
    assert built.module.encoder.pos_embedding.shape[1] == 17
    assert torch.equal(built.module.encoder.pos_embedding[:, 0], start.state["encoder.pos_embedding"][:, 0])


def test_inception_is_served_as_it_was_trained(few, tmp_path):
    """Its inputs are transformed once more with pretrained weights, and are not without."""
    out = tmp_path / "out"
    random = ["--model", "inception_v3", "--weights", "none", "--workers", "0", "--batch-size", "3"]
    assert main([str(few), *random, "--epochs", "1", "--out", str(out)]) == 0
    classifier = load_classifier(checkpoint=out / loop.BEST)
    assert classifier.module.transform_input is False
    assert classifier.preprocessing.crop_size == 299


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_that_cannot_be_learned_from_are_refused(few, tmp_path, capsys):
    assert "there is no folder" in fails(capsys, tmp_path / "nowhere", *START)
    assert f"there is no folder {few / 'train' / 'star' / 'train'}" in fails(capsys, few / "train" / "star", *START)
    (few / "val" / "star").rename(few / "val" / "moon")
    assert "only train/ has star; only val/ has moon" in fails(capsys, few, *START)
    (few / "val" / "moon").rename(few / "val" / "star")
    for path in (few / "val" / "star").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert f"{few / 'val'} has no pictures of star; valid are files *.jpg" in fails(capsys, few, *START)
    for part in ("train", "val"):
        for label in ("star", "circle"):
            shutil.rmtree(few / part / label)
    assert "has one class, spiral; valid are at least two" in fails(capsys, few, *START)
    shutil.rmtree(few / "train" / "spiral")
    assert "has no class folders" in fails(capsys, few, *START)


def test_hidden_files_and_folders_are_no_pictures_and_no_classes(few):
    before = find_pictures(few)
    (few / "train" / ".ipynb_checkpoints").mkdir()
    (few / "train" / "star" / "._0.png").write_bytes(b"a file system's notes")
    assert find_pictures(few) == before


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_picture_is_named(few, tmp_path, capsys, workers):
    bad = few / "train" / "star" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    said = fails(capsys, few, *START, "--workers", workers, "--out", tmp_path / "out")
    assert said.startswith(f"error: {bad} cannot be read: the PNG picture is truncated")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet19"], "'resnet19' is no torchvision classifier, valid are alexnet"),
        (["--model", "resnet18", "--weights", "BEST"], "valid are IMAGENET1K_V1, DEFAULT"),
        (["--model", "resnet18", "--checkpoint", "nowhere.pth"], "checkpoint nowhere.pth does not exist"),
        (["--model", "resnet18", "--checkpoint", CHECKPOINT], "the checkpoint is of shufflenet_v2_x0_5, not of"),
        (
            ["--model", "inception_v3", "--weights", "none", "--size", "32"],
            "inception_v3 cannot be trained on pictures",
        ),
        (
            ["--model", "maxvit_t", "--weights", "none", "--size", "64"],
            "maxvit_t cannot be trained on pictures of 64x64",
        ),
        (["--checkpoint", CHECKPOINT, "--batch-size", "1"], "valid is --batch-size 2 or more"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused(few, tmp_path, capsys, arguments, said):
    assert said in fails(capsys, few, *arguments, "--out", tmp_path / "out", "--workers", "0")
    assert not (tmp_path / "out").exists()


def test_the_file_that_would_be_overwritten_is_no_start(few, tmp_path, capsys):
    shutil.copy(CHECKPOINT, tmp_path / loop.BEST)
    assert "would be overwritten" in fails(capsys, few, "--checkpoint", tmp_path / loop.BEST, "--out", tmp_path)


@pytest.mark.parametrize(
    ("architecture", "source", "said"),
    [
        ("shufflenet_v2_x0_5", "resnet18", r"not one of shufflenet_v2_x0_5, which has no conv1\.weight"),
        ("resnet18", "resnet34", r"not one of resnet18, which has no layer1\.2\.conv1\.weight"),  # all of it would fit
        ("resnet50", "resnet18", r"not one of resnet50: only \d+ of \d+ weights fit"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, architecture, source, said):
    torch.save(random_classifier(source).module.state_dict(), tmp_path / "other.pth")
    start = find_start(architecture, "DEFAULT", tmp_path / "other.pth", ["ant", "bee"], None)
    with pytest.raises(loop.FineTuningError, match=said):
        build(start)


def test_a_download_that_fails_is_told_in_one_line(few, tmp_path, capsys, monkeypatch):
    def transfer(*_args, **_kwargs):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", transfer)
    said = fails(capsys, few, "--out", tmp_path / "out")
    assert "the weights of shufflenet_v2_x2_0 could not be downloaded" in said


@pytest.mark.parametrize(
    ("training", "said"),
    [(True, "the loss became nan in epoch 2; try a smaller --learning-rate"), (False, "the held-out pictures is not")],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_good(
    few, tmp_path, capsys, monkeypatch, training, said
):
    out = tmp_path / "out"
    command = [str(few), *START, "--out", str(out), "--epochs"]
    assert main([*command, "1"]) == 0
    kept = {path.name: path.read_bytes() for path in out.iterdir()}

    def overflowing(*arguments):
        scores, *losses = scores_and_losses(*arguments)
        return scores, *(loss * (np.nan if torch.is_grad_enabled() == training else 1) for loss in losses)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "scores_and_losses", overflowing)
        assert said in fails(capsys, *command, "2")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert main([*command, "2"]) == 0
    assert "continues after epoch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--seed", "-1"], ["--momentum", "1"], ["--device", "abacus"], ["--step", "x"]]
)
def test_options_out_of_range_are_refused(few, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(few), *START, *arguments])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_help_says_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for default in ("passes over the training pictures (default: 25)", "of SGD (default: 0.001)", "(default: 0.9)"):
        assert default in said
    assert "None" not in said
    assert "False" not in said


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_last_batch_of_one_is_left_out_only_where_batch_norm_would_learn_from_it():
    assert drops_last(9, 4, lonely=False)
    assert not drops_last(9, 4, lonely=True)
    assert not drops_last(8, 4, lonely=False)
    assert not drops_last(1, 1, lonely=True)
    with pytest.raises(loop.FineTuningError, match="there are 1 to train on"):
        drops_last(1, 4, lonely=False)


def test_frozen_batch_norms_learn_nothing():
    built = build(find_start("shufflenet_v2_x0_5", "none", None, ["ant", "bee"], 64))
    assert learns_batch_norm(built.module)
    freeze_all_but(built.module, built.head)
    assert not learns_batch_norm(built.module)
    train_mode(built.module)
    assert built.module.training
    assert not built.module.conv5[1].training
    assert not learns_batch_norm(build(find_start("squeezenet1_1", "none", None, ["ant", "bee"], 64)).module)


def test_crops_change_with_the_epoch_and_leave_the_global_chance_alone(data):
    how = replace(read_checkpoint(CHECKPOINT).preprocessing, resize_size=64, crop_size=64)
    varied = TrainingPictures(find_pictures(data).train, how, seed=1)
    chance = torch.get_rng_state()
    first, again = varied[3][0], varied[3][0]
    varied.epoch = 1
    later = varied[3][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert first.shape == (3, 64, 64)
    assert torch.equal(torch.get_rng_state(), chance)
