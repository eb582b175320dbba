"""The README's commands and code, run as they stand, against a server on other ports."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

from export.__main__ import main
from export.graphs.prediction import export_prediction
from handler.model.sources import load_classifier
from tests.support.serving import CHECKPOINT, ROOT, serving

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def files() -> dict[str, str]:
    """The blocks of Python that are files: their first line is a comment that names them."""
    named = {re.match(r"# (\w+\.py)\n", code): code for code in blocks("python")}
    return {name[1]: code for name, code in named.items() if name}


def commands(program: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith(program)]


def run(command: list[str], **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_every_make_command_is_known_to_make():
    targets = {shlex.split(command)[1] for command in commands("make ")}
    assert {"demo", "test", "archive", "serve", "stop"} <= targets
    for command in commands("make "):
        done = run([*shlex.split(command), "--dry-run", "-o", ".venv/.ready"])
        assert done.returncode == 0, (command, done.stderr)


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


@pytest.mark.server
def test_the_curl_commands_are_answered(tmp_path, shapes_archive):
    shutil.copy(shapes_archive, tmp_path / "shufflenet_cam.mar")
    asked = commands("curl ") + commands("echo ")
    assert len(asked) >= 5
    with serving(tmp_path, "shufflenet_cam", tmp_path / "logs") as client:
        for command in asked:
            assert "localhost:8080" in command
            local = command.replace("localhost:8080", client.server.address).replace(
                "sheet.png", f"{tmp_path}/sheet.png"
            )
            done = run(["bash", "-c", f"{local} --silent --show-error --fail-with-body"])
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        for code in [code for code in blocks("python") if "localhost:7070" in code]:
            port = client.server.properties["grpc_inference_port"]
            done = run([sys.executable, "-c", code.replace("localhost:7070", f"127.0.0.1:{port}")])
            assert done.returncode == 0, done.stderr
            assert '"label": "star"' in done.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_python_code_runs_and_the_export_commands_too(shapes_graphs, tmp_path):
    model = ROOT / "model_store" / "shufflenet_cam.onnx"
    export_prediction(load_classifier(checkpoint=CHECKPOINT), model)
    shutil.copy(shapes_graphs / "model.explain.onnx", model.with_suffix(".explain.onnx"))
    for code in [code for code in blocks("python") if code not in files().values() and "localhost" not in code]:
        done = run([sys.executable, "-c", code])
        assert done.returncode == 0, done.stderr
        assert "star" in done.stdout
    (command,) = commands(".venv/bin/python -m export predict")
    done = run([sys.executable, *shlex.split(command)[1:]])
    assert done.returncode == 0, done.stderr
    assert "star" in done.stdout
    (command,) = commands(".venv/bin/python -m export explain")
    done = run([sys.executable, *shlex.split(command)[1:], "--out", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.explained.png").is_file()


def test_the_network_of_ones_own_is_packed_as_it_stands(tmp_path, importable):
    code = files()["mynet.py"]
    assert len([line for line in code.splitlines() if line]) <= 10
    (importable / "mynet.py").write_text(code, encoding="utf-8")
    torch.save(importlib.import_module("mynet").network(3).state_dict(), tmp_path / "mynet.pth")
    (command,) = [one for one in commands("make archive") if "mynet:network" in one]
    quietly = ["--dry-run", "--no-print-directory", "-o", ".venv/.ready"]
    dry = [*shlex.split(command), f"CHECKPOINT={tmp_path}/mynet.pth", *quietly]
    packed = run(dry).stdout
    arguments = shlex.split(packed[packed.index("-m export") :])[2:]
    assert main([*arguments, "--store", str(tmp_path)]) == 0
    with zipfile.ZipFile(tmp_path / "network.mar") as archive:
        assert archive.read("mynet.py").decode() == code
        assert "model.explain.onnx" in archive.namelist()


def test_every_file_that_the_readme_points_to_exists():
    pointed = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert pointed[0] == "docs/photo.png"
    assert "docs/demo.png" in pointed
    assert all((ROOT / path).is_file() for path in pointed)
    anchors = {re.sub(r"[^a-z- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in README.splitlines()}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_every_module_stands_in_the_code_map():
    for folder in ("handler", "export"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name.startswith("__") or f"`{path.name}`" in README, path
