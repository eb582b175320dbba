"""What is checked before a commit is what CI checks."""

import subprocess

import yaml

from tests.support.serving import ROOT


def test_the_hooks_of_pre_commit_are_what_make_check_runs():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = [hook["entry"] for hook in local["hooks"]]
    shown = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = [line for line in shown.stdout.splitlines() if line.startswith(".venv/bin/")]
    assert [entry for entry in hooks if entry != "make docs"] == commands
    assert "mkdocs build --strict" in shown.stdout
