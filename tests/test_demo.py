"""``make demo`` as a newcomer runs it."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.serving import ROOT


@pytest.mark.server
def test_make_demo_says_what_it_does_and_writes_what_it_says():
    command = ["make", "demo", "-o", ".venv/.ready", f"PY={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in ("wrote model_store/shufflenet_cam.mar", "starting TorchServe", "ready:", "stopping the server"):
        assert said in done.stdout
    written = [word.strip(",") for word in done.stdout.split() if word.startswith("out/demo/")]
    assert len(written) >= 13
    for name in written:
        if name.endswith(".png"):
            Image.open(ROOT / name).verify()
    answer = json.loads((ROOT / "out/demo/two.json").read_text(encoding="utf-8"))
    assert [one["target"]["label"] for one in answer["explanations"]] == ["heart", "arrow"]
