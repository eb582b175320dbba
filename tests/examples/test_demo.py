"""``make demo`` as a newcomer runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from PIL import Image

from tests.support.checkout import linked_checkout
from tests.support.serving import CHECKPOINT, ROOT


@pytest.mark.server
def test_make_demo_says_what_it_does_and_writes_what_it_says(tmp_path):
    checkout = linked_checkout(tmp_path)
    users = checkout / "model_store/shufflenet_cam.mar"
    users.write_bytes(b"the archive of a fine-tuned network")
    command = ["make", "demo", "-o", ".venv/.ready", f"PY={sys.executable}"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("wrote out/demo/store/shufflenet_cam.mar", "starting TorchServe", "ready:", "stopping the server"):
        assert said in done.stdout
    assert users.read_bytes() == b"the archive of a fine-tuned network"
    written = [word.strip(",") for word in done.stdout.split() if word.startswith("out/demo/")]
    assert len(written) >= 13
    for name in written:
        if name.endswith(".png"):
            Image.open(checkout / name).verify()
    answer = json.loads((checkout / "out/demo/two.json").read_text(encoding="utf-8"))
    assert [one["target"]["label"] for one in answer["explanations"]] == ["heart", "arrow"]


@pytest.mark.parametrize("target", ["demo", "demo-photo", "fuzz", "load", "soak", "soak-10", "faults", "bench", "zoo"])
def test_a_demo_or_a_benchmark_packs_into_a_store_of_its_own(target):
    command = ["make", "-n", target, "-o", ".venv/.ready"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packed = [line for line in said.splitlines() if "export archive" in line]
    assert all("--store out/" in line for line in packed)
    assert bool(packed) == (target not in ("bench", "zoo"))
    assert "model_store" not in said


@pytest.mark.server
@pytest.mark.parametrize("last", ["starting TorchServe", "ready:"])
def test_ctrl_c_ends_the_demo_in_one_line_and_the_server_with_it(shapes_archive, tmp_path, last):
    """The signal goes to the whole process group, as a terminal sends it."""
    checkout = linked_checkout(tmp_path)
    shutil.copy(shapes_archive, checkout / "model_store" / "interrupted.mar")
    command = [sys.executable, "-u", "-m", "examples.demo", "--model", "interrupted", "--store", "model_store"]
    with subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert any(last in line for line in demo.stdout)
        below = psutil.Process(demo.pid).children(recursive=True)
        os.killpg(demo.pid, signal.SIGINT)
        said = demo.stderr.read()
    assert demo.returncode == 130
    assert said == "interrupted: the server is stopped\n"
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    served = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert not any("interrupted=interrupted.mar" in command for command in served)


@pytest.mark.parametrize("command", ["examples.finetune", "tests.zoo", "export"])
def test_ctrl_c_while_pytorch_is_loaded_is_one_line(tmp_path, command):
    arguments = {
        "examples.finetune": [str(tmp_path)],
        "tests.zoo": ["alexnet", "--folder", str(tmp_path)],
        "export": ["archive", "--checkpoint", str(CHECKPOINT), "--store", str(tmp_path)],
    }
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", command, *arguments[command]],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert any("torch" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode in (130, -signal.SIGINT)  # a shell calls both 130
    assert [line.partition(":")[0] for line in said] == ["interrupted"]
