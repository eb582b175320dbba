"""The commands and the code of README.md and of all pages, run as they stand, against a server on other ports."""

import importlib
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import handler
from deploy.devices.pictures import take_pictures
from deploy.local_server import read_properties, with_free_ports
from examples.finetune.options import make_parser
from export.__main__ import _parser, main
from export.tracing.backward_rules import _RULES, aten
from handler.explanation.methods import METHODS
from tests.export.tracing.test_backward_rules import assert_equal, pictures
from tests.support.checkout import linked_checkout
from tests.support.pages import ALL, Block, blocks, file_block
from tests.support.serving import ROOT

QUIETLY = ["-o", ".venv/.ready", "-o", ".venv-kserve/.ready", "--no-print-directory"]

# Commands that are not run here as they stand, and why; "…" stands for what else is in them. What can be checked
# without running them is checked: targets, options, paths. Where another test runs them, it is named.
NOT_RUN = {
    "tests/deploy/test_devices_numbers.py makes such graphs of smaller networks": [
        *("make gradcam QUANTIZE=int8", "make explanation HALF=1"),
        ".venv/bin/python -m export verify model_store/shufflenet_cam.gradcam.int8.onnx…",
    ],
    "they start and stop the tests' own server, see the fixture": ["make serve…", "make stop"],
    "tests/examples/test_demo.py runs and checks it": ["make demo", "make archive"],
    "tests/examples/test_efficientnet_lite0.py runs and checks it": [
        *("make demo-photo", "make archive ARCH=examples.efficientnet_lite0.network:efficientnet_lite0"),
    ],
    "test_the_network_of_ones_own_is_packed_as_it_stands": ["make archive ARCH=mynet:network CHECKPOINT=mynet.pth"],
    "torchvision, timm and transformers would download weights": [
        *("make archive MODEL=resnet18 WEIGHTS=DEFAULT", "make finetune DATA=data…"),
        *("make archive MODEL=timm/resnet50d.a1_in1k", "make archive MODEL=hf/microsoft/resnet-50"),
    ],
    "tests/handler/model/test_timm_networks.py and test_huggingface_networks.py read such folders": [
        *("make archive MODEL=timm/local-dir:models/mine", "make archive MODEL=hf/models/mine"),
    ],
    "tests/examples/test_node.py and tests/examples/test_browser.py run the package of such a folder": [
        *("npm install…", "node examples/node/explain.js…", "python -m http.server…"),
    ],
    "tests/deploy/test_signing.py runs them": ["openssl…", "make archive SIGN=key.pem"],
    "they take a reader's own files": [
        "make archive ONNX=model.onnx LABELS=labels.txt PREPROCESS=…",
        "make archive MODEL=resnet18 CHECKPOINT=mine.pth LABELS=labels.txt",
        "make archive MODEL=resnet18 CHECKPOINT=grey.pth LABELS=labels.txt CHANNELS=1 PREPROCESS=…",
        "make archive ARCH=package.bands:network CHECKPOINT=bands.pth INPUT=384x192 CHANNELS=4 PREPROCESS=…",
        "make archive MODEL=timm/resnet50d CHECKPOINT=mine.pth LABELS=labels.txt",
        "make archive MODEL=resnet50 CHECKPOINT=mine.pth LABELS=labels.txt PREPROCESS=…",
        "make archive MODEL=googlenet CHECKPOINT=scratch.pth LABELS=labels.txt TRANSFORM_INPUT=0",
        "make archive CHECKPOINT=out/finetune/best.safetensors LABELS=out/finetune/labels.txt",
    ],
    "they would build the environment that runs this test, or run it": [
        *("make setup", "make check", "make test", ".venv/bin/pytest tests/handler/explanation/test_gradient_cams.py"),
    ],
    "they take from minutes to hours": [
        *("make zoo…", "make soundness…", "make train", "make bench…"),
        *("make load…", "make faults", "make soak-10", "make soak", "make fuzz", "make images…"),
    ],
    "tests/export/graphs/test_explanation.py exports it": ["make explanation"],
    "tests/deploy/test_pictures.py exports such graphs": ["make gradcam PICTURES=1"],
    "tests/export/graphs/test_portable.py exports such graphs": ["make explanation PORTABLE=1 FIXED_BATCH=1"],
    "tests/deploy/test_kserve_manifests.py compares that graph with its description": [
        "mkdir -p deploy/kserve/models/…",
        "cp model_store/…",
    ],
    "tests/deploy/test_bulk.py runs them": ["shufflenet-cam bulk…", "shufflenet-cam report…"],
    "they serve until they are stopped": ["shufflenet-cam serve…"],
    "there is no container runtime; `make images` builds and runs the same files": [
        "docker build…",
        "docker run…",
        "docker push…",
    ],
    "there is no cluster; tests/deploy/test_manifests.py renders what is applied": [
        "kubectl apply…",
        "kubectl rollout status…",
    ],
}
RUN = ("make help", ".venv/bin/python -m ")  # see test_the_commands_without_a_server
SAID = {  # by these
    "make help": "make TARGET",
    " --help": "usage: python -m",
    "export predict": "star",
    "export explain": "one.explained.png",
    "export replay": "the answer is equal",
    "export report": "index.html",
    "export verify": "the graph equals PyTorch",
    "export devices": "webgpu ",
}
FILES = {"mynet.py", "front.py"}  # blocks of Python that are files
NEW = ("gradcam_magnitude", "softshrink_backward")  # and those that add something to the project
COMPARED_ELSEWHERE = {"docs/DEPLOYING.md": "tests/deploy/test_deploying.py"}  # blocks without a language


def run(command: list[str], **options):
    return subprocess.run(command, **{"cwd": ROOT, **options}, capture_output=True, text=True, check=False)


def place(block: Block) -> str:
    return f"{block.page.name}-{block.number}"


def with_commands() -> list[Block]:
    return blocks("bash")


def asks(block: Block) -> bool:
    """Whether a block's commands are for a running server."""
    return "localhost:80" in block.text and not is_front(block) and not is_by_hand(block)


def stands_alone(block: Block) -> bool:
    """Whether a block of Python does all by itself."""
    return not (block.file or "localhost:7070" in block.text or any(f"def {name}(" in block.text for name in NEW))


def is_front(block: Block) -> bool:
    return "front.py" in block.text


def is_by_hand(block: Block) -> bool:
    return "torchserve --start" in block.text


def not_run(command: str) -> set[str]:
    """The entries of the table that stand for a command; none for a command that is run."""
    entries = [entry for entries in NOT_RUN.values() for entry in entries]
    return {one for one in entries if command == one or (one[-1] == "…" and command.startswith(one[:-1]))}


def test_no_block_is_left_out():
    for block in (block for one in ALL for block in one.blocks):
        if block.language == "bash":
            left = [] if asks(block) or is_front(block) or is_by_hand(block) else block.commands
            assert all(not_run(command) or command.startswith(RUN) for command in left), block
        elif block.language == "json":
            before = block.page.blocks[block.number - 1]
            assert before.language == "bash"
            assert asks(before)
        elif block.language == "python":
            assert block.file is None or block.file in FILES, block
        else:
            assert block.language == "", block
            assert block.page.name in COMPARED_ELSEWHERE
    used = {entry for block in with_commands() for command in block.commands for entry in not_run(command)}
    assert used == {entry for entries in NOT_RUN.values() for entry in entries}


def test_the_tests_that_the_table_names_exist():
    named = {file for reason in NOT_RUN for file in re.findall(r"tests/[\w/]+\.py", reason)}
    assert len(named) >= 5
    assert all((ROOT / file).is_file() for file in {*named, *COMPARED_ELSEWHERE.values()})


def make_commands() -> list[str]:
    return [command for block in with_commands() for command in block.commands if command.startswith("make ")]


def test_every_make_command_is_known_to_make_and_to_the_programs_that_it_starts():
    assert len(make_commands()) >= 30
    for command in dict.fromkeys(make_commands()):
        done = run([*shlex.split(command), "--dry-run", *QUIETLY])
        assert done.returncode == 0, (command, done.stderr)
        for line in done.stdout.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[1:3] == ["-m", "export"]:
                _parser().parse_args(words[3:])
            elif words[1:3] == ["-m", "examples.finetune"]:
                make_parser("").parse_args(words[3:])


def test_paths_in_commands_that_are_not_run_exist():
    for command in (command for block in with_commands() for command in block.commands):
        if command.startswith(("docker build", "kubectl apply")):
            for path in re.findall(r"(?<= )deploy/\S+", command):
                assert (ROOT / path).exists(), command
        if command.startswith("kubectl rollout"):
            kind, _, name = command.split()[-1].partition("/")
            manifest = (ROOT / f"deploy/kubernetes/base/{kind}.yaml").read_text(encoding="utf-8")
            assert re.search(rf"^  name: {name}$", manifest, re.MULTILINE)
        for path in re.findall(r"tests/[\w/]+\.py", command):
            assert (ROOT / path).is_file(), command


def test_what_make_is_told_of_pictures_reaches_the_exports_as_one_text():
    said = "resize = 256 crop=224  mean=0.5, 0.5,0.5"
    for target in ("archive", "export", "explanation", "gradcam"):
        command = ["make", target, f"PREPROCESS={said}", "TRANSFORM_INPUT=0", "--dry-run", "-o", ".venv/.ready"]
        arguments = shlex.split(run(command).stdout)
        assert arguments[arguments.index("--preprocess") + 1] == said
        assert arguments[arguments.index("--transform-input") + 1] == "0"
    assert "--preprocess" not in run(["make", "archive", "PREPROCESS= ", "--dry-run", "-o", ".venv/.ready"]).stdout
    assert "PREPROCESS='resize=" in run(["make", "help"]).stdout


def test_every_target_is_listed_by_make_help():
    listed = run(["make", "help"]).stdout
    phony = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert phony
    for target in phony[1].split():
        assert re.search(rf"^  {target}\s", listed, re.MULTILINE), target


@pytest.fixture(scope="module")
def settings(tmp_path_factory, shapes_archive):
    """A ``config.properties`` with free ports, whose model store holds the embedded model."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(shapes_archive, folder / "shufflenet_cam.mar")
    values = {**with_free_ports(read_properties(ROOT / "config.properties")), "model_store": str(folder)}
    (folder / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return folder / "config.properties"


@pytest.fixture(scope="module")
def server(settings):
    """Started and stopped as the pages say, for all of them once."""
    command = [f"CONFIG={settings}", f"PY={sys.executable}", *QUIETLY]
    started = run(["make", "serve", *command])
    assert started.returncode == 0, started.stderr
    assert "ready: curl -F data=@examples/shapes/one.jpg" in started.stdout
    yield read_properties(settings)
    stopped = run(["make", "stop", *command])
    assert stopped.stdout.splitlines()[-1] == "stopped"


def elsewhere(text: str, properties: dict[str, str], folder: Path) -> str:
    """The same commands or code for a server on other ports; what they write goes to a folder."""
    for port, key in {8080: "inference", 8081: "management", 8082: "metrics"}.items():
        text = text.replace(f"localhost:{port}", properties[f"{key}_address"])
    text = text.replace("localhost:7070", f"127.0.0.1:{properties['grpc_inference_port']}")
    return re.sub(r"-o (?=\w)", f"-o {folder}/", text)


# tells the status of each answer beside what it says, and ends each
CURL = (
    'curl() { command curl --silent --show-error --write-out "%{stderr}status %{http_code}\\n" "$@"; printf "\\0"; }\n'
)
STAR, SIDE = ("star", {}), 320  # what is in the picture, pixels that the network sees
# what else is answered than the page shows, in the order of the commands
ANSWERED = {
    "README.md-1": [
        STAR,
        (4 * SIDE + 40, 2 * 429),  # two targets with three maps each, behind the picture
        ("heart", {"heart": ["gradcam"]}),
    ],
    "docs/API.md-0": [STAR] * 5,
    "docs/API.md-2": [
        ("heart", {"heart": ["gradcam"], "arrow": ["gradcam"]}),
        (4 * SIDE + 40, 429),
    ],
    "docs/API.md-3": [("heart", {"heart": ["gradcam", "guided_backprop"], "arrow": ["gradcam", "guided_backprop"]})],
    "docs/API.md-6": [("heart", {"heart": ["gradcam"]})],
    "docs/API.md-8": ["BadRequest"],
    "docs/API.md-10": ["ready", "shufflenet_cam"],
    "docs/OPERATING.md-2": ["ready"],
    "docs/OPERATING.md-3": [("heart", {"heart": ["gradcam", "guided_backprop", "guided_gradcam"]})],
    "docs/OPERATING.md-4": ["metrics"],
}


def told(answer: bytes) -> object:
    """An answer in few words: its best class and each target's maps, a sheet's size, an error, a probe, a model."""
    if answer.startswith(b"\x89PNG"):
        return Image.open(io.BytesIO(answer)).size
    if b"# TYPE ts_inference_requests_total counter" in answer:
        return "metrics"
    content = json.loads(answer)
    if isinstance(content, list):
        return content[0]["modelName"]
    if "outputs" in content:  # V2's
        content = json.loads(content["outputs"][0]["data"][0])
    if "image" not in content and "predictions" in content:  # V1's
        content = content["predictions"][0]
    if "predictions" not in content:
        return content.get("type") or content["status"]
    maps = {one["target"]["label"]: list(one["maps"]) for one in content["explanations"]}
    return content["predictions"][0]["label"], maps


@pytest.mark.server
@pytest.mark.parametrize("block", [one for one in blocks("bash") if asks(one)], ids=place)
def test_what_the_server_is_asked_is_answered_as_shown(server, tmp_path, block):
    kept = [line for line in block.text.splitlines() if not line.startswith("make ")]
    script = "set -e\n" + CURL + elsewhere("\n".join(kept), server, tmp_path)
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = [line for line in kept if "curl " in line]
    files = [re.search(r" -o (\S+)", line) for line in commands]
    answers = [
        (tmp_path / file[1]).read_bytes() if file else said
        for file, said in zip(files, done.stdout.split(b"\0")[:-1], strict=True)
    ]
    shown = json.loads(block.answer.text) if block.answer else {}
    assert done.stderr.decode().splitlines() == [f"status {shown.get('code', 200)}"] * len(commands)
    assert [told(one) for one in answers] == ANSWERED[f"{block.page.name}-{block.number}"]
    if shown:
        assert_like(shown, json.loads(answers[0]))


def assert_like(shown, actual, where=""):
    """What a page shows of an answer; ``…`` ends texts and lists that go on, times are only named."""
    if isinstance(shown, dict):
        goes_on = "…" in shown  # as its last key
        assert list(shown)[: -1 if goes_on else None] == list(actual)[: len(shown) - 1 if goes_on else None], where
        for key, value in shown.items():
            if key not in ("timings_ms", "…"):
                assert_like(value, actual[key], f"{where}.{key}")
        assert list(shown.get("timings_ms", {})) == list(actual.get("timings_ms", {}) if "timings_ms" in shown else {})
    elif isinstance(shown, list):
        goes_on = shown[-1:] == ["…"]
        assert len(actual) > len(shown) - 1 if goes_on else len(actual) == len(shown), where
        for number, value in enumerate(shown[:-1] if goes_on else shown):
            assert_like(value, actual[number], f"{where}[{number}]")
    elif isinstance(shown, str) and shown.endswith("…"):
        assert actual.startswith(shown[:-1]), where
    elif isinstance(shown, float):
        digits = len(str(shown).partition(".")[2])
        assert math.isclose(shown, actual, abs_tol=0.51 * 10**-digits), (where, actual)
    else:
        assert shown == actual, where


def test_what_is_shown_is_held_to_what_is_answered():
    answer = {"a": [1, 2.345, "abc"], "timings_ms": {"decode": 1.0}}
    assert_like({"a": [1, 2.35, "a…"], "timings_ms": {"decode": 7.0}}, answer)
    assert_like({"a": [1, "…"], "timings_ms": {"decode": 7.0}}, answer)
    assert_like({"a": [1, "…"], "…": "…"}, answer)
    for wrong in ([1, 2.36, "abc"], [1, 2.345, "b…"], [1, 2.345], [2, "…"]):
        with pytest.raises(AssertionError):
            assert_like({"a": wrong, "timings_ms": {"decode": 1.0}}, answer)
    for wrong in (
        {"a": [1, "…"], "timings_ms": {}},
        {"timings_ms": {"decode": 7.0}, "…": "…"},
        {"a": [2, "…"], "…": "…"},
    ):
        with pytest.raises(AssertionError):
            assert_like(wrong, answer)


@pytest.mark.server
def test_grpc_is_answered(server, tmp_path):
    (block,) = [block for block in blocks("python") if "localhost:7070" in block.text]
    done = run([sys.executable, "-c", elsewhere(block.text, server, tmp_path)])
    assert done.returncode == 0, done.stderr
    assert '"label": "star"' in done.stdout


@pytest.mark.server
def test_torchserve_is_started_and_stopped_by_hand(settings, tmp_path):
    (block,) = [block for block in with_commands() if is_by_hand(block)]
    own = tmp_path / "config.properties"
    values = with_free_ports(read_properties(settings))
    own.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    script = block.text.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace("config.properties", str(own))
    probe = f"{values['inference_address']}/predictions/shapes/1.0/healthz"  # the name in the archive
    stop = script.splitlines()[-1]
    assert stop.endswith("torchserve --stop")
    waits = f"trap '{stop}' EXIT\ntimeout 120 bash -c 'until curl -sf {probe}; do sleep 0.3; done'\nls $TEMP/models\n"
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:  # short, as the paths of sockets must be
        environment = os.environ | {"TMPDIR": folder, "LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
        done = run(["bash", "-ec", script.replace(stop, waits)], env=environment)
        assert done.returncode == 0, done.stderr
        assert '"status": "ready"' in done.stdout
        assert "TorchServe has stopped" in done.stdout
        (unpacked,) = Path(folder).iterdir()  # all that it wrote is in the folder that it was given
        assert unpacked.name.startswith("tmp.")


@pytest.mark.server
def test_the_front_of_the_standard_library_answers(tmp_path, shapes_archive, settings):
    (tmp_path / "front.py").write_text(file_block("front.py").text, encoding="utf-8")
    (block,) = [block for block in with_commands() if is_front(block)]
    port = with_free_ports(read_properties(settings))["grpc_inference_port"]
    script = block.text.replace("front.py", f"{tmp_path}/front.py").replace("8090", port)
    script = script.replace("model_store/shufflenet_cam.mar", str(shapes_archive)).replace("out/", f"{tmp_path}/")
    script = script.replace(".venv/bin/python", sys.executable)
    here = os.environ | {"PYTHONPATH": str(ROOT)}  # where a reader's front.py would lie
    done = run(["bash", "-ec", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + script], env=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["label"] == "star"


@pytest.fixture(scope="module")
def checkout(shapes_archive, whole_graphs, tmp_path_factory):
    """With the files where the pages have them: what `make archive export explanation` writes, and an answer."""
    folder = linked_checkout(tmp_path_factory.mktemp("checkout"))
    shutil.copy(whole_graphs / "model.onnx", folder / "model_store/shufflenet_cam.onnx")
    shutil.copy(whole_graphs / "model.explain.onnx", folder / "model_store/shufflenet_cam.explain.onnx")
    gradcam, how = whole_graphs / "model.gradcam.onnx", handler.load(whole_graphs / "model.onnx").card.preprocessing
    onnx.save(take_pictures(onnx.load(gradcam), how), folder / "model_store/shufflenet_cam.pictures.gradcam.onnx")
    shutil.copy(shapes_archive, folder / "model_store/shufflenet_cam.mar")
    answer = handler.load(shapes_archive).explain(ROOT / "examples/shapes/two.jpg", target=["heart", "arrow"]).to_dict()
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "block",
    [one for one in blocks("python") if stands_alone(one)],
    ids=place,
)
def test_the_python_code_runs_and_prints_what_is_said_behind_it(checkout, block):
    done = run([sys.executable, "-c", block.text], cwd=checkout)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^print\(.*\)  # (.*)$", block.text, re.MULTILINE)
    assert done.stdout.splitlines() == said != []


def test_the_commands_without_a_server(checkout):
    left = [block for block in with_commands() if not (asks(block) or is_front(block) or is_by_hand(block))]
    said = [command for block in left for command in block.commands]
    found = [command for command in said if command.startswith(RUN) and not not_run(command)]
    assert len(found) >= 5
    for command in dict.fromkeys(found):
        words = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(command)]
        done = run(words, cwd=checkout)
        assert done.returncode == 0, (command, done.stderr)
        (said,) = [text for part, text in SAID.items() if part in command]
        assert said in done.stdout, command
    assert (checkout / "out/one.explained.png").is_file()
    gallery = (checkout / "out/report/index.html").read_text(encoding="utf-8")
    assert 0 < gallery.index("two.jpg") < gallery.index("one.jpg")


def new_code(name: str) -> dict[str, object]:
    """What the block of CONTRIBUTING.md defines that has the name in it."""
    (block,) = [block for block in blocks("python") if f"def {name}(" in block.text]
    defined: dict[str, object] = {}
    exec(compile(block.text, str(block), "exec"), defined)
    return defined


def absent(registry: dict, key: object, monkeypatch) -> None:
    """Lets a registry forget what is registered under the key, now and after the test."""
    monkeypatch.setitem(registry, key, None)
    del registry[key]


def test_the_new_map_method_is_a_method(monkeypatch):
    absent(METHODS, "gradcam_magnitude", monkeypatch)
    new_code("gradcam_magnitude")
    new = METHODS["gradcam_magnitude"]
    assert new.summary.startswith("Grad-CAM's magnitude")
    activation, gradient = torch.randn(2, 2, 16, 5, 7, generator=torch.Generator().manual_seed(0))
    maps = new.formula(activation.numpy(), gradient.numpy())
    torch.testing.assert_close(new.formula(activation, gradient), torch.from_numpy(maps))
    plain, against = (METHODS["gradcam"].formula(activation, sign * gradient) for sign in (1, -1))
    torch.testing.assert_close(torch.from_numpy(maps), plain + against)


def test_the_new_backward_rule_is_autograds(monkeypatch):
    operator = aten.softshrink_backward.default
    corners = torch.tensor([-0.6, -0.5, 0.0, 0.5, 0.6], dtype=torch.float64)
    absent(_RULES, operator, monkeypatch)
    with pytest.raises(AssertionError, match="softshrink_backward"):
        assert_equal(F.softshrink, corners)
    new_code("softshrink_backward")
    assert_equal(F.softshrink, corners)
    assert_equal(F.softshrink, pictures(3, 50))


def test_the_network_of_ones_own_is_packed_as_it_stands(tmp_path, importable):
    code = file_block("mynet.py").text
    assert len([line for line in code.splitlines() if line]) <= 10
    (importable / "mynet.py").write_text(code, encoding="utf-8")
    torch.save(importlib.import_module("mynet").network(3).state_dict(), tmp_path / "mynet.pth")
    commands = {one for one in make_commands() if one.startswith("make archive ARCH=mynet:network")}
    (command,) = commands
    dry = [*shlex.split(command), f"CHECKPOINT={tmp_path}/mynet.pth", "--dry-run", *QUIETLY]
    packed = run(dry).stdout
    arguments = shlex.split(packed[packed.index("-m export") :])[2:]
    assert main([*arguments, "--store", str(tmp_path)]) == 0
    with zipfile.ZipFile(tmp_path / "network.mar") as archive:
        assert archive.read("mynet.py").decode() == code
        assert "model.explain.onnx" in archive.namelist()
