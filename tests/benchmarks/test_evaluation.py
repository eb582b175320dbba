"""The measures of maps on cases whose answer is known, against other libraries, and a trial of the whole command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch
from PIL import Image
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from quantus.functions.similarity_func import correlation_spearman
from scipy.stats import spearmanr
from torch import nn

from benchmarks.evaluation import metrics
from benchmarks.evaluation.__main__ import main
from benchmarks.evaluation.measure import STAGES, Judge, cascade
from benchmarks.evaluation.report import blind, mean_ranks, ranks
from benchmarks.evaluation.subjects import drawn, mask_of, photographs, shapes
from benchmarks.evaluation.ways import ways
from examples.efficientnet_lite0.network import LABELS, PREPROCESSING
from examples.efficientnet_lite0.photographs import known_photographs
from examples.shapes import transformer
from examples.shapes.draw import SIZES
from handler.explanation import trust
from handler.explanation.methods import METHODS
from handler.picture.preprocess import Crop, Preprocessing

SIDE = 32


def box(top, left, bottom, right):
    return mask_of([(top, left, bottom, right)], Crop((SIDE, SIDE), (0, 0, SIDE, SIDE)), SIDE)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_a_box_is_cropped_and_scaled_with_its_picture():
    crop = Crop((100, 200), (0, 50, 50, 150))
    mask = mask_of([(20, 60, 40.5, 90)], crop, 50)  # a row of the upload is one of the crop, two columns are one
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 5, 19)
    assert mask.sum() == 20 * 15


def test_the_pointing_game_takes_points_less_than_15_pixels_from_the_box():
    mask = box(0, 0, 4, 4)
    assert metrics.points_at((3, 17), mask)
    assert not metrics.points_at((3, 18), mask)
    assert not metrics.points_at((3, 4), mask, tolerance=0)
    assert metrics.points_at((3, 3), mask, tolerance=0)


def test_a_perfect_map_has_all_its_mass_in_its_box_and_the_inverted_one_none():
    own, other = box(2, 2, 10, 10), box(20, 20, 28, 28)
    perfect = own.astype(np.float32)
    assert metrics.mass_in(perfect, own) == 1
    assert metrics.mass_in(1 - perfect, own) == 0
    assert metrics.mass_in(np.ones_like(perfect), own) == own.mean()
    assert metrics.mass_in(np.zeros_like(perfect), own) == own.mean()
    assert metrics.own_share(perfect, own, other) == 1
    assert metrics.own_share(1 - perfect, own, other) == 0
    assert metrics.own_share(np.ones_like(perfect), own, other) == 0.5
    assert metrics.own_share(np.zeros_like(perfect), own, other) == 0.5


def test_the_deletion_curve_of_a_linear_answer_has_the_area_of_its_closed_form():
    # the answer is the share of the object's pixels that are there; a perfect map takes them first, its inverse last
    mask = box(0, 0, 16, 32)
    tensor = np.ones((3, SIDE, SIDE), np.float32)
    areas = {}
    for name, values in (("perfect", mask), ("inverted", ~mask)):
        order = trust.pixel_order(values.astype(np.float32), np.random.default_rng(0).permutation(mask.size))
        answers = trust.deletion(tensor, order, SIDE)[:, 0][:, mask].mean(axis=1)
        areas[name] = float(trust.auc(answers))
    assert areas == pytest.approx({"perfect": 0.25, "inverted": 0.75})


def test_adcc_is_the_harmonic_mean_and_a_map_of_ones_is_worth_nothing():
    assert metrics.adcc(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert metrics.adcc(0.9, 0.2, 0.4) == pytest.approx(3 / (1 / 0.9 + 1 / 0.8 + 1 / 0.6))
    assert metrics.drop(0.8, 0.2) == pytest.approx(0.75)
    assert metrics.drop(0.8, 0.8) == 0  # of a map of ones
    assert metrics.adcc(1.0, 1.0, 0.0) == 0


def test_coherency_is_one_for_a_map_that_comes_again_and_zero_for_its_negative():
    values = noise(SIDE, SIDE)
    assert metrics.coherency(values, 3 * values + 1) == pytest.approx(1)
    assert metrics.coherency(values, -values) == pytest.approx(0)
    assert metrics.coherency(values, np.ones_like(values)) == 0.5


def test_rank_correlation_is_scipys_with_ties_and_zero_for_a_constant():
    one, other = np.round(noise(200) * 9), np.round(noise(200, seed=1) * 9)
    assert metrics.spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert metrics.spearman(one, np.ones(200)) == 0


def test_the_single_deletion_score_is_one_for_the_map_of_a_linear_network():
    weights = noise(SIDE, SIDE)
    drops = [float(weights[mask].sum()) for mask in metrics.patches(SIDE)]
    assert sum(mask.sum() for mask in metrics.patches(SIDE)) == SIDE * SIDE
    assert metrics.single_deletion(weights, drops) == pytest.approx(1)
    assert metrics.single_deletion(-weights, drops) == pytest.approx(-1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_roads_imputation_is_that_of_pytorch_grad_cam(share):
    tensor, missing = noise(3, SIDE, SIDE), noise(SIDE, SIDE, seed=1) < share
    expected = NoisyLinearImputer(noise=0)(torch.from_numpy(tensor), torch.from_numpy((~missing).astype(np.float32)))
    np.testing.assert_allclose(metrics.impute(tensor, missing, noise=0), expected.numpy(), atol=1e-5)
    noisy = metrics.impute(tensor, missing) - metrics.impute(tensor, missing, noise=0)
    assert (noisy[:, ~missing] == 0).all()
    assert noisy[:, missing].std() == pytest.approx(0.01, rel=0.2)


def test_drop_and_increase_are_those_of_pytorch_grad_cam_but_relative():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5)).eval()
    tensors, maps = noise(4, 3, SIDE, SIDE), noise(4, SIDE, SIDE, seed=1)
    with torch.no_grad():
        whole = network(torch.from_numpy(tensors)).softmax(1)[:, 2].tolist()
        kept = network(torch.from_numpy(tensors * maps[:, None])).softmax(1)[:, 2].tolist()
    given = torch.from_numpy(tensors), maps, [ClassifierOutputSoftmaxTarget(2)] * 4, network
    drops = [metrics.drop(before, after) * before for before, after in zip(whole, kept, strict=True)]
    assert 0 < sum(drop > 0 for drop in drops) <= 4
    np.testing.assert_allclose(drops, DropInConfidence()(*given), atol=1e-6)
    assert [before < after for before, after in zip(whole, kept, strict=True)] == list(IncreaseInConfidence()(*given))


def test_places_deletion_and_ranks_are_those_of_quantus():
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 5)).eval()
    tensors, maps = noise(6, 1, SIDE, SIDE), noise(6, 1, SIDE, SIDE, seed=1)
    masks = np.stack([box(row, 5, row + 8, 20) for row in range(0, 24, 4)])[:, None]
    maps[:3][masks[:3]] += 1  # three hits
    given = {"model": network, "x_batch": tensors, "y_batch": np.full(6, 2), "a_batch": maps}
    plain = {"abs": False, "normalise": False, "disable_warnings": True}
    pairs = [(values[0], mask[0]) for values, mask in zip(maps, masks, strict=True)]
    hits = quantus.PointingGame(**plain)(**given, s_batch=masks)
    assert [bool(hit) for hit in hits] == [metrics.points_at(metrics.peak(pair[0]), pair[1], 0) for pair in pairs]
    assert 3 <= sum(hits) < 6
    mass = quantus.AttributionLocalisation(**plain)(**given, s_batch=masks)
    np.testing.assert_allclose(np.array(mass, float), [metrics.mass_in(*pair) for pair in pairs], atol=1e-6)
    flipping = quantus.PixelFlipping(features_in_step=SIDE, perturb_baseline=0.0, **plain)
    curves = np.array(flipping(**given, softmax=True), float)  # without the whole picture
    for tensor, values, curve in zip(tensors, maps, curves, strict=True):
        pictures = torch.from_numpy(trust.deletion(tensor, trust.pixel_order(values[0]), SIDE))
        np.testing.assert_allclose(network(pictures).softmax(1)[1:, 2].detach().numpy(), curve, atol=1e-6)
    assert correlation_spearman(maps[0].ravel(), maps[1].ravel()) == pytest.approx(metrics.spearman(maps[0], maps[1]))


def test_layers_become_random_from_the_logits_to_the_input():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(6), nn.Linear(6, 2))
    network(torch.zeros(2, 3, 8, 8))
    before = [layer.weight.clone() for layer in network if hasattr(layer, "weight")]
    network[1].weight.data += 1  # what a reset undoes
    changed = []
    for _ in cascade(network):
        now = [layer.weight for layer in network if hasattr(layer, "weight")]
        changed.append([not torch.equal(one, other) for one, other in zip(before, now, strict=True)])
    assert [sum(stage[2:]) for stage in changed] == [1, 1, 2, 2, 2]
    assert [stage[0] for stage in changed] == [False, False, False, False, True]
    assert torch.equal(network[1].weight, torch.ones(4))


def test_the_transformers_own_parameters_become_random_too():
    network = transformer.network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    assert len(list(cascade(network))) == len(STAGES)
    same = [name for name, value in network.named_parameters() if torch.equal(before[name], value)]
    assert all(before[name].unique().numel() == 1 for name in same)  # biases and gains at their initial values


def test_every_method_is_judged_and_no_name_is_written_down():
    assert [way.name for way in ways()][: len(METHODS)] == list(METHODS)


def test_the_photographs_are_there_with_boxes_inside_and_labels_of_their_classes():
    how = Preprocessing(**{key: tuple(its) if isinstance(its, list) else its for key, its in PREPROCESSING.items()})
    entries = known_photographs()
    for entry, picture in zip(entries, photographs(how), strict=True):
        assert LABELS[entry["class"]] == entry["label"]
        assert entry["licence"] in ("CC0", "public domain")
        assert bool(entry["boxes"]) == bool(picture.masks)
        assert all(0.01 < mask.mean() < 0.7 for mask in picture.masks.values())


def test_a_default_looks_at_the_class_in_one_pass_however_good_others_are():
    best = {"baseline": False, "mass": 0.9, "deletion": 0.1, "randomised": [1.0, 0.0]}
    masking = best | {"randomised": [0.1, 0.0]}
    second = best | {"mass": 0.5, "deletion": 0.3, "randomised": [0.4, 0.0]}
    third = best | {"mass": 0.2, "deletion": 0.4, "randomised": [None, 0.0]}
    subject = {"ways": {"fem": best, "rise": masking, "gradcam": third, "layercam": second, "saliency": second}}
    assert blind(subject) == ["fem"]
    assert mean_ranks(subject) == {"layercam": 1, "gradcam": 2}


def test_equal_ways_share_a_place_and_baselines_have_none():
    ways = {"a": 0.5, "b": 0.9, "c": 0.5, "centre": 1.0}
    subject = {
        "ways": {name: {"baseline": name == "centre", "mass": value, "deletion": value} for name, value in ways.items()}
    }
    assert ranks(subject, "mass") == {"b": 1, "a": 2.5, "c": 2.5}
    assert ranks(subject, "deletion") == {"a": 1.5, "c": 1.5, "b": 3}


def test_the_embedded_models_map_for_an_object_lies_on_the_object():
    subject = shapes(quick=True)
    scenes = drawn(30, 2, SIZES, subject.classifier.preprocessing)
    judge = Judge(replace(subject, scenes=scenes))
    known = {way.name: way for way in ways()}
    found = {name: judge.localisation(known[name]) for name in ("gradcam", "fem", "centre")}
    assert found["gradcam"]["boxes"] == 60
    assert found["gradcam"]["exact_pointing"] >= 0.85
    assert found["gradcam"]["own_share"] > 0.9
    assert found["fem"]["own_share"] == pytest.approx(0.5, abs=0.1)  # it does not look at the class
    assert found["centre"]["exact_pointing"] < 0.3


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    main(["vision_transformer", "--quick", "--docs", str(folder)])
    return folder


def test_the_command_writes_page_figures_and_plots(trial):
    (subject,) = json.loads((trial / "quality.json").read_bytes())["subjects"].values()
    page = (trial / "QUALITY.md").read_text(encoding="utf-8")
    assert set(subject["ways"]) | set(subject["refused"]) == {way.name for way in ways()}
    for name, way in subject["ways"].items():
        assert len(way["randomised"]) in (2, len(STAGES)), name
        assert way["alone"] < 1e-3
    assert "its figures mean nothing" in page
    assert all(reason in page for reason in subject["refused"].values())
    for plot in ("quality.png", "quality-randomised.png"):
        assert Image.open(trial / plot).width > 300


def test_baselines_are_what_they_are_known_to_be(trial):
    (subject,) = json.loads((trial / "quality.json").read_bytes())["subjects"].values()
    centre, chance = subject["ways"]["centre"], subject["ways"]["random"]
    assert centre["randomised"] == pytest.approx([1] * len(STAGES))
    assert centre["coherency"] == pytest.approx(1)
    assert centre["seeds"] == pytest.approx(1)
    assert abs(chance["seeds"]) < 0.6
    assert {"centre", "random"}.isdisjoint(mean_ranks(subject))


def test_a_network_that_does_not_exist_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["resnet", "--docs", str(tmp_path)])
    assert "valid are shapes" in capsys.readouterr().err
