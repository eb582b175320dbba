"""The package as others install it: a wheel, beside the oldest packages that it allows, and no torch."""

import base64
import importlib.metadata
import importlib.util
import io
import json
import subprocess
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

import handler
from handler.client.model import GraphModel
from tests.support.serving import ONE, ROOT, TWO
from tests.support.tools import tool

LOWEST = ROOT / ".venv-lowest/bin"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLIENTS_TESTS = (
    *("picture/test_decode", "picture/test_preprocess_text", "picture/test_projection", "protocol", "rendering"),
    *(
        "serving/test_budget",
        "serving/test_explainer",
        "serving/test_jobs",
        "serving/test_rows",
        "serving/test_threads",
    ),
    *("telemetry/test_request_log", "test_errors"),
    *("client/test_graph", "client/test_model", "graphs/test_folder", "graphs/test_session"),
)
LENT = ("onnx", "ml_dtypes", "typing_extensions")  # onnx, which writes the graphs that tests open, and what it imports
_EXPLAIN = """
import json, sys
from pathlib import Path
from handler.client.model import GraphModel
graph, picture = map(Path, sys.argv[1:])
print(json.dumps(GraphModel(graph).explain(picture.read_bytes(), encoding="npy").to_dict()))
"""
_LOAD = """
import json, sys
import handler
model, picture = sys.argv[1:]
print(json.dumps(handler.load(model).explain(picture, maps=["gradcam"]).to_dict()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source distribution, so that both hold what they should."""
    folder = tmp_path_factory.mktemp("dist")
    build = ["build", "--quiet", "--offline", "--no-build-isolation", "--python", str(tool("python"))]
    run(str(tool("uv")), *build, "--out-dir", str(folder), str(ROOT), cwd=ROOT)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel):
    """The programs of an environment that holds the extra "client" and this wheel."""
    assert LOWEST.is_dir(), "make lowest builds .venv-lowest"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    run(LOWEST / "python", *install, "--force-reinstall", wheel, cwd=ROOT)
    return LOWEST


@pytest.fixture
def lent(tmp_path):
    """A folder with ``LENT`` alone, for an environment that has none of them."""
    for name in LENT:
        file = Path(importlib.util.find_spec(name).origin)
        place = file.parent if file.name == "__init__.py" else file
        (tmp_path / place.name).symlink_to(place)
    return tmp_path


def run(*command, cwd, status=0):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def test_the_wheel_holds_its_packages_whole_and_nothing_else(wheel):
    packages = ("handler", "export", "deploy/bulk", "deploy/devices", "deploy/grpc", "deploy/light")
    files = {path for package in packages for path in (ROOT / package).rglob("*") if path.is_file()}
    for_people = ("Dockerfile", "Dockerfile.dockerignore")
    wanted = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    wanted -= {str(path.relative_to(ROOT)) for path in files if path.name in for_people}
    assert {"handler/py.typed", "export/py.typed", "handler/model-config.yaml"} < wanted
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == wanted


def test_the_environment_is_the_oldest_that_is_allowed_and_has_no_torch(installed):
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = {
        canonicalize_name(name): one
        for name, one in json.loads(run(installed / "python", "-c", code, cwd=ROOT).stdout).items()
    }
    assert not {"torch", "torchvision", "onnx", "onnxscript", "pyyaml"} & set(found)
    for needed in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["client"]]):
        (bound,) = needed.specifier
        assert bound.operator == ">="
        assert Version(found[needed.name]).release[:2] == Version(bound.version).release[:2]


def test_the_clients_tests_pass_there(installed, lent):
    places = [f"tests/handler/{name}" for name in CLIENTS_TESTS]
    files = [place if (ROOT / place).is_dir() else f"{place}.py" for place in places]
    options = ["-p", "no:cacheprovider", "-o", f"pythonpath={lent}"]
    run(installed / "python", "-m", "pytest", *options, *files, cwd=ROOT)


def test_the_command_predicts_there_what_it_predicts_here(installed, shapes_graphs, tmp_path):
    graph = shapes_graphs / "model.onnx"
    done = run(installed / "shufflenet-cam", "predict", ONE, TWO, "--model", graph, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert list(found) == [str(ONE), str(TWO)]
    for path, best in found.items():
        expected = GraphModel(graph).predict(Path(path).read_bytes())
        assert [one["label"] for one in best] == [one.label for one in expected]
        np.testing.assert_allclose(
            [one["probability"] for one in best], [one.probability for one in expected], atol=1e-5
        )


def test_the_front_door_opens_a_graph_there(installed, shapes_graphs, tmp_path):
    graph = shapes_graphs / "model.gradcam.onnx"
    found = json.loads(run(installed / "python", "-c", _LOAD, graph, ONE, cwd=tmp_path).stdout)
    expected = handler.load(graph).explain(ONE, maps=["gradcam"])
    assert found["predictions"][0]["label"] == expected.predictions[0].label
    assert found["explanations"][0]["maps"]["gradcam"]["shape"] == [320, 320, 3]


def test_it_explains_there_as_here(installed, shapes_graphs, tmp_path):
    graph = shapes_graphs / "model.explain.onnx"
    found = json.loads(run(installed / "python", "-c", _EXPLAIN, graph, TWO, cwd=tmp_path).stdout)
    expected = GraphModel(graph).explain(TWO.read_bytes(), encoding="npy").to_dict()
    (maps,), (wanted,) = (answer["explanations"] for answer in (found, expected))
    assert list(maps["maps"]) == ["gradcam", "guided_backprop", "guided_gradcam"]
    for name, one in wanted["maps"].items():
        here, there = (np.load(io.BytesIO(base64.b64decode(its["data"]))) for its in (one, maps["maps"][name]))
        np.testing.assert_allclose(there, here, rtol=0, atol=1e-5 * np.abs(here).max(), err_msg=name)
    run(installed / "shufflenet-cam", "explain", TWO, "--model", graph, cwd=tmp_path)
    Image.open(tmp_path / "out/two.explained.png").verify()


@pytest.mark.parametrize("command", [["archive"], ["prediction"], ["explanation"], ["gradcam"], ["verify", "a.onnx"]])
def test_a_command_that_needs_more_names_the_extra(installed, tmp_path, command):
    said = run(installed / "shufflenet-cam", *command, cwd=tmp_path, status=2).stderr
    assert said.endswith("is not installed, this command needs: pip install 'shufflenet-cam[export]'\n")
    assert said.count("\n") == 1


def test_both_spellings_of_the_command_call_themselves_what_they_are_called(installed, tmp_path):
    module = [installed / "python", "-m", "export"]
    for command, name in (([installed / "shufflenet-cam"], "shufflenet-cam"), (module, "python -m export")):
        assert run(*command, "--help", cwd=tmp_path).stdout.startswith(f"usage: {name} [-h]")
        assert run(*command, "--version", cwd=tmp_path).stdout == f"shufflenet-cam {PROJECT['version']}\n"


def test_the_pins_lie_in_the_ranges():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        pin = Requirement(line)
        (bound,) = pin.specifier
        assert bound.operator == "=="
        pins[canonicalize_name(pin.name)] = bound.version
    ranges = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    for needed in map(Requirement, ranges):
        name = canonicalize_name(needed.name)
        if name != PROJECT["name"]:
            pinned = pins.get(name) or importlib.metadata.version(name)  # setuptools, which pip freeze leaves out
            assert pinned in needed.specifier, needed
