"""Networks of seven families through all of ``make zoo``, at small pictures; what happens to the rest."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from examples.random_weights import random_classifier
from export.verify.compare import batch_sizes
from tests.support.serving import ROOT
from tests.zoo import all as zoo
from tests.zoo.memory import memory_need
from tests.zoo.networks import GROUPS, every, group_of
from tests.zoo.one import ROW_VERSION
from tests.zoo.report import CLOSE, CLOSE_MAP, explanation, is_close, render, worst_error

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all networks

SIDE = 64
WITH_FLIPS = 5e-2  # relative RMS error of a guided gradient, where gates within rounding of zero flip
# of activations, counted by hand in torchvision's sources, two for each squeeze-and-excitation: a gate and its product;
# None: guided backprop is refused
COVERAGE = {
    "alexnet": "7 of 7",
    "squeezenet1_1": "26 of 26",
    "resnet18": "17 of 17",
    "mobilenet_v2": "35 of 35",
    "mobilenet_v3_small": "14 of 51",
    "mnasnet0_5": "35 of 35",
    "shufflenet_v2_x0_5": "37 of 37",
    "regnet_y_400mf": "65 of 97",
    "efficientnet_b0": None,
    "googlenet": "57 of 57",
    "densenet121": "121 of 121",
    "convnext_tiny": None,
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    assert zoo.run(["--small", "--side", str(SIDE), "--folder", str(folder)]) == 0
    return json.loads((folder / "zoo.json").read_bytes())


@pytest.fixture(scope="module")
def rows(content):
    return {row["network"]: row for row in content["networks"]}


def test_the_small_ones_are_of_seven_families_and_all_of_them_are_measured(rows):
    assert set(zoo.SMALL) == set(rows) < set(COVERAGE)
    assert len(rows) == 7


@pytest.mark.parametrize("name", zoo.SMALL)
def test_engines_agree_with_plain_autograd(rows, name):
    engines = rows[name]["engines"]
    for engine in ("torch", "onnx"):
        assert engines[engine]["scores"] <= CLOSE
        assert engines[engine]["gradcam"] <= CLOSE_MAP
    assert engines["torch"]["saliency"] <= CLOSE
    if COVERAGE[name] is None:
        assert engines["torch"]["guided"] is engines["onnx"]["guided"] is None
        assert engines["onnx"]["saliency"] <= CLOSE
    else:
        assert engines["torch"]["guided"] <= CLOSE
        assert engines["onnx"]["guided"] <= WITH_FLIPS


@pytest.mark.parametrize("name", zoo.SMALL)
def test_guided_backprop_says_what_it_reaches_or_what_is_there_instead(rows, name):
    guided = rows[name]["guided"]
    if COVERAGE[name] is None:
        assert "SiLU" in guided["refused"] or "GELU" in guided["refused"]
    else:
        assert guided == {"coverage": f"{COVERAGE[name]} activations"}


@pytest.mark.parametrize("name", zoo.SMALL)
def test_every_graph_is_written_and_close(rows, name):
    row = rows[name]
    kind = "saliency" if COVERAGE[name] is None else "explanation"
    assert set(row["graphs"]) == {"prediction", "gradcam", kind}
    assert not [its for its in row["graphs"].values() if "refused" in its]
    assert is_close(row), (worst_error(row), row["engines"])
    assert all(value > 0 for value in row["times"].values())


def test_the_page_has_a_line_for_each(content, rows):
    page = render(content)
    assert all(f"\n| {name} | " in page for name in rows)
    assert "7 networks: 7 measured, 7 with an explanation graph (5 with guided backprop, 2 with saliency)" in page


def test_rows_that_are_there_are_not_made_anew(tmp_path, monkeypatch):
    (tmp_path / "alexnet.json").write_text('{"network": "alexnet", "skipped": "for a test"}', encoding="utf-8")
    monkeypatch.setattr(zoo, "_start", pytest.fail)
    assert zoo.run(["alexnet", "--folder", str(tmp_path)]) == 0


def test_rows_that_the_page_has_already_are_kept_if_it_is_said(tmp_path, capsys):
    (tmp_path / "zoo.json").write_text(
        json.dumps({"networks": [{"network": name, "skipped": "kept"} for name in every()]})
    )
    row = {"network": "hf/vit", "version": ROW_VERSION, "side": 64, "refused": "for a test"}
    (tmp_path / "rows/hf").mkdir(parents=True)
    (tmp_path / "rows/hf/vit.json").write_text(json.dumps(row), encoding="utf-8")
    assert zoo.run(["hf/vit", "--folder", str(tmp_path / "rows"), "--docs", str(tmp_path), "--keep"]) == 0
    found = {row["network"]: row for row in json.loads((tmp_path / "zoo.json").read_bytes())["networks"]}
    assert (found["hf/vit"]["refused"], found["timm/vgg11"]["skipped"], len(found)) == (
        "for a test",
        "kept",
        len(every()),
    )
    page = (tmp_path / "ZOO.md").read_text(encoding="utf-8")
    assert "* hf/vit: for a test" in page
    assert all(f"\n## {title}" in page for title in ("Torchvision", "Timm", "Hugging Face"))


@pytest.mark.parametrize("group", GROUPS)
def test_the_zoo_has_enough_of_each_group_and_a_group_can_be_named(tmp_path, monkeypatch, group):
    names = []
    monkeypatch.setattr(zoo, "_run", lambda networks, *_: names.extend(networks))
    zoo.run(["--group", group, "--folder", str(tmp_path)])
    assert sorted(names) == sorted(every(group))
    assert len(names) >= {"torchvision": 80, "timm": 90, "hf": 25}[group]


def test_networks_of_libraries_have_shapes_and_a_need_of_memory():
    assert memory_need("timm/test_resnet") < memory_need("timm/pnasnet5large")
    assert memory_need("hf/resnet") > 1e9


def test_what_does_not_fit_the_machine_is_skipped_by_name_with_its_need(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "_SHARE", 1e-6)
    assert zoo.run(["vgg11", "--folder", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "vgg11.json").read_bytes())["skipped"].startswith("needs about 8 GB of memory, 0 GB")
    assert "* vgg11: not run, it needs about 8 GB of memory" in (tmp_path / "ZOO.md").read_text(encoding="utf-8")


def test_a_page_of_some_networks_leaves_that_of_all_as_it_is(tmp_path, capsys):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "zoo.json").write_text("all", encoding="utf-8")
    (tmp_path / "alexnet.json").write_text('{"network": "alexnet", "skipped": "for a test"}', encoding="utf-8")
    assert zoo.run(["alexnet", "--folder", str(tmp_path), "--docs", str(docs)]) == 0
    assert (docs / "zoo.json").read_text(encoding="utf-8") == "all"
    assert f"1 of {len(every())} networks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "current"),
    [
        ({"version": ROW_VERSION, "side": 224}, True),
        ({"version": ROW_VERSION, "side": 64}, False),
        ({"version": ROW_VERSION - 1, "side": 224}, False),
        ({"died": "exit status 1"}, False),
        ({"skipped": "needs more memory"}, True),
    ],
)
def test_only_rows_of_the_present_code_and_of_these_pictures_are_kept(tmp_path, monkeypatch, row, current):
    (tmp_path / "alexnet.json").write_text(json.dumps({"network": "alexnet", **row}), encoding="utf-8")
    names = started(monkeypatch, "")
    monkeypatch.setattr(zoo, "render", lambda _: "")
    zoo.run(["alexnet", "--folder", str(tmp_path)])
    assert names == ([] if current else ["alexnet"])


def started(monkeypatch, code):
    """Lets the processes run other code; returns the list of those that were started."""
    names = []

    def start(network, folder, _threads, _side):
        names.append(network)
        with (folder / f"{network}.log").open("wb") as file:
            return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, cwd=ROOT)

    monkeypatch.setattr(zoo, "_start", start)
    return names


def test_a_process_that_is_killed_runs_once_more_alone_and_takes_nothing_else_down(tmp_path, monkeypatch):
    names = started(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert zoo.run(["alexnet", "resnet18", "--folder", str(tmp_path)]) == 0
    assert sorted(names) == ["alexnet", "alexnet", "resnet18", "resnet18"]
    assert "killed" in json.loads((tmp_path / "alexnet.json").read_bytes())["skipped"]


def test_a_process_that_dies_by_its_own_fault_is_reported_and_fails_the_run(tmp_path, monkeypatch, capsys):
    names = started(monkeypatch, "raise ValueError('of its own')")
    assert zoo.run(["alexnet", "--folder", str(tmp_path)]) == 1
    assert names == ["alexnet"]
    assert json.loads((tmp_path / "alexnet.json").read_bytes())["died"] == "exit status 1: ValueError: of its own"
    assert "alexnet died" in capsys.readouterr().err


def test_unknown_networks_are_refused(tmp_path, capsys):
    assert zoo.run(["resnet19", "--folder", str(tmp_path)]) == 2
    assert "resnet19" in capsys.readouterr().err


def test_larger_pictures_need_more_memory_and_smaller_batches():
    assert memory_need("resnet18", 64) < memory_need("resnet18") < memory_need("resnet50") < memory_need("vgg16")
    assert batch_sizes((224, 224)) == batch_sizes((448, 448)) == (1, 3, 8)
    assert batch_sizes((600, 600)) == (1, 3, 4)
    assert batch_sizes((4000, 4000)) == (1, 3, 4)


def test_the_zoo_in_the_repository_holds_every_classifier_and_none_that_is_wrong():
    content = json.loads((ROOT / "docs" / "zoo.json").read_bytes())
    rows = content["networks"]
    names = [row["network"] for row in rows]
    assert names == list(every())
    assert not [row["network"] for row in rows if "died" in row]
    guided = {row["network"]: row["guided"].get("coverage") for row in rows if row["network"] in COVERAGE}
    assert guided == {name: said and f"{said} activations" for name, said in COVERAGE.items()}
    for row in rows:
        if "skipped" in row or "refused" in row:
            assert "memory" in row.get("skipped", "memory")
            continue
        engines = row["engines"]
        assert engines["torch"]["gradcam"] <= CLOSE_MAP, row["network"]
        assert (engines["torch"]["guided"] is None) == ("refused" in row["guided"]), row["network"]
        assert (engines["torch"]["guided"] or 0) <= CLOSE, row["network"]
        assert engines["torch"]["saliency"] <= CLOSE, row["network"]
        assert ("onnx" in engines) == any("errors" in graph for graph in row["graphs"].values())
        if "onnx" in engines:
            assert engines["onnx"]["scores"] <= CLOSE, row["network"]
            assert (engines["onnx"]["guided"] or 0) <= WITH_FLIPS, row["network"]
            judged_by_rounding = isinstance(explanation(row)[1].get("errors", {}).get("saliency"), dict)
            assert (engines["onnx"]["saliency"] or 0) <= (WITH_FLIPS if judged_by_rounding else CLOSE), row["network"]
            assert engines["onnx"]["gradcam"] <= CLOSE_MAP or f"* {row['network']}: on one of" in render(content)
        for graph in row["graphs"].values():
            assert graph.get("refused") or not any(math.isnan(_error(its)) for its in graph["errors"].values())
    for group in GROUPS:
        measured = [row for row in rows if "graphs" in row and group_of(row["network"]) == group]
        explained = [row for row in measured if "errors" in explanation(row)[1]]
        assert len(explained) >= 0.95 * len(measured), group
        assert sum(map(is_close, explained)) >= 0.9 * len(explained), group
    assert (ROOT / "docs" / "ZOO.md").read_text(encoding="utf-8") == render(content)


def _error(its):
    return max(its["graph"]) if isinstance(its, dict) else its


def test_each_network_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    seen = []
    real = subprocess.Popen

    def popen(command, **options):
        seen.append((command[-1], options["env"]["OMP_NUM_THREADS"]))
        return real([sys.executable, "-c", "pass"], **{**options, "env": os.environ})

    monkeypatch.setattr(zoo.subprocess, "Popen", popen)
    zoo.run(["alexnet", "resnet18", "--folder", str(tmp_path), "--threads", "1", "--side", "64"])
    assert seen == [("64", "1")] * 2


def test_the_weights_are_the_same_for_the_same_arguments():
    one, other = (random_classifier("shufflenet_v2_x0_5", SIDE) for _ in range(2))
    for name, weights in one.module.state_dict().items():
        assert torch.equal(weights, other.module.state_dict()[name]), name
