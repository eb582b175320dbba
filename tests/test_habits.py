"""Habits of the whole project: what is checked before a commit, and how large records are made."""

import ast
import subprocess
from collections.abc import Iterator

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


def dataclasses() -> Iterator[tuple[str, str, int]]:
    """Place, decorator and number of fields of each of the project's dataclasses."""
    for folder in ("handler", "export", "deploy", "examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    for decorator in map(ast.unparse, node.decorator_list):
                        if decorator.partition("(")[0] in ("dataclass", "dataclasses.dataclass"):
                            fields = sum(isinstance(statement, ast.AnnAssign) for statement in node.body)
                            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", decorator, fields


def test_a_dataclass_of_more_than_three_fields_is_made_by_their_names():
    large = [(place, decorator) for place, decorator, fields in dataclasses() if fields > 3]
    assert {place.partition("/")[0] for place, _ in large} == {"handler", "export", "deploy", "examples", "benchmarks"}
    assert [place for place, decorator in large if "kw_only=True" not in decorator] == []
