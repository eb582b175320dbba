"""docs/DEPLOYING.md against what it describes."""

import json
import re

import pytest
import yaml

from deploy.light.limits import SLOWEST
from tests.support.manifests import KUBERNETES, only
from tests.support.serving import ROOT

PAGE = (ROOT / "docs/DEPLOYING.md").read_text(encoding="utf-8")
BASE = KUBERNETES / "base"
POD = only(BASE, "Deployment")["spec"]["template"]["spec"]


def test_the_paths_it_names_exist():
    named = set(re.findall(r"(?:deploy|tests|export)/[\w./-]*[\w/]", PAGE))
    made = {path for path in named if path.endswith("/1") or "/1/" in path}  # what its commands write
    assert len(named - made) >= 8
    for path in named - made:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w.]+\.md)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_its_arithmetic_is_the_manifests():
    drain, last = (one["value"] for one in POD["containers"][0]["env"])
    assert f"{POD['terminationGracePeriodSeconds']} ≥ {drain} + {last} + 10" in PAGE
    light = only(KUBERNETES / "overlays/light", "Deployment")["spec"]["template"]["spec"]
    sleep = light["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1]
    assert f"{light['terminationGracePeriodSeconds']} ≥ {sleep} + {SLOWEST:.0f} + 10" in PAGE
    scaler = only(BASE, "HorizontalPodAutoscaler")["spec"]
    target = scaler["metrics"][0]["resource"]["target"]["averageUtilization"]
    assert f"{scaler['minReplicas']} to {scaler['maxReplicas']} replicas at {target} %" in PAGE
    assert f"({target / 100:.2g} × requests per second of one pod)" in PAGE


def test_the_workers_peak_is_the_measured_one():
    measured = json.loads((ROOT / "docs/reliability.json").read_text(encoding="utf-8"))["fuzz"]["memory"]["worker"][
        "peak"
    ]
    said = re.search(r"(\d+) MiB is above a worker's measured peak \((\d+) MiB", PAGE)
    assert said
    allowed, peak = map(int, said.groups())
    assert peak == measured // 2**20 < allowed
    assert f"workers × {allowed} MiB" in PAGE


@pytest.mark.parametrize("name", ["torchserve", "onnx", "light"])
def test_kserve_scales_alike(name: str):
    predictor = yaml.safe_load((ROOT / f"deploy/kserve/{name}.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]
    scaler = only(BASE, "HorizontalPodAutoscaler")["spec"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (scaler["minReplicas"], scaler["maxReplicas"])
    assert predictor["scaleTarget"] == scaler["metrics"][0]["resource"]["target"]["averageUtilization"]
