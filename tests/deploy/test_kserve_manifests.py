"""The InferenceServices as KServe's own models read them, and Triton's description of the graph against the graph."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format
from grpc_tools import protoc

from deploy.local_server import read_properties
from tests.support.serving import ROOT, SUPPORT

KSERVE = ROOT / "deploy/kserve"
SERVICES = sorted(KSERVE.glob("*.yaml"))
PYTHON = ROOT / ".venv-kserve/bin/python"
_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


MISTAKES = [
    ("scaleMetric:", "scaleMetrik:", "has no field scaleMetrik"),
    ("readOnlyRootFilesystem:", "readOnlyRoot:", "has no field readOnlyRoot"),
    ("minReplicas: 2", "minReplicas: two", "'two' is not of the kind"),
    ("name: kserve-container", "image: x", "name Field required"),
    ("v1beta1", "v1alpha1", "neither an InferenceService of v1beta1 nor"),
]


def test_kserve_reads_what_is_written_and_refuses_mistakes(tmp_path: Path):
    text = (KSERVE / "torchserve.yaml").read_text(encoding="utf-8")
    wrong = []
    for number, (old, new, _) in enumerate(MISTAKES):
        assert old in text
        wrong.append(tmp_path / f"{number}.yaml")
        wrong[-1].write_text(text.replace(old, new, 1), encoding="utf-8")
    command = [PYTHON, SUPPORT / "strict_inference_service.py", *SERVICES, *wrong]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == len(MISTAKES), said.stdout + said.stderr
    names = ["light-runtime.yaml", "light.yaml", "onnx.yaml", "torchserve.yaml"]
    read, others = said.stdout.splitlines()[: len(names)], said.stdout.splitlines()[len(names) :]
    assert read == [f"{name}: read" for name in names]
    for line, (_, _, complaint) in zip(others, MISTAKES, strict=True):
        assert complaint in line


def test_the_predictor_is_the_deployments_container():
    """What both have is said twice, for two operators; it must not drift apart."""
    predictor = yaml.safe_load((KSERVE / "torchserve.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]
    deployment = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]["spec"]
    (container,), (ours,) = predictor["containers"], pod["containers"]
    for key in ("env", "securityContext", "volumeMounts"):
        assert container[key] == ours[key], key
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert without_ports(container[probe]) == without_ports(ours[probe])
        assert container[probe]["httpGet"]["port"] == 8080
    for kind in ("requests", "limits"):
        assert container["resources"][kind].items() <= ours["resources"][kind].items()
    assert predictor["volumes"] == pod["volumes"]
    assert predictor["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    assert predictor["securityContext"].items() <= pod["securityContext"].items()


def test_the_runtime_is_the_light_overlays_container():
    runtime = yaml.safe_load((KSERVE / "light-runtime.yaml").read_text(encoding="utf-8"))["spec"]
    overlay = yaml.safe_load((ROOT / "deploy/kubernetes/overlays/light/deployment.yaml").read_text(encoding="utf-8"))
    pod = overlay["spec"]["template"]["spec"]
    (container,), (_, ours) = runtime["containers"], pod["containers"]
    for key in ("lifecycle", "securityContext", "volumeMounts"):
        assert container[key] == ours[key], key
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert without_ports(container[probe]) == without_ports(ours[probe])
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["containerPort"] == 8080
    for kind in ("requests", "limits"):
        assert container["resources"][kind].items() <= ours["resources"][kind].items()
    assert container["args"][: len(ours["args"])] == ours["args"]
    assert container["args"][0] == "/mnt/models"  # where KServe puts what a storageUri names
    predictor = yaml.safe_load((KSERVE / "light.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]
    assert predictor["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    torchserve = yaml.safe_load((KSERVE / "torchserve.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]
    for key in ("securityContext", "deploymentStrategy", "automountServiceAccountToken"):
        assert predictor[key] == torchserve[key]


def test_the_inference_service_names_the_runtime_and_its_format():
    runtime = yaml.safe_load((KSERVE / "light-runtime.yaml").read_text(encoding="utf-8"))
    model = yaml.safe_load((KSERVE / "light.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    (supported,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"].items() <= supported.items()
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"] == ["v1", "v2"]


def without_ports(probe: dict[str, Any]) -> dict[str, Any]:
    return {**probe, "httpGet": {**probe["httpGet"], "port": None}}


def test_no_envelope_can_be_set():
    """An envelope breaks batches; KServe sets one by an environment variable, which the settings must not follow."""
    text = (KSERVE / "torchserve.yaml").read_text(encoding="utf-8")
    assert "ENVELOPE" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    settings = read_properties(ROOT / "deploy/config.properties")
    assert settings["enable_envvars_config"] == "false"
    assert "service_envelope" not in settings


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Triton's description of the graph, parsed strictly: a field that the schema lacks is an error."""
    folder = tmp_path_factory.mktemp("proto")
    schema = SUPPORT / "schemas/model_config.proto"
    described = folder / "schema.bin"
    arguments = ["protoc", f"--proto_path={schema.parent}", f"--descriptor_set_out={described}", str(schema)]
    assert protoc.main(arguments) == 0
    return parsed((KSERVE / "models/shufflenet_cam_explain/config.pbtxt").read_text(encoding="utf-8"), described)


def parsed(text: str, described: Path) -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.ModelConfig"))
    return text_format.Parse(text, message())


def type_name(tensor: Any) -> str:
    return tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name


def in_the_graph(tensor: Any) -> tuple[str, str, list[int]]:
    """Name, type and shape without the batch, as the graph sees them."""
    reshaped = tensor.DESCRIPTOR.fields_by_name.get("reshape") and tensor.HasField("reshape")
    return tensor.name, type_name(tensor), list(tensor.reshape.shape if reshaped else tensor.dims)


def test_triton_is_told_what_the_graph_has(config: Any, shapes_graphs: Path):
    session = onnxruntime.InferenceSession(str(shapes_graphs / "model.explain.onnx"))
    for told, there in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert all(isinstance(one.shape[0], str) for one in there)  # a batch of any size
        actual = [(one.name, _TYPES[one.type], list(one.shape[1:])) for one in there]
        assert sorted(map(in_the_graph, told)) == sorted(actual)


def test_requests_of_that_form_run(config: Any, shapes_graphs: Path):
    """What Triton does with a request: batches, checks the shapes it was told of, reshapes, runs ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(shapes_graphs / "model.explain.onnx"))
    batch = config.max_batch_size
    feeds = {}
    for told in config.input:
        on_the_wire = np.full(
            (batch, *told.dims), -1, {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64}[type_name(told)]
        )
        feeds[told.name] = on_the_wire.reshape(batch, *in_the_graph(told)[2])
    names = [told.name for told in config.output]
    answers = session.run(names, feeds)
    assert [list(answer.shape) for answer in answers] == [[batch, *told.dims] for told in config.output]
    assert all(np.isfinite(answer).all() for answer in answers)


def test_the_runtime_finds_the_model():
    service = yaml.safe_load((KSERVE / "onnx.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]["model"]
    assert service["storageUri"].endswith("/models")  # Triton's repository: a folder per model in it
    assert service["modelFormat"]["name"] == "onnx"


def test_the_description_bears_its_folders_name(config: Any):
    assert config.name == "shufflenet_cam_explain"
    assert (KSERVE / "models" / config.name / "config.pbtxt").is_file()
    assert config.backend == "onnxruntime"
    limit = yaml.safe_load((KSERVE / "onnx.yaml").read_text(encoding="utf-8"))
    cpus = limit["spec"]["predictor"]["model"]["resources"]["limits"]["cpu"]
    assert config.parameters["intra_op_thread_count"].string_value == cpus
