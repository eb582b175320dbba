"""An archive is signed as the documentation says, by the commands that stand there."""

import shlex
import subprocess

import pytest

from tests.support.pages import blocks
from tests.support.serving import ROOT

ARCHIVE = "model_store/shufflenet_cam.mar"


@pytest.fixture
def commands():
    (block,) = [block for block in blocks("bash") if "openssl genpkey" in block.text]
    *keys, archive, verify = block.commands
    dry = ["make", "--dry-run", "--no-print-directory", "-o", ".venv/.ready", *shlex.split(archive)[1:]]
    sign = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return [*keys, sign], verify


def test_an_archive_is_signed_and_a_changed_one_is_found_out(tmp_path, commands):
    making, verify = commands
    (tmp_path / "model_store").mkdir()
    (tmp_path / ARCHIVE).write_bytes(b"an archive")
    for command in making:
        subprocess.run(shlex.split(command), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / f"{ARCHIVE}.sig").stat().st_size == 64
    assert subprocess.run(shlex.split(verify), cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / ARCHIVE).write_bytes(b"another archive")
    assert subprocess.run(shlex.split(verify), cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_nothing_is_signed_unasked():
    dry = ["make", "--dry-run", "--no-print-directory", "-o", ".venv/.ready", "archive"]
    assert "openssl" not in subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
