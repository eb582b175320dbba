"""The Kubernetes manifests: valid for every version that is claimed, and what they say of each other is true."""

import copy
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.light.limits import SLOWEST
from deploy.light.routes import PROBES
from deploy.local_server import read_properties
from tests.support.manifests import FOLDERS, KUBERNETES, VERSIONS, Manifest, only, rendered, validate
from tests.support.pods import HEALTHZ, USER
from tests.support.serving import ROOT

BASE, *OVERLAYS = FOLDERS
MODEL = yaml.safe_load((ROOT / "handler/model-config.yaml").read_text(encoding="utf-8"))
# MiB of a worker at its highest: the CUDA build of torch, the embedded model's three graphs, a picture of 50 megapixels
WORKER_PEAK = 1500
JAVA_BESIDE_ITS_HEAP = 256
LIGHT = KUBERNETES / "overlays/light"  # the other front
LIGHT_PEAK = 1500  # MiB, measured: 31 pictures of 50 megapixels at once
in_each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
in_each_of_torchserve = pytest.mark.parametrize(
    "folder", [one for one in FOLDERS if one != LIGHT], ids=lambda path: path.name
)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return read_properties(ROOT / "deploy/config.properties")


def template(folder: Path) -> Manifest:
    return only(folder, "Deployment")["spec"]["template"]


def container(folder: Path) -> Manifest:
    (one,) = template(folder)["spec"]["containers"]
    return one


def environment(folder: Path) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(folder)["env"]}


def ports(folder: Path) -> dict[str, int]:
    return {one["name"]: one["containerPort"] for one in container(folder)["ports"]}


def mebibytes(quantity: str) -> int:
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]


@in_each
@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_valid(folder: Path, version: str):
    for manifest in rendered(folder):
        validate(manifest, version)


def test_the_versions_are_those_that_are_claimed():
    claim = (BASE / "kustomization.yaml").read_text(encoding="utf-8")
    assert "from Kubernetes 1.27 on" in claim
    assert VERSIONS[0].startswith("1.27")
    assert len(VERSIONS) >= 11


def test_mistakes_are_found():
    wrong = copy.deepcopy(only(BASE, "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        validate(wrong, VERSIONS[-1])
    old = {**only(BASE, "HorizontalPodAutoscaler"), "apiVersion": "autoscaling/v2beta2"}
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate(old, VERSIONS[-1])
    monitor = copy.deepcopy(only(OVERLAYS[0], "ServiceMonitor"))
    monitor["spec"]["endpoints"][0]["prot"] = "metrics"
    with pytest.raises(jsonschema.ValidationError, match="prot"):
        validate(monitor, VERSIONS[-1])


@in_each
def test_everything_is_there_and_each_finds_the_pods(folder: Path):
    labels = template(folder)["metadata"]["labels"]
    deployment = only(folder, "Deployment")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        only(folder, "Service")["spec"]["selector"],
        only(folder, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(folder, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in template(folder)["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    target = only(folder, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    account = only(folder, "ServiceAccount")
    assert template(folder)["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert len({one["metadata"].get("namespace") for one in rendered(folder)}) == 1


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_prometheus_finds_the_service(folder: Path):
    monitor, service = only(folder, "ServiceMonitor")["spec"], only(folder, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@in_each
def test_ports_are_those_of_the_settings_and_no_others_are_open(folder: Path, settings: dict[str, str]):
    listening = {urlsplit(settings[f"{key}_address"]).port for key in ("inference", "metrics")}
    assert set(ports(folder).values()) == listening == {8080, 8082}
    for key in ("inference", "metrics"):
        assert urlsplit(settings[f"{key}_address"]).hostname == "0.0.0.0"
    assert urlsplit(settings["management_address"]).hostname == "127.0.0.1"
    assert settings["grpc_inference_address"] == settings["grpc_management_address"] == "127.0.0.1"
    for port in only(folder, "Service")["spec"]["ports"]:
        assert ports(folder)[port["targetPort"]] == port["port"]
    policy = only(folder, "NetworkPolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["http"], ["metrics"]]
    assert all(rule["from"] for rule in policy["ingress"])
    (egress,) = policy["egress"]
    assert {port["port"] for port in egress["ports"]} == {53}


@in_each_of_torchserve
def test_probes_ask_what_answers(folder: Path):
    one = container(folder)
    for name, path in (("startupProbe", HEALTHZ), ("readinessProbe", HEALTHZ), ("livenessProbe", "/ping")):
        assert one[name]["httpGet"] == {"path": path, "port": "http"}
        assert one[name]["timeoutSeconds"] < one[name]["periodSeconds"] or name == "startupProbe"
    startup = one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"]
    assert startup >= MODEL["startupTimeout"] + MODEL["maxRetryTimeoutInSec"]


@in_each_of_torchserve
def test_a_pod_that_ends_has_the_time_to_drain(folder: Path):
    drain, last = int(environment(folder)["DRAIN"]), int(environment(folder)["LAST"])
    assert last >= MODEL["responseTimeout"]
    assert template(folder)["spec"]["terminationGracePeriodSeconds"] >= drain + last + 10


@in_each
def test_there_are_always_two(folder: Path):
    deployment = only(folder, "Deployment")["spec"]
    assert "replicas" not in deployment  # each apply would undo what the autoscaler did
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    scaler = only(folder, "HorizontalPodAutoscaler")["spec"]
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert only(folder, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@in_each_of_torchserve
def test_memory_holds_the_heap_and_the_workers(folder: Path, settings: dict[str, str]):
    resources = container(folder)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    (heap,) = (one.removeprefix("-Xmx") for one in settings["vmargs"].split() if one.startswith("-Xmx"))
    heap_mebibytes = int(heap[:-1]) * {"m": 1, "g": 1024}[heap[-1].lower()]
    needed = heap_mebibytes + JAVA_BESIDE_ITS_HEAP + MODEL["maxWorkers"] * WORKER_PEAK
    assert mebibytes(resources["limits"]["memory"]) >= needed
    waiting = int(settings["job_queue_size"]) * int(settings["max_request_size"]) / 2**20
    assert heap_mebibytes >= 5 * waiting


@in_each
def test_cpus_are_whole_and_guaranteed(folder: Path):
    resources = container(folder)["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
    assert int(resources["limits"]["cpu"]) >= (1 if folder == LIGHT else MODEL["maxWorkers"])


@in_each
def test_pods_are_restricted(folder: Path):
    """The restricted Pod Security Standard, and a root that is not written to."""
    pod, one = template(folder)["spec"], container(folder)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert one["securityContext"] == own
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])
    assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])
    assert {mount["name"] for mount in one["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@in_each
def test_the_image_is_this_version(folder: Path):
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, _, tag = container(folder)["image"].rpartition(":")
    assert name.rpartition("/")[2] == project["name"] + ("-light" if folder == LIGHT else "")
    assert tag == project["version"]


def test_overlays_change_what_they_say():
    cpu4, light = OVERLAYS
    assert light == LIGHT
    assert container(cpu4)["resources"]["limits"]["cpu"] == "4"
    assert container(cpu4)["resources"]["limits"]["memory"] == container(BASE)["resources"]["limits"]["memory"]
    assert only(cpu4, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] == 16
    for folder in OVERLAYS:
        assert {one["metadata"]["namespace"] for one in rendered(folder)} == {"shufflenet-cam"}


def test_the_light_front_takes_torchserves_place():
    """Same names, labels and ports, so that either front replaces the other pod by pod."""
    ours, other = only(LIGHT, "Deployment"), only(BASE, "Deployment")
    assert ours["metadata"]["name"] == other["metadata"]["name"]
    assert ours["spec"]["selector"] == other["spec"]["selector"]
    assert ports(LIGHT) == ports(BASE)
    assert only(LIGHT, "Service")["spec"] == only(BASE, "Service")["spec"]


def test_the_light_fronts_probes_need_no_token():
    one = container(LIGHT)
    for name, path in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert one[name]["httpGet"] == {"path": f"/v2/health/{path}", "port": "http"}
        assert one[name]["httpGet"]["path"] in PROBES
        assert one[name]["timeoutSeconds"] < one[name]["periodSeconds"]
    assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] >= MODEL["startupTimeout"]


def test_the_light_front_is_told_to_stop_when_requests_have_ceased_to_come():
    sleep, seconds = container(LIGHT)["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert MODEL["responseTimeout"] <= SLOWEST
    assert template(LIGHT)["spec"]["terminationGracePeriodSeconds"] >= int(seconds) + SLOWEST + 10


def test_the_light_fronts_memory_holds_its_peak():
    resources = container(LIGHT)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "2Gi"
    assert 1.25 * LIGHT_PEAK < 2 * 1024


def test_the_light_fronts_alerts_look_at_metrics_that_it_has():
    (group,) = only(LIGHT, "PrometheusRule")["spec"]["groups"]
    (all_of_them,) = only(OVERLAYS[0], "PrometheusRule")["spec"]["groups"]
    assert {one["alert"] for one in all_of_them["rules"]} - {one["alert"] for one in group["rules"]} == {"QueueGrows"}
    for rule in group["rules"]:
        assert "explainer_" in rule["expr"]
        assert not re.search(r"\bts_|\bRequests[25]XX", rule["expr"])
